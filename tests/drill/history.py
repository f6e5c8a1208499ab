"""History of acknowledged operations, and the checker of responses and final state."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from time import monotonic
from typing import Any

import numpy as np
import orjson

from tests.load.connections import Answer

# The writer sees a change at once, other authenticated clients within this time.
SEEN_WITHIN_S = 1.0
JOB_SIZE_MAX = 2_000_000


class Outcome(StrEnum):
    OK = "ok"
    STALE = "stale, marked"
    REJECTED = "rejected"  # 503 or 429 with Retry-After
    UNREAD = "rejected, never read before"
    FAILED = "failed"
    WRONG = "wrong"


IS_ANSWERED = frozenset({Outcome.OK, Outcome.STALE})


@dataclass
class WrittenItem:
    """An item that is updated repeatedly: sent and confirmed texts."""

    name: str
    texts: list[str] = field(default_factory=list)
    # Time of confirmation by index in `texts`.
    confirmed: dict[int, float] = field(default_factory=dict)

    def send(self, text: str) -> int:
        self.texts.append(text)
        return len(self.texts) - 1

    def confirm(self, place: int) -> None:
        self.confirmed[place] = monotonic()

    def oldest_allowed(self, started: float, seen_within_s: float) -> int:
        """Return the index of the oldest text that a read started then may see."""
        seen = (n for n, at in self.confirmed.items() if at < started - seen_within_s)
        return max(seen, default=0)


class History:
    """Operations of all clients."""

    def __init__(self, names: dict[str, str]) -> None:
        self.names = names  # of items that do not change, by id
        self.written: dict[str, WrittenItem] = {}  # by id
        # Sent, but not confirmed by the end: by name.
        self.unconfirmed: dict[str, WrittenItem] = {}
        self.wrong: list[str] = []
        # Where invalidations are cut off, authenticated clients see a change later.
        self.seen_within_s = SEEN_WITHIN_S

    def record_wrong(self, what: str) -> Outcome:
        self.wrong.append(what[:300])
        return Outcome.WRONG

    # --- reading

    def judge_item(
        self, item_id: str, answer: Answer, started: float, may_be_late: bool
    ) -> Outcome:
        """Check a response with an item; anonymous reads may see changes later."""
        outcome = outcome_of(answer)
        if outcome is Outcome.FAILED and 400 <= answer.status < 500:
            return self.record_wrong(f"{item_id}: {answer.status} {answer.body!r}")
        if outcome not in IS_ANSWERED:
            return outcome
        try:
            item = orjson.loads(answer.body)
            name, text = item["name"], item["description"]
        except (ValueError, KeyError, TypeError):
            return self.record_wrong(f"{item_id}: not an item: {answer.body!r}")
        if item_id in self.names:
            if name != self.names[item_id]:
                return self.record_wrong(f"{item_id}: {name!r}, not its name")
            return outcome
        written = self.written[item_id]
        if name != written.name or text not in written.texts:
            return self.record_wrong(
                f"{item_id}: says {text!r}, which was never written"
            )
        oldest = written.oldest_allowed(started, self.seen_within_s)
        is_late = written.texts.index(text) < oldest
        if is_late and outcome is Outcome.OK and not may_be_late:
            late = written.texts[oldest]
            return self.record_wrong(
                f"{item_id}: {text!r}, though {late!r} was confirmed"
            )
        return outcome

    def judge_page(self, answer: Answer, expected: bytes) -> Outcome:
        outcome = outcome_of(answer)
        if outcome in IS_ANSWERED and expected not in answer.body:
            return self.record_wrong(f"{expected!r} is not in {answer.body[:200]!r}")
        return outcome


def outcome_of(answer: Answer) -> Outcome:
    if answer.status < 300:
        # A response that nginx revalidates in the background is fresh enough.
        is_old = "origin-failed" in answer.headers.get("cache-status", "")
        return Outcome.STALE if is_old else Outcome.OK
    if answer.status in (429, 503) and "retry-after" in answer.headers:
        return Outcome.REJECTED
    return Outcome.FAILED


def age_of(answer: Answer) -> float:
    age = answer.headers.get("age", "")
    return float(age) if age.isdigit() else 0.0


# --- final state


@dataclass
class Findings:
    """Findings of the final check; all but `checked` must be empty."""

    checked: dict[str, int] = field(default_factory=dict)
    lost_writes: list[str] = field(default_factory=list)
    doubled_writes: list[str] = field(default_factory=list)
    lost_jobs: list[str] = field(default_factory=list)
    doubled_jobs: list[str] = field(default_factory=list)
    lost_events: list[str] = field(default_factory=list)
    wrong_answers: list[str] = field(default_factory=list)

    def lists(self) -> dict[str, list[str]]:
        """Return what was found, by label ("lost writes")."""
        found = {name.replace("_", " "): one for name, one in vars(self).items()}
        del found["checked"]
        return found

    def counts(self) -> dict[str, int]:
        return {label: len(found) for label, found in self.lists().items()}

    def all(self) -> list[str]:
        return [one for found in self.lists().values() for one in found]


def check_items(
    found: Findings, history: History, items: Iterable[dict[str, Any]]
) -> None:
    """Compare with the stored items."""
    there: dict[str, list[dict[str, Any]]] = {}
    for item in items:
        there.setdefault(item["name"], []).append(item)
    for name, same in there.items():
        if len(same) > 1:
            found.doubled_writes.append(f"{len(same)} items are called {name}")
    number = 0
    for written in history.written.values():
        number += len(written.confirmed)
        last = max(written.confirmed, default=0)
        same = there.get(written.name, [])
        # Later unconfirmed texts may be stored or not.
        if not any(one["description"] in written.texts[last:] for one in same):
            is_there = [one["description"] for one in same]
            text = written.texts[last]
            found.lost_writes.append(f"{written.name}: {text} is not in {is_there}")
    found.checked["confirmed writes"] = number


def check_changes(
    found: Findings, history: History, changes: Iterable[dict[str, Any]]
) -> None:
    """Compare with the change log: each confirmed write occurs once."""
    times: dict[str, int] = {}
    for change in changes:
        text = (change["after"] or {}).get("description")
        times[text] = times.get(text, 0) + 1
    for written in (*history.written.values(), *history.unconfirmed.values()):
        for place, text in enumerate(written.texts):
            if times.get(text, 0) > 1:
                found.doubled_writes.append(f"{text} is in the log {times[text]} times")
            if place in written.confirmed and text not in times:
                found.lost_writes.append(f"{text} is not in the log")
    found.checked["changes in the log"] = sum(times.values())


def check_jobs(
    found: Findings,
    submitted: dict[str, int],
    jobs: Iterable[dict[str, Any]],
    result_of: Callable[[str], dict[str, Any]],
) -> None:
    """Compare with the stored jobs; `submitted` has the size of each id."""
    by_size: dict[int, dict[str, str]] = {}
    for job in jobs:
        by_size.setdefault(job["params"]["size"], {})[job["id"]] = job["state"]
    primes = primes_below(JOB_SIZE_MAX)
    for job_id, size in submitted.items():
        states = by_size.get(size, {})
        if len(states) > 1:
            found.doubled_jobs.append(f"size {size}: {sorted(states)}")
        if states.get(job_id) != "succeeded":
            found.lost_jobs.append(f"{job_id}: {states.get(job_id)}")
        elif result_of(job_id)["primes"] != primes[size]:
            found.wrong_answers.append(f"{job_id}: {result_of(job_id)}")
    found.checked["confirmed jobs"] = len(submitted)


def primes_below(largest: int) -> "np.ndarray[Any, Any]":
    """Return the number of primes below each number (sieve of Eratosthenes)."""
    is_prime = np.ones(largest + 1, dtype=bool)
    is_prime[:2] = False
    for n in range(2, int(largest**0.5) + 1):
        if is_prime[n]:
            is_prime[n * n :: n] = False
    return np.concatenate(([0], np.cumsum(is_prime)[:-1]))


def check_events(
    found: Findings, changes: Iterable[dict[str, Any]], events: Iterable[dict[str, Any]]
) -> None:
    """Each change was published as an event, in order per item."""
    received: dict[str, list[int]] = {}
    for event in events:
        received.setdefault(event["subject"], []).append(event["data"]["version"])
    for subject, versions in received.items():
        first_of_each = list(dict.fromkeys(versions))
        if first_of_each != sorted(first_of_each):
            found.lost_events.append(f"{subject} received out of order: {versions}")
    number = 0
    for change in changes:
        number += 1
        if change["version"] not in received.get(str(change["item_id"]), ()):
            found.lost_events.append(f"{change['item_id']} {change['version']}")
    found.checked["events"] = number
