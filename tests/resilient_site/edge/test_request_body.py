"""Bodies of requests, and the errors where one cannot be received."""

import asyncio

import pytest
from django.conf import settings
from django.http import HttpResponse

from resilient_site.edge import request_body, wsgi_bridge
from resilient_site.edge.request import EdgeRequest
from tests.resilient_site.edge.clients import ask, run
from tests.resilient_site.edge.views import now

pytestmark = [pytest.mark.urls("tests.resilient_site.edge.views"), pytest.mark.once]


def sized(length: object, *more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    return [(b"content-length", b"%b" % str(length).encode()), *more]


@pytest.mark.parametrize("pieces", [[b""], [b"x"], [b"a", b"", b"bc"], [b"x" * 9] * 99])
@run
async def test_body_in_any_pieces_arrives_whole(pieces):
    length = sum(map(len, pieces))

    answer = await ask("/plain", "POST", sized(length), pieces)
    assert (answer.status, answer.body) == (200, str(length).encode())


@run
async def test_large_body_is_kept_on_disk():
    pieces = [b"x" * 100_000] * 50
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
@run
async def test_body_over_the_limit_is_rejected_unread(headers, status):
    pieces = [b"x"] * 1000
    answer = await ask("/plain", "POST", headers, pieces)
    assert (answer.status, now.asked) == (status, [])


@pytest.mark.parametrize(
    ("path", "header", "accepted"),
    [
        ("/api/v1/jobs/", (b"authorization", b"Token x"), True),
        ("/api/v1/jobs", (b"cookie", b"a=b; sessionid=x"), True),
        ("/jobs/new/merge/", (b"cookie", b"sessionid=x"), True),
        ("/items/-/import/", (b"cookie", b"sessionid=x"), True),
        ("/items/-/import/", (b"cookie", b"csrftoken=x"), False),
        ("/api/v1/items/", (b"authorization", b"Token x"), False),
        ("/api/v1/jobs/", (b"accept", b"*/*"), False),
    ],
)
def test_large_body_is_received_only_where_files_are_uploaded(path, header, accepted):
    length, form = settings.IMPORT_MAX_BYTES, b"multipart/form-data; boundary=x"
    for more, kind, expected in (
        (0, form, accepted),
        (1, form, False),
        (0, b"application/json", False),
    ):
        size = (b"content-length", b"%d" % (length + more))
        headers = [header, size, (b"content-type", kind)]
        scope = {"path": path, "headers": headers, "method": "POST"}
        request = EdgeRequest(scope | {"query_string": b""})
        assert request_body._is_acceptable(request) == expected


@run
async def test_body_that_does_not_arrive_takes_no_thread():
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
