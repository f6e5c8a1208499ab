"""The checker detects wrong responses, and lost and duplicate operations."""

from time import monotonic

import orjson
import pytest

from tests.drill.history import (
    Findings,
    History,
    Outcome,
    WrittenItem,
    check_changes,
    check_events,
    check_items,
    check_jobs,
)
from tests.load.connections import Answer

OLD = {"cache-status": "resilient-site; hit; detail=origin-failed", "age": "7"}


def item(name: str, text: str = "") -> Answer:
    return Answer(200, {}, orjson.dumps({"name": name, "description": text}))


@pytest.fixture
def written() -> WrittenItem:
    """Three texts, of which two were confirmed long ago."""
    written = WrittenItem("drill", ["drill 0", "drill 1", "drill 2"])
    written.confirmed = {0: monotonic() - 60, 1: monotonic() - 30}
    return written


@pytest.fixture
def history(written: WrittenItem) -> History:
    history = History({"country.DE": "Germany"})
    history.written["7"] = written
    return history


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (item("Germany"), Outcome.OK),
        (Answer(200, OLD, item("Germany").body), Outcome.STALE),
        (item("France"), Outcome.WRONG),
        (Answer(200, {}, b"<html>"), Outcome.WRONG),
        (Answer(404, {}, b"{}"), Outcome.WRONG),
        (Answer(503, {"retry-after": "1"}, b""), Outcome.REJECTED),
        (Answer(503, {}, b""), Outcome.FAILED),
    ],
)
def test_unchanged_item_is_checked(history, answer, outcome):
    assert history.judge_item("country.DE", answer, monotonic(), False) is outcome
    assert bool(history.wrong) == (outcome is Outcome.WRONG)


@pytest.mark.parametrize(
    ("text", "headers", "may_be_late", "outcome"),
    [
        ("drill 1", {}, False, Outcome.OK),  # a later confirmation is too recent
        ("drill 2", {}, False, Outcome.OK),
        ("drill 0", {}, False, Outcome.WRONG),  # long outdated
        ("drill 0", {}, True, Outcome.OK),
        ("drill 0", OLD, False, Outcome.STALE),
        ("drill 9", {}, True, Outcome.WRONG),
    ],
)
def test_written_item_is_as_new_as_its_confirmation(
    history, written, text, headers, may_be_late, outcome
):
    written.confirm(2)
    answer = Answer(200, headers, item("drill", text).body)
    assert history.judge_item("7", answer, monotonic(), may_be_late) is outcome


@pytest.mark.parametrize(
    ("check", "texts", "lost", "doubled"),
    [
        ("items", ["drill 1"], 0, 0), ("items", ["drill 2"], 0, 0),
        ("items", ["drill 0"], 1, 0), ("items", [], 1, 0),
        ("items", ["drill 1", "drill 1"], 0, 1),
        ("log", ["drill 0", "drill 1"], 0, 0),
        ("log", ["drill 0", "drill 1", "drill 2"], 0, 0),
        ("log", ["drill 1"], 1, 0),
        ("log", ["drill 0", "drill 1", "drill 2", "drill 2"], 0, 1),
    ],
)  # fmt: skip
def test_final_items_and_change_log_are_checked(history, check, texts, lost, doubled):
    found = Findings()
    stored = [{"name": "drill", "description": text} for text in texts]
    if check == "items":
        check_items(found, history, stored)
        assert found.checked == {"confirmed writes": 2}
    else:
        check_changes(found, history, [{"after": item} for item in stored])
    assert (len(found.lost_writes), len(found.doubled_writes)) == (lost, doubled)


def job(job_id: str, size: int, state: str = "succeeded") -> dict[str, object]:
    return {"id": job_id, "params": {"size": size}, "state": state}


@pytest.mark.parametrize(
    ("jobs", "primes", "counts"),
    [
        ([job("a", 100)], 25, (0, 0, 0)),
        ([job("a", 100)], 26, (0, 0, 1)),
        ([job("a", 100, "failed")], 25, (1, 0, 0)),
        ([], 25, (1, 0, 0)),
        ([job("a", 100), job("b", 100)], 25, (0, 1, 0)),
    ],
)
def test_final_jobs_are_checked(jobs, primes, counts):
    found = Findings()
    check_jobs(found, {"a": 100}, jobs, lambda job_id: {"primes": primes})
    findings = found.lost_jobs, found.doubled_jobs, found.wrong_answers
    assert tuple(map(len, findings)) == counts


@pytest.mark.parametrize(
    ("versions", "lost"),
    [([1, 2, 3], 0), ([1, 2, 1, 2, 3], 0), ([1, 3], 1), ([2, 1, 3], 1)],
)
def test_events_are_in_order_and_may_repeat(versions, lost):
    found = Findings()
    changes = [{"item_id": 7, "version": n} for n in (1, 2, 3)]
    events = [{"subject": "7", "data": {"version": n}} for n in versions]
    check_events(found, changes, events)
    assert len(found.lost_events) == lost
