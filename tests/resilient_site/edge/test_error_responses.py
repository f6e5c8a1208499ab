"""Error responses of the edge are rendered once; path and request id are filled in."""

import asyncio

import pytest
from django.http import HttpResponse
from hypothesis import given
from hypothesis import strategies as st

from resilient_site.edge import error_responses
from resilient_site.edge.admission import Rejected
from resilient_site.edge.request import EdgeRequest
from resilient_site.errors import DeadlinePassed, SiteError
from resilient_site.observability.request_id import current_request_id, start_request
from tests.resilient_site.edge.clients import Answer, ask, run
from tests.resilient_site.edge.views import now

pytestmark = [pytest.mark.urls("tests.resilient_site.edge.views"), pytest.mark.once]


def reject(path: str, error: SiteError, method: str = "GET", id: bytes = b"") -> Answer:
    async def send() -> Answer:
        headers = [(b"x-request-id", id)] if id else []
        scope = {
            "method": method, "path": path, "query_string": b"", "headers": headers,
        }  # fmt: skip
        extra, answer = start_request(scope), Answer()
        await error_responses.send_error(EdgeRequest(scope), answer.take, error, extra)
        assert answer.headers["x-request-id"] == current_request_id()
        return answer

    return asyncio.run(send())


def test_rest_client_gets_a_problem_with_its_path_and_request_id():
    for n in range(3):
        answer = reject(
            f"/api/v1/items/{n}", Rejected(retry_after_s=2), id=b"id-%d" % n
        )
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["retry-after"] == "2"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-length"] == str(len(answer.body))
        assert answer.json() == {
            "type": "about:blank",
            "title": "Service Unavailable",
            "status": 503,
            "detail": Rejected.detail,
            "instance": f"/api/v1/items/{n}",
            "code": "overloaded",
            "request_id": f"id-{n}",
        }


def test_browser_gets_a_page_with_its_path_and_request_id():
    for n in range(3):
        answer = reject(f"/items/{n}/", DeadlinePassed(), id=b"id-%d" % n)
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert f'href="/items/{n}/"'.encode() in answer.body
        assert b"id-%d" % n in answer.body
        assert error_responses._ID.encode() not in answer.body
        assert error_responses._PATH.encode() not in answer.body


@given(st.text(max_size=40), st.sampled_from(["/api/", "/"]))
def test_path_is_not_interpreted_in_the_response(path, prefix):
    answer = reject(prefix + path, Rejected(retry_after_s=1), id=b"a")
    if prefix == "/api/":
        assert answer.json()["instance"] in (prefix + path, "/")
    elif set(path) & set("<>\"'& "):
        assert answer.body == reject("/", Rejected(retry_after_s=1), id=b"a").body


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"x-request-id", b"<script>"), (b"x-request-id", b"x" * 65),
        (b"x-request-id", b"a\xff"), (b"x-request-id", b""),
        (b"traceparent", b"00-" + b"0" * 32 + b"-" + b"1" * 16 + b"-01"),
        (b"traceparent", b"ff-" + b"1" * 32 + b"-" + b"1" * 16 + b"-01"),
        (b"traceparent", b"x" * 60_000), (b"traceparent", b"\xff"),
        (b"cache-tag", b"items"), (b"age", b"-1"), (b"cache-status", b"x; hit"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("target", ["/thing", "/plain"])
@run
async def test_forged_headers_get_into_no_response(name, value, target):
    answer = await ask(target, headers=[(name, value)])
    assert answer.status == 200
    fields = dict(answer.raw_headers)
    assert fields.get(name) != value or not value
    assert len(fields[b"x-request-id"]) == 32
    assert b"cache-tag" not in fields


@run
async def test_valid_request_id_is_kept_once_in_every_response():
    mine = [(b"x-request-id", b"my-own_id.1")]
    for target, status in (("/thing", 200), ("/thing", 200), ("/plain", 404)):
        if status == 404:
            now.respond = lambda request: HttpResponse(status=404)
        answer = await ask(target, headers=mine)
        assert answer.status == status
        assert [one for one in answer.raw_headers if one[0] == mine[0][0]] == mine
