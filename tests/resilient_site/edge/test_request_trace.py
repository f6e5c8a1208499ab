"""How many project files a request passes through: a hit, a miss and an update.

Printed with `pytest -s`. A reader of the code has to follow a request through these
files: a bound goes up only for what another file does better.
"""

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from django.db import connection

from resilient_site.models import ApiToken
from tests.factories import make_item
from tests.resilient_site.edge.clients import ask, get, run
from tests.running import ROOT

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("no_connection_stays"),
    # Without the files that connect to PostgreSQL, which only the first request does.
    pytest.mark.skipif(
        connection.vendor != "sqlite", reason="for the embedded default"
    ),
]
ITEM = "/api/v1/items/bolt"
# An update is checked by permissions, the schema of its collection and other items.
HIT_FILES, MISS_FILES, UPDATE_FILES = 6, 31, 35
PACKAGES = tuple(f"{ROOT / name}/" for name in ("resilient_site", "items", "compute"))


@contextmanager
def traced(name: str) -> Iterator[set[str]]:
    """The files of the project of which functions are called.

    In the event loop and Django's threads: other tests may have left some at work.
    """
    files: set[str] = set()

    def record(frame: FrameType, event: str, _: Any) -> None:
        if not threading.current_thread().name.startswith(("MainThread", "django")):
            return
        code = frame.f_code
        is_ours = code.co_filename.startswith(PACKAGES) and "<" not in code.co_qualname
        if event == "call" and is_ours:
            files.add(str(Path(code.co_filename).relative_to(ROOT)))

    before = sys.getprofile()
    threading.setprofile_all_threads(record)
    try:
        yield files
    finally:
        threading.setprofile_all_threads(None)
        sys.setprofile(before)
    print(f"\n{name}: {len(files)} files", *sorted(files), sep="\n  ")


@pytest.fixture
def token(editor) -> str:
    make_item(id="bolt")
    make_item(id="nut")
    return f"Token {ApiToken.objects.create(user=editor)[1]}"


@run
async def test_request_passes_few_files(token):
    for name in ("Bolt", "Hex bolt"):  # so that everything has been loaded
        await get(ITEM)
        await update(name, token)
    # What is read within a millisecond of a change is not kept.
    while not (await get(ITEM)).is_hit:
        pass
    with traced("A read from the shared cache") as hit:
        assert (await get(ITEM)).is_hit
    with traced("The same by a client that says it has no body") as also_hit:
        assert (await get(ITEM, content_length="0")).is_hit
    with traced("A read that is not cached") as miss:
        assert (await get("/api/v1/items/nut")).status == 200
    with traced("An update by token") as change:
        assert await update("New", token) == 200
    assert len(also_hit) <= len(hit) <= HIT_FILES
    assert len(miss) <= MISS_FILES
    assert len(change) <= UPDATE_FILES


async def update(name: str, token: str) -> int:
    body = json.dumps({"name": name}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"authorization", token.encode()),
    ]
    return (await ask(ITEM, "PATCH", headers, [body])).status
