"""What reads show: some fields of items, and what they refer to in place of its id."""

import pytest

from items import catalogue
from items.imports.exporting import FORMATS
from items.integrity import POINTERS
from items.models import Item, ItemChange
from items.representation import NAMES
from tests.factories import TESTER, make_item

pytestmark = [pytest.mark.once, pytest.mark.django_db]

ITEMS = "/api/v1/items"
SUMMARY = {
    "id": "old", "collection": "general", "code": "old", "name": "Old",
    "status": "active",
}  # fmt: skip
NUMBER = SUMMARY | {"id": 7, "code": "7", "name": "Seven"}


@pytest.fixture
def bolt(db: None) -> Item:
    """It has a parent and two links, and no successor."""
    make_item(id="old", name="Old")
    make_item(id="7", name="Seven")
    links = [
        {"relation": "exactMatch", "target": "old"},
        {"relation": "broadMatch", "target": "7"},
    ]
    return make_item(id="bolt", parent="7", links=links)


@pytest.mark.parametrize("query", ["fields=name,tags", "fields=tags&fields=name,,id"])
def test_read_shows_the_fields_that_are_named_and_the_id(anonymous_api, bolt, query):
    one = anonymous_api.get(f"{ITEMS}/bolt?{query}")
    some = anonymous_api.get(f"{ITEMS}?{query}&page_size=1&ordering=-id")
    shown = {"id": "bolt", "name": "Brass bolt", "tags": ["metal"]}
    assert one.json() == some.json()["results"][-1] | shown == shown
    assert "fields=" in some.json()["next"]


def test_every_member_of_an_item_can_be_named(anonymous_api, bolt):
    whole = anonymous_api.get(f"{ITEMS}/bolt").json()
    assert [*whole] == [*NAMES]
    assert anonymous_api.get(f"{ITEMS}/bolt?fields={','.join(NAMES)}").json() == whole
    assert anonymous_api.get(f"{ITEMS}/bolt?fields=&expand=").json() == whole


def test_expanded_items_stand_in_place_of_their_ids(anonymous_api, bolt):
    query = "expand=parent,replaced_by,links&fields=parent,replaced_by,links"
    expanded = {
        "id": "bolt",
        "parent": NUMBER,
        "replaced_by": None,
        "links": [
            {"relation": "broadMatch", "target": NUMBER},
            {"relation": "exactMatch", "target": SUMMARY},
        ],
    }
    assert anonymous_api.get(f"{ITEMS}/bolt?{query}").json() == expanded
    rows = anonymous_api.get(f"{ITEMS}?{query}&ordering=id").json()["results"]
    assert expanded in rows
    assert [row["parent"] for row in rows if row["id"] != "bolt"] == [None, None]
    # What is not shown is not expanded either.
    one = anonymous_api.get(f"{ITEMS}/bolt?expand=parent&fields=name").json()
    assert one == {"id": "bolt", "name": "Brass bolt"}


def test_expanded_page_takes_one_query_more(
    anonymous_api, bolt, django_assert_num_queries
):
    for query, number in (("", 2), ("?expand=parent,links", 3)):
        with django_assert_num_queries(number):
            anonymous_api.get(f"{ITEMS}{query}")


@pytest.mark.parametrize(
    ("query", "parameter", "message"),
    [
        ("fields=nmae,tags", "fields", "“nmae”: This name is not known. Did you mean"),
        ("fields=q", "fields", "Known are aliases, attributes"),
        ("expand=parents", "expand", "Did you mean “parent”?"),
        ("expand=name", "expand", "Known are links, parent, replaced_by"),
    ],
)
@pytest.mark.parametrize("path", ["", "/bolt"])
def test_unknown_name_is_400_unless_the_client_is_lenient(
    anonymous_api, bolt, path, query, parameter, message
):
    response = anonymous_api.get(f"{ITEMS}{path}?{query}")
    assert (response.status_code, response.json()["code"]) == (400, "invalid")
    [found] = response.json()["errors"][parameter]
    assert message in found
    headers = {"Prefer": "handling=lenient"}
    response = anonymous_api.get(f"{ITEMS}{path}?{query}", headers=headers)
    assert response.status_code == 200


def test_representation_has_an_entity_tag_of_its_own(api, bolt):
    """That of the item as a whole is the one for writes."""
    queries = ("", "?fields=name", "?expand=parent", "?fields=parent&expand=parent")
    reads = [api.get(f"{ITEMS}/bolt{query}") for query in queries]
    tags = [read["ETag"] for read in reads]
    assert len({*tags}) == 4
    assert tags[0] == bolt.etag
    catalogue.update_item("7", {"name": "Seven!"}, actor=TESTER)
    for query, tag, status in zip(queries, tags, (304, 304, 200, 200), strict=True):
        response = api.get(f"{ITEMS}/bolt{query}", headers={"If-None-Match": tag})
        assert response.status_code == status
    for tag, status in ((tags[1], 412), (tags[0], 200)):
        headers = {"If-Match": tag}
        response = api.patch(f"{ITEMS}/bolt", {"name": "B"}, headers=headers)
        assert response.status_code == status


def test_shared_response_has_the_tags_of_all_that_it_shows(anonymous_api, bolt):
    def tags(query: str) -> set[str]:
        return {*anonymous_api.get(f"{ITEMS}/bolt{query}")["Cache-Tag"].split()}

    assert tags("") == tags("?expand=replaced_by&fields=code") == {"item:bolt"}
    assert tags("?expand=parent") == {"item:bolt", "item:7"}
    assert tags("?expand=links") == {"item:bolt", "item:7", "item:old"}
    assert POINTERS == ("parent", "replaced_by")


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/items/bolt", "/api/v1/items", "/api/v1/items/bolt?fields=attributes",
        "/api/v1/items/bolt/history", "/api/v1/changes",
        "/api/v1/collections/general/lookup?code=bolt",
        "/items/bolt/", "/items/", "/items/-/changes/", "/items/bolt/edit/",
        "/admin/items/item/bolt/change/",
        *(f"/api/v1/items/export?format={name}" for name in FORMATS),
    ],
)  # fmt: skip
def test_item_is_shown_with_a_number_that_sql_has_written(admin_client, bolt, path):
    """Of more bits than JSON of the requests may have; the other items must be read."""
    huge = {"atoms": 10**30}
    Item.objects.filter(pk="bolt").update(attributes=huge)
    made = ItemChange.objects.get(item_id="bolt")
    made.after["attributes"] = huge
    made.save()
    response = admin_client.get(path)
    assert response.status_code == 200
    assert response.streaming is False or b"".join(response)
