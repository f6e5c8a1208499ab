"""A write that is repeated with its Idempotency-Key is carried out once."""

import json
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import URLResolver, get_resolver, reverse
from django.utils import timezone

from items import catalogue
from items.catalogue import item_tag
from items.models import Item, ItemChange
from resilient_site.api.idempotency import delete_expired
from resilient_site.edge.cache.invalidation import invalidations, mark, now
from resilient_site.models import IdempotencyRecord
from tests.factories import make_item
from tests.resilient_site.api.repeating import (
    ITEMS,
    KEY,
    client_of,
    is_replayed,
    twice,
)

pytestmark = pytest.mark.once
JSON = "application/json"


def test_every_write_replays_its_first_response(api):
    def sent(method: str, path: str, number: int, *args: Any, **more: str) -> Any:
        headers = {"Idempotency-Key": f"k{number}"} | more
        return twice(lambda: getattr(api, method)(path, *args, headers=headers))

    one = ITEMS + "bolt"
    created = sent("post", ITEMS, 1, {"id": "bolt", "name": "Bolt"})
    assert created.status_code == 201
    assert created["Location"] == f"http://testserver{one}"
    assert sent("post", ITEMS + "bulk", 2, [{"name": "A"}]).status_code == 201
    etag = {"If-Match": created["ETag"]}
    assert sent("patch", one, 3, {"name": "B"}, **etag).json()["version"] == 2
    assert sent("put", one, 4, {"name": "C"}).json()["version"] == 3
    deleted = sent("delete", one, 5)
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert not deleted.has_header("Content-Type")
    assert ItemChange.objects.filter(item_id="bolt").count() == 4
    assert Item.objects.get().name == "A"


@pytest.mark.django_db(transaction=True)
def test_replay_publishes_an_invalidation_that_was_lost(api, monkeypatch):
    """As when the process was killed after the commit."""

    def send() -> Any:
        return api.post(ITEMS, {"id": "bolt", "name": "Bolt"}, headers=KEY)

    with monkeypatch.context() as patched:
        patched.setattr(connection, "run_and_clear_commit_hooks", lambda: None)
        assert send().status_code == 201
    connection.run_on_commit.clear()
    bolt, nut = (mark(now(), [item_tag(name)]) for name in ("bolt", "nut"))

    again = send()
    assert is_replayed(again)
    assert not again.has_header("Cache-Tag")
    assert not invalidations.is_current(bolt)
    assert invalidations.is_current(nut)


def test_failure_that_the_database_decided_is_replayed(api):
    """A late repetition would otherwise do what the first request did not."""
    make_item(id="there")
    headers = iter({"Idempotency-Key": f"k{n}"} for n in range(9))

    def rejected(method: str, path: str, *args: Any, **more: str) -> tuple[int, str]:
        header = next(headers) | more
        answer = twice(lambda: getattr(api, method)(path, *args, headers=header))
        return answer.status_code, answer.json()["code"]

    item = {"id": "there", "name": "x"}
    stale = {"If-Match": '"7"'}
    assert rejected("post", ITEMS, item) == (400, "item_exists")
    assert rejected("post", ITEMS + "bulk", [item]) == (400, "invalid")
    assert rejected("delete", ITEMS + "not") == (404, "item_not_found")
    assert rejected("delete", ITEMS + "there", **stale) == (412, "stale_version")
    assert rejected("put", ITEMS + "there", item, **stale) == (412, "stale_version")


@pytest.mark.parametrize("key", ["k", "~" * 255], ids=["short", "long"])
def test_key_may_be_quoted_and_long(api, key):
    headers = iter({"Idempotency-Key": value} for value in (key, f'"{key}"'))
    twice(lambda: api.post(ITEMS, {"name": "x"}, headers=next(headers)))


@pytest.mark.parametrize(
    "key", ["", '""', "k" * 256, "a b", '"', '"k', "k\\", "ö", "k\n", "\t"], ids=repr
)
def test_malformed_key_is_rejected(api, key):
    answer = api.post(ITEMS, {"name": "x"}, HTTP_IDEMPOTENCY_KEY=key)
    (message,) = answer.json()["errors"]["Idempotency-Key"]
    assert (answer.status_code, "1 to 255 visible" in message) == (400, True)
    assert not Item.objects.exists()


def test_another_request_with_the_same_key_is_rejected(api):
    first = {"id": "a", "name": "x"}
    assert api.post(ITEMS, first, headers=KEY).status_code == 201
    for method, path, body, more in (
        ("post", ITEMS, {"id": "b", "name": "x"}, {}),
        ("post", ITEMS + "?x=1", first, {"Prefer": "handling=lenient"}),
        ("post", ITEMS + "bulk", [first], {}),
        ("put", ITEMS + "a", first, {}),
        ("patch", ITEMS + "a", {"name": "y"}, {}),
        ("patch", ITEMS + "a", first, {"If-Match": '"1"'}),
        ("delete", ITEMS + "a", None, {}),
    ):
        answer = getattr(api, method)(path, body, headers=KEY | more)
        code = answer.json()["code"]
        assert (answer.status_code, code) == (422, "idempotency_key_reused")
    assert Item.objects.get().version == 1
    # The same request in another notation is the same.
    raw = b' {"name": "x",\n "id": "a"}'
    kind = "application/json; charset=utf-8"
    again = api.post(ITEMS, raw, content_type=kind, headers=KEY)
    assert is_replayed(again)


def test_file_takes_no_key_where_none_is_expected(api):
    body = {"file": SimpleUploadedFile("f", b"one")}
    address = f"/api/v1/jobs/{uuid4()}/cancel"
    answer = api.post(address, body, "multipart", headers=KEY)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid")


def test_each_user_has_their_own_keys(api, admin):
    mine = api.post(ITEMS, {"name": "x"}, headers=KEY)
    theirs = client_of(admin).post(ITEMS, {"name": "y"}, headers=KEY)
    assert theirs.status_code == 201
    assert theirs.json()["id"] != mine.json()["id"]
    assert is_replayed(api.post(ITEMS, {"name": "x"}, headers=KEY))
    assert Item.objects.count() == 2


def test_request_without_a_key_stores_and_queries_nothing(api):
    with CaptureQueriesContext(connection) as queries:
        api.post(ITEMS, {"name": "x"})
        api.get(ITEMS, headers=KEY)
    sql = " ".join(query["sql"] for query in queries)
    assert "idempotency" not in sql
    assert "advisory" not in sql
    assert not IdempotencyRecord.objects.exists()


def test_request_that_was_not_carried_out_stores_nothing(
    api, reader, anonymous_api, settings
):
    good = {"id": "a", "name": "x"}
    bodies = [{"id": "a"}, {"id": "with space", "name": "x"}, [1], None]
    for body in bodies:
        assert api.post(ITEMS, body, headers=KEY).status_code == 400
    deep = b"[" * 500 + b"]" * 500
    for raw, kind, status in (
        (b"{", "application/json", 400),
        (deep, "application/json", 400),
        (b"x", "text/plain", 415),
    ):
        answer = api.post(ITEMS, raw, content_type=kind, headers=KEY)
        assert answer.status_code == status
    assert anonymous_api.post(ITEMS, good, headers=KEY).status_code == 401
    assert client_of(reader).post(ITEMS, good, headers=KEY).status_code == 403
    make_item(id="b")
    settings.REQUIRE_IF_MATCH = True
    assert api.delete(ITEMS + "b", headers=KEY).status_code == 428
    for method in ("DELETE", "REQUEST", "TRACE"):
        assert api.generic(method, ITEMS, headers=KEY).status_code == 405
    assert not IdempotencyRecord.objects.exists()
    assert api.post(ITEMS, good, headers=KEY).status_code == 201


def test_error_of_the_site_stores_nothing(api, monkeypatch):
    def fail(*args: object) -> None:
        raise RuntimeError("a bug")

    item = {"name": "x", "tags": ["y"]}
    api.raise_request_exception = False
    with monkeypatch.context() as broken:
        broken.setattr(catalogue, "_set_tags", fail)  # the item is inserted by then
        assert api.post(ITEMS, item, headers=KEY).status_code == 500
    assert not Item.objects.exists()
    assert api.post(ITEMS, item, headers=KEY).status_code == 201


def test_key_expires_after_a_day(api):
    def send() -> Any:
        return api.post(ITEMS, {"name": "x"}, headers=KEY)

    first = twice(send)
    IdempotencyRecord.objects.update(created_at=timezone.now() - timedelta(hours=25))
    assert twice(send).json()["id"] != first.json()["id"]


def test_expired_responses_are_deleted_in_batches(
    api, monkeypatch, django_assert_num_queries
):
    monkeypatch.setattr("resilient_site.api.idempotency.DELETE_BATCH", 2)
    for number in range(6):
        api.delete(ITEMS + "x", headers={"Idempotency-Key": f"k{number}"})
    old = IdempotencyRecord.objects.exclude(key="k0")
    old.update(created_at=timezone.now() - timedelta(hours=25))
    with django_assert_num_queries(3):
        assert [delete_expired() for _ in range(3)] == [2, 2, 1]
    assert IdempotencyRecord.objects.get().key == "k0"


def patterns(urls: list[Any]) -> list[Any]:
    return [
        pattern
        for entry in urls
        for pattern in (
            patterns(entry.url_patterns) if isinstance(entry, URLResolver) else [entry]
        )
    ]


def test_every_rest_view_that_writes_accepts_a_key(api):
    (api_urls,) = (
        u for u in get_resolver().url_patterns if str(u.pattern).startswith("api/")
    )
    malformed = {"Idempotency-Key": "two words"}
    body = json.dumps({"task": "heavy_computation"})
    writing = 0
    # Without a name: addresses of before.
    for entry in [entry for entry in patterns(api_urls.url_patterns) if entry.name]:
        for method in {"post", "put", "patch", "delete"} & {
            *getattr(entry.callback, "actions", {})
        }:
            named = dict.fromkeys(entry.pattern.regex.groupindex, str(uuid4()))
            path = reverse(f"api:{entry.name}", kwargs=named)
            answer = api.generic(method, path, body, JSON, headers=malformed)
            assert "Idempotency-Key" in answer.json().get("errors", ()), (method, path)
            writing += 1
    assert writing >= 7
