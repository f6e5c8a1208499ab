"""Keep a copy of the catalogue in an SQLite file: keep_a_copy.py SITE FILE

SITE is the address of the site, such as http://127.0.0.1:8000. A private site wants an
API token in the environment variable TOKEN. The program may be
stopped and started at any time: position and items are written in one transaction, so
that it resumes where it stopped. Of each item the highest version counts. After an
older backup was restored there it starts over: a newer version may be one that is lost.
"""

import json
import os
import shutil
import sqlite3
import sys
import tempfile
import time
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

API = sys.argv[1].rstrip("/") + "/api/v1/"
NOT_STATE = {"id", "version", "created_at", "updated_at"}
COPY = sqlite3.connect(sys.argv[2], isolation_level=None)
COPY.executescript("""
    PRAGMA journal_mode = WAL;
    PRAGMA secure_delete = ON;
    CREATE TABLE IF NOT EXISTS item (id TEXT PRIMARY KEY, version INTEGER, state TEXT);
    CREATE TABLE IF NOT EXISTS position (next TEXT);
""")


def get(address: str, **headers: str) -> Any:
    if token := os.environ.get("TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    return urlopen(Request(address, headers=headers), timeout=90)


def put(item_id: object, version: int, state: dict[str, Any] | None) -> None:
    """Store the newer version; of an item deleted or purged only its version."""
    COPY.execute(
        "INSERT INTO item VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE"
        " SET version = excluded.version, state = excluded.state"
        " WHERE excluded.version > version",
        (str(item_id), version, json.dumps(state) if state else None),
    )


def export() -> str:
    """Copy all items; return the position in the change feed before the copy."""
    position = json.load(get(API + "changes?since=now"))["next"]
    with tempfile.TemporaryFile() as lines:
        # Whole first: read by lines, a connection that breaks looks like the end.
        shutil.copyfileobj(get(API + "items/-/export?format=ndjson"), lines)
        lines.seek(0)
        for line in lines:
            item = json.loads(line)
            state = {name: item[name] for name in item.keys() - NOT_STATE}
            put(item["id"], item["version"], state)
    return str(position)


def update(*, starts_over: bool) -> None:
    """Take a page of changes, or all items anew, in one transaction.

    Readers of the copy see it as it was until that is whole.
    """
    row = COPY.execute("SELECT next FROM position").fetchone()
    page = json.load(get(row[0], Prefer="wait=30")) if row and not starts_over else None
    with COPY:
        COPY.execute("BEGIN")
        if page is None:
            COPY.execute("DELETE FROM item")
            position = export()
        else:
            for change in page["results"]:
                put(change["item_id"], change["version"], change["after"])
            position = page["next"]
        COPY.execute("DELETE FROM position")
        COPY.execute("INSERT INTO position VALUES (?)", [position])


starts_over = False
while True:
    try:
        update(starts_over=starts_over)
        starts_over = False
    except (OSError, HTTPException, ValueError) as error:
        print(error, file=sys.stderr)
        # The position holds no more (`epoch_changed`): an older backup was restored.
        starts_over |= isinstance(error, HTTPError) and error.code == 400
        time.sleep(1)
