"""The same write many times at once, and repeated at any time."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connection
from django.http import HttpResponse

from items.models import Item, ItemChange
from resilient_site.api.idempotency import run_once
from resilient_site.models import IdempotencyRecord
from tests.resilient_site.api.repeating import (
    ITEMS,
    KEY,
    client_of,
    is_replayed,
)


def start(*calls: Callable[[], Any]) -> Callable[[], list[Any]]:
    """Start the calls at one time; return a function that waits for their results."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        barrier.wait()
        try:
            return call()
        finally:
            connection.close()

    pool = ThreadPoolExecutor(len(calls))
    futures = [pool.submit(run, call) for call in calls]
    pool.shutdown(wait=False)
    return lambda: [future.result(90) for future in futures]


@pytest.mark.django_db(transaction=True)
def test_requests_at_once_create_one_item(editor):
    def send() -> Any:
        return client_of(editor).post(ITEMS, {"name": "x"}, headers=KEY)

    answers = start(*[send] * 20)()
    assert Item.objects.count() == ItemChange.objects.count() == 1
    done = [answer for answer in answers if answer.status_code == 201]
    # 503: on a busy machine not all of them are connected in time.
    assert {answer.status_code for answer in answers} <= {201, 409, 503}
    assert len({answer.content for answer in done}) == 1
    assert sum(not is_replayed(answer) for answer in done) == 1


@pytest.mark.once
@pytest.mark.django_db(transaction=True)
def test_request_whose_first_one_is_still_processed_is_rejected_at_once(editor):
    answers = []

    def write() -> HttpResponse:
        answers.extend(
            start(lambda: client_of(editor).delete(ITEMS + "x", headers=KEY))()
        )
        return HttpResponse()

    run_once(editor, KEY["Idempotency-Key"], "", write)
    (answer,) = answers
    assert (answer.status_code, answer["Retry-After"]) == (409, "1")
    assert answer.json()["code"] == "idempotency_key_in_use"


REJECT = {
    "sqlite": (
        "CREATE TRIGGER reject BEFORE INSERT ON {table} "
        "BEGIN SELECT RAISE(ABORT, 'no'); END",
        "DROP TRIGGER reject",
    ),
    "postgresql": (
        "CREATE FUNCTION reject() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN RAISE EXCEPTION USING ERRCODE = ''unique_violation''; END'; "
        "CREATE TRIGGER reject BEFORE INSERT ON {table} "
        "FOR EACH ROW EXECUTE FUNCTION reject()",
        "DROP FUNCTION reject CASCADE",
    ),
}


@pytest.mark.django_db
@pytest.mark.parametrize(
    "table", ["items_itemchange", "resilient_site_idempotencyrecord"]
)
def test_write_and_response_are_stored_together_or_neither(api, table):
    """As when other writers win each time: over the write, or over the response."""
    begin, end = REJECT[connection.vendor]
    with connection.cursor() as cursor:
        cursor.execute(begin.format(table=table))
        answer = api.post(ITEMS, {"name": "x"}, headers=KEY)
        cursor.execute(end)
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    for model in (Item, ItemChange, IdempotencyRecord):
        assert not model.objects.exists()
    assert api.post(ITEMS, {"name": "x"}, headers=KEY).status_code == 201
