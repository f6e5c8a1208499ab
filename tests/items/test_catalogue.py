"""Writing: items, versions and the change log move together, or not at all."""

import contextlib
import io
from functools import partial

import pytest
from django.apps import apps
from django.db import (
    DataError,
    IntegrityError,
    OperationalError,
    connection,
    transaction,
)

from items import catalogue, fields
from items.bulk import staging, writing
from items.bulk.writing import CREATE, Rows
from items.catalogue import ItemExists, ItemNotFound
from items.imports import importing
from items.models import Item, ItemChange, ItemTag, Tag
from resilient_site.errors import Invalid, SiteError, StaleVersion
from resilient_site.models import Epoch
from tests.factories import TESTER, changes_of, make_item
from tests.threads import in_threads

pytestmark = pytest.mark.django_db


def history(item_id: str) -> list[tuple[int, str]]:
    changes = changes_of(item_id)
    return [(change.version, change.action) for change in changes]


def test_created_item_starts_at_version_1_with_one_change():
    item = make_item(id="bolt")
    assert (item.version, item.tag_names()) == (1, ["metal"])
    change = ItemChange.objects.get(item_id="bolt")
    assert (change.action, change.before) == ("created", None)
    assert change.after == item.state()
    assert (change.after["name"], change.after["tags"]) == ("Brass bolt", ["metal"])
    assert change.actor_name == "tester"

    with pytest.raises(ItemExists, match="Item already exists"):
        make_item(id="bolt", name="Other")
    assert history("bolt") == [(1, "created")]


def test_update_increments_the_version_and_logs_both_states():
    make_item(id="bolt")

    changes = {"name": "Steel bolt", "tags": ["steel"]}
    item = catalogue.update_item("bolt", changes, actor=TESTER)

    assert (item.version, item.name, item.tag_names()) == (2, "Steel bolt", ["steel"])
    assert item.description == "M8, 40 mm"
    change = changes_of("bolt").first()
    assert change.before["tags"] == ["metal"]
    assert change.after["tags"] == ["steel"]


def test_update_that_changes_nothing_makes_no_version():
    make_item(id="bolt")
    catalogue.update_item("bolt", {"tags": ["metal"]}, actor=TESTER)
    assert history("bolt") == [(1, "created")]


def import_row() -> None:
    run = importing.begin(source="test", path="-", actor=TESTER)
    file = io.BufferedReader(io.BytesIO(b"id,name\nbolt,Zinc nut 12\n"))
    importing.proceed(run, file, actor=TESTER, rejects=lambda rejects, size: size)


def undo_update() -> None:
    catalogue.update_item("bolt", {"name": "Old"}, actor=TESTER)
    catalogue.undo(changes_of("bolt").first(), actor=TESTER)


@pytest.mark.parametrize(
    "write",
    [
        lambda: catalogue.update_item("bolt", {"name": "Zinc nut 12"}, actor=TESTER),
        lambda: catalogue.update_item("bolt", {"tags": ["other"]}, actor=TESTER),
        lambda: catalogue.merge_items(keep="bolt", drop="nut", actor=TESTER),
        undo_update,
        import_row,
    ],
    ids=["name", "tags", "merge", "undo", "import"],
)
def test_every_write_keeps_the_derived_columns(write):
    old = make_item(id="bolt", description="")
    make_item(id="nut", description="Zinc", tags=["other"])
    write()
    item = Item.objects.get(pk="bolt")
    assert (item.created_at, item.updated_at > old.updated_at) == (old.created_at, True)
    derived = fields.search_columns(item.state())
    assert {name: getattr(item, name) for name in derived} == derived
    change = changes_of("bolt").first()
    assert (change.version, change.after) == (item.version, item.state())
    latest = Item.objects.order_by("-updated_at").first()
    assert latest.pk == "bolt"


def test_undoing_an_update_restores_the_state_before_it_or_a_deleted_item():
    make_item(id="bolt")
    for name in ("B", "C"):
        catalogue.update_item("bolt", {"name": name}, actor=TESTER)
    change = ItemChange.objects.get(item_id="bolt", version=2)
    item = catalogue.undo(change, actor=TESTER)
    assert (item.name, item.version) == ("Brass bolt", 4)
    catalogue.delete_item("bolt", actor=TESTER)
    assert catalogue.undo(change, actor=TESTER).name == "Brass bolt"


def test_undoing_a_creation_deletes_once():
    make_item(id="bolt")
    change = ItemChange.objects.get(item_id="bolt")

    assert catalogue.undo(change, actor=TESTER) is None
    assert catalogue.undo(change, actor=TESTER) is None

    assert history("bolt") == [(2, "deleted"), (1, "created")]


@pytest.mark.parametrize(
    "bad",
    [
        {"id": "with space"},
        {"id": "a/b"},
        {"id": "bolt", "name": ""},
        {"id": "bolt", "name": "n" * 201},
        {"id": "bolt", "name": "n", "description": "d" * 10_001},
        {"id": "bolt", "name": "n", "version": 0},
    ],
)
def test_database_constraints_enforce_the_rules(bad):
    # PostgreSQL calls a name that is too long for its column a DataError.
    with pytest.raises((IntegrityError, DataError)), transaction.atomic():
        Item.objects.create(**{"name": "n", "search_text": ""} | bad)


def test_database_rejects_a_second_change_of_one_version_and_a_tag_in_use():
    make_item(id="bolt")
    with pytest.raises(IntegrityError), transaction.atomic():
        ItemChange.objects.create(item_id="bolt", version=1, action="updated")
    with pytest.raises(IntegrityError), transaction.atomic():
        Tag.objects.get(name="metal").delete()


@pytest.mark.django_db(transaction=True)
def test_creations_and_deletions_of_one_id_do_not_break_each_other():
    """Each either happens or is refused, and the versions have no gap."""

    def churn() -> None:
        for _ in range(15):
            for write in (
                lambda: make_item(id="hot", tags=[]),
                lambda: catalogue.delete_item("hot", actor=TESTER),
            ):
                with contextlib.suppress(ItemExists, ItemNotFound):
                    write()

    assert in_threads(*[churn] * 4) == [None] * 4
    versions = [version for version, _ in history("hot")]
    assert versions == list(range(len(versions), 0, -1))


@pytest.mark.django_db(transaction=True)
def test_creation_that_another_writer_overtakes_starts_again(monkeypatch):
    if connection.vendor == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    insert = catalogue.insert_together

    def create_and_delete() -> None:
        make_item(id="hot")
        catalogue.delete_item("hot", actor=TESTER)

    def insert_later(*rows) -> None:
        monkeypatch.undo()
        assert in_threads(create_and_delete) == [None]
        insert(*rows)

    monkeypatch.setattr(catalogue, "insert_together", insert_later)
    assert make_item(id="hot").version == 3
    assert [version for version, _ in history("hot")] == [3, 2, 1]


@pytest.mark.django_db(transaction=True)
def test_writers_of_many_items_in_any_order_do_not_deadlock():
    rows = [{"id": f"i{n:03}", "name": "n", "tags": [f"t{n}"]} for n in range(200)]
    staged = [row | {"name": "s", "tags": ["x"]} for row in rows]
    outcomes = in_threads(
        lambda: writing.write(Rows(rows, CREATE), actor=TESTER) and None,
        lambda: writing.write(Rows(rows[::-1], CREATE), actor=TESTER) and None,
        lambda: staging.apply(staged, actor=TESTER) and None,
        lambda: staging.apply(staged[::-1], actor=TESTER) and None,
        lambda: catalogue.delete_items([r["id"] for r in rows], actor=TESTER),
    )
    faults = [o for o in outcomes if o and not isinstance(o, Invalid | ItemExists)]
    assert faults == []


@pytest.mark.django_db(transaction=True)
def test_one_of_two_writers_of_a_version_wins():
    """Both read version 1 and both write: exactly one edit is made."""
    item = make_item(id="bolt")

    def write():
        expect = catalogue.expect_revision(item.revision)
        catalogue.update_item("bolt", {"name": "X"}, actor=TESTER, precondition=expect)

    outcomes = in_threads(write, write)
    assert sorted(map(type, outcomes), key=str) == [type(None), StaleVersion]
    assert Item.objects.get(pk="bolt").version == 2
    assert ItemTag.objects.filter(item="bolt").count() == 1


@pytest.mark.parametrize(("mine", "kept"), [("", "M8"), ("Mine", "Mine")])
def test_merged_item_has_the_tags_of_both_and_keeps_its_description(mine, kept):
    make_item(id="keep", name="Kept", description=mine, tags=["a", "b"])
    make_item(id="drop", description="M8", tags=["b", "c"])
    item = catalogue.merge_items(keep="keep", drop="drop", actor=TESTER)
    assert (item.name, item.description) == ("Kept", kept)
    assert item.tag_names() == ["a", "b", "c"]
    assert not Item.objects.filter(pk="drop").exists()
    assert history("keep")[0] == (2, "updated")
    assert history("drop")[0] == (2, "deleted")


@pytest.mark.parametrize(
    ("drop", "error"), [("keep", Invalid), ("nix", ItemNotFound), ("many", Invalid)]
)
def test_merge_that_cannot_be_made_changes_nothing(drop, error):
    make_item(id="keep", tags=[f"k{n}" for n in range(20)])
    make_item(id="many", tags=[f"m{n}" for n in range(11)])
    with pytest.raises(error) as caught:
        catalogue.merge_items(keep="keep", drop=drop, actor=TESTER)
    assert [*(caught.value.errors or {})] == (["tags"] if drop == "many" else [])
    assert history("keep") == history("many") == [(1, "created")]


def test_items_deleted_together_have_their_own_histories():
    make_item(id="a", name="A")
    make_item(id="b", name="B")
    catalogue.update_item("b", {"name": "C"}, actor=TESTER)
    catalogue.delete_items(["b", "never", "a"], actor=TESTER)
    assert not Item.objects.exists()
    assert (history("a")[0], history("b")[0]) == ((2, "deleted"), (3, "deleted"))
    change = changes_of("b").first()
    assert (change.before["name"], change.after) == ("C", None)
    assert catalogue.undo(change, actor=TESTER).version == 4


SECRET = "confidential"


def make_secret_items() -> None:
    """One that is there and one that is deleted, which share a tag with a third."""
    make_item(id="other", tags=["metal"])
    for item_id in ("bolt", "gone"):
        tags = ["metal", SECRET]
        make_item(id=item_id, name=f"A {SECRET}", description=SECRET, tags=tags)
        catalogue.update_item(item_id, {"name": f"B {SECRET}"}, actor=TESTER)
    catalogue.delete_item("gone", actor=TESTER)
    catalogue.undo(changes_of("gone")[0], actor=TESTER)
    catalogue.delete_item("gone", actor=TESTER)


def rows_with(text: str) -> list[str]:
    """Rows of any table that have the text in any column."""
    return [
        f"{model._meta.label} {row}"
        for model in apps.get_models()
        if model._meta.managed
        for row in model._base_manager.values()
        if text in repr(row).lower()
    ]


def test_purge_leaves_nothing_of_the_contents_and_that_it_happened():
    make_secret_items()
    before = {item_id: history(item_id) for item_id in ("bolt", "gone")}
    assert len(rows_with(SECRET)) > 8
    stale = list(ItemChange.objects.filter(item_id="bolt"))
    assert catalogue.purge_items(["bolt", "gone", "never"], actor=TESTER) == 2
    assert rows_with(SECRET) == []
    for item_id, changes in before.items():
        assert history(item_id) == [(len(changes) + 1, "purged"), *changes]
    assert changes_of("bolt")[0].actor_name == "tester"
    assert catalogue.get_item("other").tag_names() == ["metal"]
    # Read before the purge, a change does not bring its contents back.
    for change in [*stale, *changes_of("bolt")]:
        with pytest.raises(catalogue.ChangePurged):
            catalogue.undo(change, actor=TESTER)
    assert catalogue.purge_items(["bolt"], actor=TESTER) == 0
    assert make_item(id="bolt").version == len(before["bolt"]) + 2
    assert catalogue.undo(changes_of("bolt")[0], actor=TESTER) is None


def test_purge_that_fails_in_the_middle_leaves_everything(monkeypatch):
    make_secret_items()
    before, epoch = rows_with(SECRET), Epoch.objects.get().of_caches
    monkeypatch.setattr(catalogue, "DELETE_BATCH", 1)
    log = catalogue._log

    def fail_at_the_second(entries, actor):
        if entries[0][0] == "gone":
            raise OperationalError("away")
        return log(entries, actor)

    monkeypatch.setattr(catalogue, "_log", fail_at_the_second)
    with pytest.raises(OperationalError):
        catalogue.purge_items(["bolt", "gone"], actor=TESTER)
    assert rows_with(SECRET) == before
    assert Epoch.objects.get().of_caches == epoch


@pytest.mark.django_db(transaction=True)
def test_purge_beside_other_writers_leaves_no_contents():
    make_secret_items()
    changes = list(changes_of("gone"))

    def write() -> None:
        for n in range(10):
            with contextlib.suppress(SiteError):
                catalogue.undo(changes[n % 2], actor=TESTER)
            with contextlib.suppress(SiteError):
                name = f"{SECRET} {n}"
                catalogue.update_item("bolt", {"name": name}, actor=TESTER)

    purge = partial(catalogue.purge_items, ["gone", "bolt"], actor=TESTER)
    outcomes = in_threads(write, write, purge)
    assert [o for o in outcomes if isinstance(o, Exception)] == []
    assert rows_with(SECRET) == []


@pytest.mark.once
@pytest.mark.django_db(transaction=True)
def test_undo_restores_nothing_of_what_is_purged_meanwhile(monkeypatch):
    if connection.vendor == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    make_secret_items()
    deletion, create = changes_of("gone")[0], catalogue.create_item
    purge = partial(catalogue.purge_items, ["gone", "bolt"], actor=TESTER)

    def create_later(*args, **kwargs) -> Item:
        assert in_threads(purge) == [2]
        return create(*args, **kwargs)

    monkeypatch.setattr(catalogue, "create_item", create_later)
    with pytest.raises(catalogue.ChangePurged):
        catalogue.undo(deletion, actor=TESTER)
    assert rows_with(SECRET) == []


@pytest.fixture
def full_disk(transactional_db):
    """SQLite refuses to grow its file, with the error that a full disk makes."""
    if connection.vendor != "sqlite":
        pytest.skip("PostgreSQL has no such limit")
    make_item(id="before", name="Before")
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA page_count")
        cursor.execute(f"PRAGMA max_page_count = {cursor.fetchone()[0]}")
        yield
        cursor.execute("PRAGMA max_page_count = 4294967294")


def test_write_on_a_full_disk_is_rejected_whole(api, full_disk):
    rows = [{"name": f"Item {n}", "description": "x" * 9_000} for n in range(100)]
    refused = api.post("/api/v1/items/-/bulk", rows)
    assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
    assert int(refused["Retry-After"]) > 0
    assert ItemChange.objects.get().item_id == "before"
    assert api.get("/api/v1/items/before").json()["name"] == "Before"
    assert Item.objects.get().pk == "before"
