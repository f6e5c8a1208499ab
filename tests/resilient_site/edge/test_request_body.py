"""Bodies of requests, and the errors where one cannot be received."""

import asyncio
import gzip
import random

import pytest
from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.test import Client

from resilient_site.edge import request_body, wsgi_bridge
from resilient_site.edge.admission import Quota
from resilient_site.edge.request import EdgeRequest
from resilient_site.models import ApiToken
from resilient_site.ratelimit.policies import override_policies
from tests.resilient_site.edge.clients import ask, becomes, elsewhere, run
from tests.resilient_site.edge.server import answer as read
from tests.resilient_site.edge.server import served
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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(request_body, "IN_MEMORY_BYTES", 1000)
        answer = await ask("/plain", "POST", sized(1_000_000), pieces[:10])
    assert answer.body == b"1000000"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (sized(16 * 1024 * 1024 + 1), 413),
        (sized(10**15), 413),
        (sized("9" * 5_000), 413),  # more digits than int() takes
        (sized(1024 * 1024 + 1), 413),
    ],
)
@run
async def test_body_over_the_limit_is_rejected_unread(headers, status):
    pieces = [b"x"] * 1000
    answer = await ask("/plain", "POST", headers, pieces)
    assert (answer.status, now.asked) == (status, [])


@pytest.mark.parametrize(
    ("path", "is_upload"),
    [
        ("/api/v1/jobs/", True),
        ("/jobs/new/merge/", True),
        ("/items/-/import/", True),
        ("/api/v1/items/", False),
    ],
)
def test_large_body_is_received_only_where_files_are_uploaded(path, is_upload):
    for kind, largest in (
        (
            b"multipart/form-data; boundary=x",
            settings.IMPORT_MAX_BYTES if is_upload else settings.MAX_BODY_BYTES,
        ),
        (b"application/json", settings.MAX_BODY_BYTES),
    ):
        scope = {"path": path, "headers": [(b"content-type", kind)], "method": "POST"}
        request = EdgeRequest(scope | {"query_string": b""})
        body = request_body.Body(request, wsgi_bridge.admission, None)
        assert body.largest == largest
        body.close()


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


async def post(
    path: str, pieces: list[bytes], *headers: tuple[bytes, bytes], **kwargs: object
):
    return await ask(path, "POST", list(headers), pieces, **kwargs)


CHUNKED = (b"transfer-encoding", b"chunked")
GZIP = (b"content-encoding", b"gzip")
MIB = 1024 * 1024


def echo(request: HttpRequest) -> HttpResponse:
    seen = request.headers
    return JsonResponse(
        {
            "size": len(request.read()),
            "length": seen["Content-Length"],
            "encoding": seen.get("Content-Encoding"),
            "transfer": seen.get("Transfer-Encoding"),
        }
    )


@run
async def test_chunked_body_has_its_length_for_django():
    now.respond = echo
    answer = await post("/plain", [b"x" * 9, b"", b"y"], CHUNKED)
    assert answer.json() == {
        "size": 10, "length": "10", "encoding": None, "transfer": None
    }  # fmt: skip


@pytest.mark.parametrize("cut", [1, 7, 100_000])
@run
async def test_compressed_body_is_unpacked(cut):
    now.respond = echo
    text = random.Random(1).randbytes(MIB // 2)
    packed = gzip.compress(text[:-9]) + gzip.compress(text[-9:])
    pieces = [packed[:cut], packed[cut:-cut] if cut < 100 else packed[cut:]]
    pieces += [packed[-cut:]] if cut < 100 else []
    for kind in (sized(len(packed)), [CHUNKED]):
        answer = await post("/plain", pieces, GZIP, *kind)
        assert answer.json() == {
            "size": len(text), "length": str(len(text)),
            "encoding": None, "transfer": None,
        }  # fmt: skip


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        (b"gzip", gzip.compress(bytes(2 * MIB), mtime=0), 413),  # of 2 KB
        (b"gzip", gzip.compress(b"x" * 99, mtime=0)[:-3], 400),
        (b"gzip", b"no gzip at all", 400),
        (b"gzip", b"", 400),
        (b"br", b"x", 415),
        (b"gzip, gzip", b"x", 415),
    ],
)
@run
async def test_body_that_cannot_be_unpacked_is_rejected(encoding, body, status):
    header = (b"content-encoding", encoding)
    answer = await post("/api/v1/x", [body], header, CHUNKED)
    assert (answer.status, now.asked) == (status, [])
    assert (status == 415) == (answer.headers.get("accept-encoding") == "gzip")


@pytest.fixture
def credentials(transactional_db, no_connection_stays, reader):
    """A token and a session."""
    client = Client()
    client.force_login(reader)
    session = client.cookies["sessionid"].value
    token = ApiToken.objects.create(user=reader)[1]
    return [
        (b"authorization", f"Token {token}".encode()),
        (b"cookie", f"sessionid={session}".encode()),
    ]


def damaged(header: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    return header[0], header[1][:-2] + b"xx"


@pytest.mark.parametrize("framing", [sized(2 * MIB), [CHUNKED]])
@run
async def test_large_body_needs_a_valid_credential(credentials, framing):
    valid, invalid = credentials, map(damaged, credentials)
    pieces = [bytes(MIB), bytes(MIB)]
    now.respond = echo
    for header in valid:
        answer = await post("/plain", pieces, header, *framing)
        assert answer.json()["size"] == 2 * MIB
    now.asked.clear()
    for header in (*invalid, (b"accept", b"*/*"), (b"cookie", b"sessionid=")):
        answer = await post("/api/v1/x", pieces, header, *framing)
        assert (answer.status, answer.json()["code"]) == (413, "too_large")
    assert now.asked == []
    limits = wsgi_bridge.admission
    assert not limits.bodies.used + limits.unverified_bodies.used
    assert not any(limits.running.values())


@pytest.mark.parametrize(("length", "status"), [(b"9", b"100"), (b"2000000", b"413")])
@served
async def test_expectation_is_answered_after_the_checks(site, length, status):
    head = b"POST /plain HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
    reader, writer = await site.send(head + b"Content-Length: %b\r\n\r\n" % length)
    assert (await reader.readuntil(b"\r\n\r\n")).split()[1] == status
    if status == b"100":
        writer.write(b"x" * 9)
        assert (await read(reader))[1] == b"9"


@pytest.mark.parametrize(
    ("quota", "status"), [(Quota(20, 9), 429), (Quota(9, 20), 503)]
)
@pytest.mark.parametrize("framing", [sized(9), [CHUNKED]])
@run
async def test_bodies_under_way_are_bounded(quota, status, framing):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wsgi_bridge.admission, "unverified_bodies", quota)
        gone = asyncio.Event()
        slow = ask("/plain", "POST", sized(9), [b"x" * 8, None], gone)
        asking = asyncio.create_task(slow)
        await becomes(lambda: quota.used == 8)
        answer = await post("/api/v1/x", [b"y" * 9], *framing)
        assert (answer.status, now.asked) == (status, [])
        assert int(answer.headers["retry-after"]) >= 1
        assert (await ask("/plain")).status == 200
        gone.set()
        await asking
        assert (await post("/plain", [b"y" * 9], *framing)).status == 200
        assert not quota.used_by


@run
async def test_bodies_of_anonymous_clients_take_no_room_of_others(
    credentials, monkeypatch
):
    quota = Quota(9, 9)
    monkeypatch.setattr(wsgi_bridge.admission, "unverified_bodies", quota)
    gone = asyncio.Event()
    slow = ask("/plain", "POST", sized(9), [b"x" * 9, None], gone)
    asking = asyncio.create_task(slow)
    await becomes(lambda: quota.used == 9)
    for header in credentials:
        for _ in range(2):  # before and after it is recognized
            answer = await post("/plain", [b"y"], header, *sized(1))
            assert answer.status == 200
        answer = await post("/plain", [b"y"], damaged(header), *sized(1))
        assert answer.status == 429
    # A credential that was valid is good for a small body, and not for a large one.
    await elsewhere(ApiToken.objects.all().delete)
    answer = await post("/plain", [b"y"], credentials[0], *sized(1))
    assert answer.status == 200
    answer = await post("/plain", [b"y"], credentials[0], *sized(2 * MIB))
    assert answer.status == 413
    gone.set()
    await asking
    assert not quota.used_by
    assert not wsgi_bridge.admission.bodies.used_by


@pytest.mark.parametrize("kind", [0, 1], ids=["token", "session"])
@run
async def test_large_bodies_with_invented_credentials_meet_the_rate_limit(
    credentials, settings, kind
):
    """Each would take a thread and queries."""
    table = settings.RATE_LIMITS
    settings.RATE_LIMITS = override_policies(table, "unproven-token=3/d")
    invented = damaged(credentials[kind])
    for status in (413, 413, 413, 429):
        answer = await post("/api/v1/x", [], invented, *sized(2 * MIB))
        assert answer.status == status
    assert answer.json()["violated-policies"] == ["unproven-token"]
    assert answer.headers["ratelimit"].startswith('"unproven-token";r=0;')
    assert int(answer.headers["retry-after"]) >= 1
    answer = await post("/api/v1/x", [], credentials[kind], *sized(2 * MIB))
    assert answer.status == 429
    # With one that was verified before, nothing is counted.
    settings.RATE_LIMITS, now.respond = table, echo
    pieces = [bytes(MIB), bytes(MIB)]
    answer = await post("/plain", pieces, credentials[kind], *sized(2 * MIB))
    assert answer.status == 200
    settings.RATE_LIMITS = override_policies(table, "unproven-token=0/d")
    answer = await post("/plain", pieces, credentials[kind], *sized(2 * MIB))
    assert answer.status == 200


@run
async def test_body_that_trickles_is_408_in_the_end():
    """Whatever its length: each byte comes in time, all of them do not."""

    async def receive():
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b"x", "more_body": True}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(request_body, "LONGEST_S", 0.2)
        scope = {"path": "/plain", "headers": sized(MIB), "method": "POST"}
        request = EdgeRequest(scope | {"query_string": b""})
        body = request_body.Body(request, wsgi_bridge.admission, None)
        with pytest.raises(request_body.TooSlow):
            await body.receive(receive, MIB)
        body.close()
