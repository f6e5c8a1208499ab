"""One id for each request, offered or made, and the trace that it belongs to."""

from typing import Any

import pytest

from resilient_site.observability.request_id import (
    choose_id,
    current_own_id,
    current_request_id,
    current_trace_id,
    offered_id,
    set_offered_id,
    set_request_id,
    start_request,
)

pytestmark = pytest.mark.once

TRACE = b"0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = b"00-%b-b7ad6b7169203331-01" % TRACE


def test_offered_id_is_taken_over():
    assert choose_id(b"mine-1", TRACEPARENT) == b"mine-1"


@pytest.mark.parametrize("offered", [b"", b"with space", b"x" * 65, b"\xff", b"a\nb"])
def test_invalid_id_is_replaced_by_the_trace(offered):
    assert choose_id(offered, TRACEPARENT) == TRACE


@pytest.mark.parametrize(
    "traceparent",
    [b"", b"00-0-1-01", b"ff" + TRACEPARENT[2:], TRACEPARENT.replace(TRACE, b"0" * 32),
     TRACEPARENT.replace(b"b7ad6b7169203331", b"0" * 16)],
)  # fmt: skip
def test_invalid_traceparent_makes_a_new_trace(traceparent):
    scope: dict[str, Any] = {"headers": [(b"traceparent", traceparent)]}
    ((_, request_id),) = start_request(scope)
    assert request_id.decode() == current_request_id() == current_trace_id()
    assert request_id != choose_id(b"")
    assert len(request_id) == 32
    assert dict(scope["headers"])[b"traceparent"].startswith(b"00-%b-" % request_id)


def test_request_continues_the_trace_of_its_client():
    scope: dict[str, Any] = {
        "headers": [(b"x-request-id", b"mine"), (b"traceparent", TRACEPARENT)]
    }
    assert start_request(scope) == [(b"x-request-id", b"mine")]
    assert current_trace_id() == TRACE.decode()
    assert dict(scope["headers"])[b"traceparent"] == TRACEPARENT


@pytest.mark.parametrize(
    ("header", "shown"),
    [
        ((b"x-request-id", b"mine"), "mine"),
        ((b"traceparent", TRACEPARENT), TRACE.decode()),
    ],
)
def test_id_that_a_client_chooses_is_beside_one_of_our_own(header, shown):
    own = set()
    for _ in range(2):
        start_request({"headers": [header]})
        assert offered_id() == shown
        own.add(current_own_id())
    assert len(own) == 2
    assert {len(id) for id in own} == {32}
    start_request({"headers": []})
    assert (offered_id(), current_own_id()) == ("", current_request_id())


def test_own_id_stands_beside_an_offered_one_without_the_edge():
    assert set_offered_id("mine") == offered_id() == "mine"
    assert len(current_own_id()) == 32
    for nothing in ("", "not valid"):
        assert set_offered_id(nothing) == current_own_id()
        assert offered_id() == ""
    assert set_request_id("job-1") == current_own_id()
    assert offered_id() == ""


def test_id_of_a_job_is_set():
    assert set_request_id("job-1") == current_request_id() == "job-1"
    assert len(set_request_id("half \ud83d")) == 32
