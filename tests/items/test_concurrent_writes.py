"""What two writers make together holds as well as what each of them makes."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from items import catalogue
from items.bulk import staging
from items.integrity import POINTERS
from items.models import Collection, Item, ItemChange
from resilient_site.errors import SiteError
from tests.factories import TESTER, make_item
from tests.threads import while_uncommitted

pytestmark = [pytest.mark.once, pytest.mark.django_db(transaction=True)]

CODES = "abc"
MOVES = st.lists(
    st.tuples(
        st.sampled_from(POINTERS),
        st.sampled_from(CODES),
        st.sampled_from([*CODES, None]),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(MOVES, MOVES)
@example([("parent", "a", "b")], [("parent", "b", "c"), ("parent", "c", "a")])
def test_hierarchy_has_no_circle_after_moves_at_one_time(moves, others):
    Item.objects.all().delete()
    for code in CODES:
        make_item(id=code)

    def move(moves: list[tuple[str, str, str | None]]) -> None:
        for name, item_id, target in moves:
            with suppress(SiteError):  # it would be above itself
                catalogue.update_item(item_id, {name: target}, actor=TESTER)

    assert while_uncommitted(partial(move, moves), partial(move, others)) == [None] * 2
    for name in POINTERS:
        above = dict(Item.objects.values_list("pk", f"{name}_id"))
        for start in above:
            at: str | None = start
            for _ in CODES:
                at = above[at] if at else None
            assert at is None, above


def test_write_that_waited_sees_all_that_the_other_one_wrote():
    for key in ("here", "there"):
        Collection.objects.create(key=key, name=key)
    make_item(id="a", collection="here", code="a", tags=["old"])

    def write(changes: dict[str, Any]) -> None:
        catalogue.update_item("a", changes, actor=TESTER)

    moved = {"collection": "there", "tags": ["new", "newer"]}
    while_uncommitted(partial(write, moved), partial(write, {"name": "Later"}))
    item = Item.objects.get()
    assert (item.name, item.collection_id, item.version) == ("Later", "there", 3)
    last = ItemChange.objects.latest("version")
    assert last.before
    assert last.before["tags"] == ["new", "newer"]
    assert last.after == last.before | {"name": "Later"}


# --- nothing refers to what is not there

LINK = {"relation": "exactMatch", "target": "kin.x"}
REFERENCES = {
    "parent": {"parent": "kin.x"},
    "replaced_by": {"replaced_by": "kin.x"},
    "links": {"links": [LINK]},
    "code": {"attributes": {"kin": "x"}},
}


def refer(value: dict[str, Any]) -> None:
    catalogue.update_item("kin.a", value, actor=TESTER)


def create_referring(value: dict[str, Any]) -> None:
    make_item(collection="kin", code="b", **value)


def import_referring(value: dict[str, Any]) -> None:
    counts = staging.apply([{"id": "kin.a", **value}], actor=TESTER)
    assert counts.updated or counts.rejected


ENDINGS: dict[str, Callable[[], object]] = {
    "delete": lambda: catalogue.delete_item("kin.x", actor=TESTER),
    "delete many": lambda: catalogue.delete_items(["kin.x"], actor=TESTER),
    "purge": lambda: catalogue.purge_items(["kin.x"], actor=TESTER),
    "rename": lambda: catalogue.update_item("kin.x", {"code": "y"}, actor=TESTER),
}


def dangling() -> Iterator[tuple[str, str]]:
    """Yield the items that refer to what is not there, and by what."""
    items = {item.pk: item for item in Item.objects.all()}
    codes = {item.code for item in items.values()}
    for pk, item in items.items():
        targets = [item.parent_id, item.replaced_by_id]
        targets += [link["target"] for link in item.links]
        yield from ((pk, name) for name in targets if name and name not in items)
        if (code := item.attributes.get("kin")) and code not in codes:
            yield pk, code


@pytest.fixture
def kin(db: None) -> Iterator[None]:
    """A collection whose items refer to each other by code, with two of them."""
    kin = {"type": "string", "x-reference": "kin"}
    Collection.objects.create(
        key="kin", name="Kin", schema={"properties": {"kin": kin}}
    )
    make_item(collection="kin", code="x")
    make_item(collection="kin", code="a")
    yield
    Item.objects.all().delete()


@pytest.mark.parametrize(
    ("field", "way", "end"),
    [
        *((field, refer, "delete") for field in ("parent", "replaced_by", "links")),
        *product(["code"], [refer, create_referring, import_referring], ENDINGS),
    ],
)
def test_nothing_refers_to_what_another_writer_has_taken_away(kin, field, way, end):
    """Whichever of the two is first: the other one sees it, or waits for it."""
    writers = [partial(way, REFERENCES[field]), ENDINGS[end]]
    while_uncommitted(*writers)
    assert [*dangling()] == []
    while_uncommitted(*reversed(writers))
    assert [*dangling()] == []
