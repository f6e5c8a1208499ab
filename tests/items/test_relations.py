"""Children, ancestors, references: alike on both databases."""

import json

import pytest
from django.db import connection

from items import relations
from items.bulk import staging
from items.models import Collection, Item
from tests.factories import TESTER, make_item

pytestmark = pytest.mark.django_db

ITEMS = "/api/v1/items"


def ids(response) -> list[str]:
    assert response.status_code == 200, response.content
    return [item["id"] for item in response.json()["results"]]


@pytest.fixture
def tree(db: None) -> None:
    """world > europe > (france > paris, germany), and an island of its own."""
    for name, parent in (
        ("world", None),
        ("europe", "world"),
        ("germany", "europe"),
        ("france", "europe"),
        ("paris", "france"),
        ("island", None),
    ):
        make_item(id=name, name=name, parent=parent)


def test_children_are_those_directly_below_by_name(anonymous_api, tree):
    assert ids(anonymous_api.get(f"{ITEMS}/europe/children")) == ["france", "germany"]
    assert ids(anonymous_api.get(f"{ITEMS}/paris/children")) == []
    first = anonymous_api.get(f"{ITEMS}/europe/children?page_size=1").json()
    assert ids(anonymous_api.get(first["next"])) == ["germany"]


def test_ancestors_are_those_above_from_the_top_down(anonymous_api, tree):
    above = anonymous_api.get(f"{ITEMS}/paris/ancestors")
    assert ids(above) == ["world", "europe", "france"]
    assert above.json()["results"][0] == anonymous_api.get(f"{ITEMS}/world").json()
    assert ids(anonymous_api.get(f"{ITEMS}/world/ancestors")) == []


def test_subtree_is_all_below_at_any_level(tree):
    def below(*names: str) -> set[str]:
        rows = Item.objects.filter(relations.is_below(names))
        return set(rows.values_list("pk", flat=True))

    assert below("europe") == {"germany", "france", "paris"}
    assert below("france", "world") == {"europe", "germany", "france", "paris"}
    assert below("island") == below("unknown") == set()


def test_subtree_and_ancestors_end_in_a_circle(tree):
    """No way of writing makes one, but a hand in the database may."""
    Item.objects.filter(pk="europe").update(parent="paris")
    rows = Item.objects.filter(relations.is_below(["europe"]))
    assert set(rows.values_list("pk", flat=True)) == {
        "europe", "germany", "france", "paris",
    }  # fmt: skip
    assert {item.pk for item in relations.ancestors(Item.objects.get(pk="paris"))} == {
        "europe", "france", "paris",
    }  # fmt: skip


def test_references_are_those_who_refer_to_it_and_how(
    anonymous_api, django_assert_num_queries
):
    schema = {
        "properties": {
            "land": {"type": "string", "x-reference": "lands"},
            "near": {"type": "string", "x-reference": "towns"},
        }
    }
    Collection.objects.create(key="lands", name="Lands")
    Collection.objects.create(key="towns", name="Towns", schema=schema)
    old = make_item(collection="lands", code="FR", name="France")
    link = {"relation": "exactMatch", "target": old.pk}
    make_item(collection="lands", code="75", name="Paris", parent=old.pk, links=[link])
    make_item(collection="lands", code="FX", name="Other", replaced_by=old.pk)
    make_item(
        collection="towns",
        code="1",
        name="Lyon",
        attributes={"land": "FR", "near": "1"},
        links=[link, {"relation": "broadMatch", "target": old.pk}],
    )
    make_item(id="unrelated", name="FR")

    with django_assert_num_queries(3):
        found = anonymous_api.get(f"{ITEMS}/{old.pk}/references")
    assert [(row["id"], row["fields"]) for row in found.json()["results"]] == [
        ("lands.75", ["parent", "links.exactMatch"]),
        ("lands.FX", ["replaced_by"]),
        ("towns.1", ["links.broadMatch", "links.exactMatch", "attributes.land"]),
    ]
    assert found.json()["results"][2] == {
        "id": "towns.1",
        "collection": "towns",
        "code": "1",
        "name": "Lyon",
        "status": "active",
        "fields": ["links.broadMatch", "links.exactMatch", "attributes.land"],
    }
    first = anonymous_api.get(f"{ITEMS}/{old.pk}/references?page_size=2").json()
    assert ids(anonymous_api.get(first["next"])) == ["towns.1"]
    # What refers to itself is no reason to keep it.
    assert ids(anonymous_api.get(f"{ITEMS}/towns.1/references")) == []
    assert ids(anonymous_api.get(f"{ITEMS}/unrelated/references")) == []


def test_code_that_an_attribute_refers_to_is_kept(api):
    """Unless what refers to it follows, by the same write."""
    near = {"type": "string", "x-reference": "towns"}
    schema = {"properties": {"near": near, "note": {"type": "string"}}}
    Collection.objects.create(key="towns", name="Towns", schema=schema)
    make_item(collection="towns", code="1", name="Lyon")
    make_item(collection="towns", code="2", name="Dijon", attributes={"near": "1"})
    for change in ({"code": "3"}, {"collection": "general", "code": "towns.1"}):
        response = api.patch(f"{ITEMS}/towns.1", change)
        assert response.status_code == 400
        [[message]] = response.json()["errors"].values()
        assert "“towns.2” refers to it by its code" in message
    assert api.patch(f"{ITEMS}/towns.1", {"name": "Lugdunum"}).status_code == 200

    response = api.delete(f"{ITEMS}/towns.1")
    assert [one["item"] for one in response.json()["references"]] == ["towns.2"]

    def together(code: str, **attributes: str) -> tuple[int, set[str]]:
        lyon = {"id": "towns.1", "code": code}
        dijon = {"id": "towns.2", "attributes": attributes}
        counts = staging.apply([lyon, dijon], actor=TESTER)
        return counts.updated, {*counts.rejected}

    assert together("3", near="3") == (2, set())
    assert together("4", near="3") == (0, {"towns.1"})
    assert together("4", near="3", note="new") == (0, {"towns.1", "towns.2"})
    assert together("4", note="new") == (2, set())


@pytest.mark.parametrize("value", ["1", "true", "text"])
def test_value_that_another_item_has_is_an_error_of_its_attribute(api, value):
    schema = {"properties": {"key": {"type": "string", "x-unique": True}}}
    Collection.objects.create(key="towns", name="Towns", schema=schema)
    make_item(collection="towns", code="a", attributes={"key": value})
    body = {"collection": "towns", "code": "b", "name": "B"}
    response = api.post(ITEMS, body | {"attributes": {"key": value}})
    assert response.status_code == 400
    assert "“towns.a”" in response.json()["errors"]["attributes"]["key"][0]


@pytest.mark.parametrize("relation", ["children", "ancestors", "references"])
def test_relations_of_an_unknown_item_are_404(anonymous_api, relation):
    response = anonymous_api.get(f"{ITEMS}/unknown/{relation}")
    assert response.status_code == 404
    assert json.loads(response.content)["code"] == "item_not_found"


@pytest.mark.skipif(connection.vendor != "postgresql", reason="reads its plan")
def test_subtree_is_read_by_the_index_of_parents(tree):
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
    plan = Item.objects.filter(relations.is_below(["europe"])).values("pk").explain()
    assert plan.count("item_by_parent") == 2, plan
