"""Bodies of requests, and the errors where one cannot be received."""

import asyncio
import errno
import os
import resource
import subprocess
import sys

import pytest
from django.http import HttpResponse

from resilient_site.edge import request_body, wsgi_bridge
from tests.resilient_site.edge.clients import ask, run
from tests.resilient_site.edge.views import now
from tests.running import ROOT

pytestmark = [pytest.mark.urls("tests.resilient_site.edge.views"), pytest.mark.once]


def sized(length: object, *more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    return [(b"content-length", b"%b" % str(length).encode()), *more]


@pytest.mark.parametrize("pieces", [[b""], [b"x"], [b"a", b"", b"bc"], [b"x" * 9] * 99])
def test_body_in_any_pieces_arrives_whole(pieces):
    length = sum(map(len, pieces))

    @run
    async def test():
        answer = await ask("/plain", "POST", sized(length), pieces)
        assert (answer.status, answer.body) == (200, str(length).encode())

    test()


@run
async def test_large_body_is_kept_on_disk():
    pieces = [b"x" * 100_000] * 50
    answer = await ask("/plain", "POST", sized(5_000_000), pieces)
    assert answer.status in (200, 400, 413)  # Django's own limit for the memory
    now.respond = lambda request: HttpResponse(str(len(request.read())))
    answer = await ask("/plain", "POST", sized(5_000_000), pieces)
    assert answer.body == b"5000000"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (sized(16 * 1024 * 1024 + 1), 413),
        (sized(10**15), 413),
        (sized("9" * 5_000), 413),  # more digits than int() takes
        ([(b"transfer-encoding", b"chunked")], 411),
    ],
)
def test_body_over_the_limit_is_rejected_unread(headers, status):
    @run
    async def test():
        pieces = [b"x"] * 1000
        answer = await ask("/plain", "POST", headers, pieces)
        assert (answer.status, now.asked) == (status, [])

    test()


@run
async def test_client_that_leaves_during_its_body_takes_no_thread():
    gone = asyncio.Event()
    asking = asyncio.create_task(ask("/plain", "POST", sized(9), [b"x", None], gone))
    await asyncio.sleep(0)
    assert not any(wsgi_bridge.admission.running.values())
    gone.set()
    assert ((await asking).status, now.asked) == (0, [])


@run
async def test_body_that_comes_too_slowly_is_408():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(request_body, "IDLE_S", 0.02)
        answer = await ask("/api/v1/x", "POST", sized(9), [b"x", None])
    assert (answer.status, answer.json()["code"]) == (408, "too_slow")
    assert now.asked == []


def test_full_disk_is_503():
    code = """
import asyncio, os, resource, sys
sys.path.insert(0, "")
os.environ["DJANGO_SETTINGS_MODULE"] = "resilient_site.settings"
from tests.resilient_site.edge.clients import ask
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
from resilient_site.edge.cache.invalidation import invalidations
assert invalidations.slots
async def main():
    # All but the last bytes fit, which Python has not written when all is received.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_200_000, hard))
    for length in (1_200_100, 3_000_000):
        pieces = [b"x" * 1_100_000] + [b"x" * 100] * ((length - 1_100_000) // 100)
        headers = [(b"content-length", b"%d" % length)]
        answer = await ask("/api/v1/items/", "POST", headers, pieces)
        assert (answer.status, answer.json()["code"]) == (503, "unavailable"), answer
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    os._exit(7)
asyncio.run(main())
"""
    environment = {
        name: os.environ[name] for name in ("PATH", "SECRET_KEY", "DATA_DIR")
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 7, done.stderr[-2000:]
    assert os.strerror(errno.EFBIG) in done.stderr + done.stdout
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
