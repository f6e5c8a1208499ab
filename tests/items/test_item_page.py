"""The page of an item, and the ways to end it: what it refers to and what to it."""

import re
from datetime import date
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from items import catalogue
from items.collections import editing
from items.models import Item
from items.presentation import SHOWN
from tests.factories import TESTER, make_item, make_items
from tests.html_forms import untouched

pytestmark = [pytest.mark.once, pytest.mark.django_db]

SCHEMA = {
    "properties": {
        "size": {"type": "integer", "title": "Größe"},
        "metal": {"type": "string", "title": "Made of", "x-reference": "metals"},
        "page": {"type": "string"},
        "coated": {"type": "boolean"},
        "sizes": {"type": "array", "items": {"type": "integer"}},
    }
}


def text(response: Any) -> str:
    page = response.content.decode()
    return page[page.index("<main") :]


def words(response: Any) -> str:
    return " ".join(re.sub("<[^>]*>", " ", text(response)).split())


@pytest.fixture
def bolts(db) -> None:
    editing.create_collection({"key": "metals", "name": "Metals"})
    make_item(collection="metals", code="Cu", name="Copper")
    editing.create_collection({"key": "bolts", "name": "Bolts", "schema": SCHEMA})
    make_item(id="other", name="Other bolt")
    for code, more in (
        ("M", {"name": "Metric"}),
        ("M8", {"parent": "bolts.M", "name": "Bolt of eight"}),
        ("M9", {}),
        ("M10", {"replaced_by": "bolts.M9", "status": "retired"}),
        (
            "M8x40",
            {
                "name": "Old bolt",
                "description": "",
                "parent": "bolts.M8",
                "replaced_by": "bolts.M10",
                "status": "deprecated",
                "valid_to": "2020-12-31",
                "attributes": {
                    "size": 40, "metal": "Cu", "page": "https://example.org/<b>",
                    "coated": True, "sizes": [1, 2],
                },
                "labels": {"de": "Schraube"},
                "aliases": ["Screw"],
                "links": [{"relation": "exactMatch", "target": "other"}],
            },
        ),
    ):  # fmt: skip
        make_item(**{"collection": "bolts", "code": code, "name": code} | more)


def test_item_page_names_what_the_item_refers_to(client, bolts):
    response = client.get("/items/bolts.M8x40/")
    shown = words(response)
    assert "Catalogue Bolts Metric Bolt of eight Old bolt" in shown
    assert "This code is deprecated" in shown
    assert "Replaced by M10 M10 , later by M9 M9 ." in shown
    assert "valid until 31 December 2020" in shown
    assert "Größe 40 Made of Copper Cu" in shown
    assert "Coated Yes" in shown
    assert "de Schraube Also called Screw" in shown
    assert "Exact match Other bolt other" in shown
    assert "No description" not in shown
    page = text(response)
    assert 'href="/items/metals.Cu/"' in page
    assert 'href="https://example.org/&lt;b&gt;" rel="nofollow' in page
    assert 'href="/items/?collection=bolts"' in page


@pytest.mark.parametrize(
    "changed", ["bolts.M", "bolts.M8", "bolts.M9", "bolts.M10", "metals.Cu", "other"]
)
def test_item_page_is_made_anew_when_what_it_names_is_changed(client, bolts, changed):
    tags = client.get("/items/bolts.M8x40/")["Cache-Tag"].split()
    assert catalogue.item_tag(changed) in tags
    assert editing.COLLECTIONS in tags
    assert catalogue.ITEMS not in tags


def test_all_that_an_item_refers_to_costs_one_query(bolts):
    counts = {}
    for pk in ("other", "bolts.M8", "bolts.M8x40"):
        with CaptureQueriesContext(connection) as queries:
            assert Client().get(f"/items/{pk}/").status_code == 200
        counts[pk] = len(queries)
    # The item with its collection, its history, and what it names.
    assert counts == {"other": 2, "bolts.M8": 3, "bolts.M8x40": 3}


def test_relations_are_loaded_by_the_page_and_are_one_of_their_own(client, bolts):
    assert 'hx-get="/items/bolts.M8/relations/"' in text(client.get("/items/bolts.M8/"))
    shown = words(client.get("/items/bolts.M8/relations/"))
    assert "Below it Old bolt M8x40" in shown
    assert "Referred to by" not in shown
    response = client.get("/items/metals.Cu/relations/")
    assert "Referred to by Old bolt M8x40 Metal" in words(response)
    assert "Below it" not in words(response)
    assert response["Cache-Tag"] == catalogue.ITEMS
    shown = words(client.get("/items/other/relations/"))
    assert "Old bolt M8x40 Links" in shown
    assert "Nothing is below it" in words(client.get("/items/bolts.M8x40/relations/"))
    assert client.get("/items/nix/relations/").status_code == 404


def test_relations_show_a_few_of_many_and_link_to_all(client):
    make_item(id="top")
    make_items(
        SHOWN + 1, parent="top", links=[{"relation": "broadMatch", "target": "top"}]
    )
    response = client.get("/items/top/relations/")
    assert len(response.context["relations"].children) == SHOWN
    assert len(response.context["relations"].references) == SHOWN
    assert 'href="/items/?parent=top"' in text(response)
    assert "/api/v1/items/top/references" in text(response)


def test_deleted_item_is_shown_as_it_was(client, bolts):
    catalogue.delete_item("bolts.M8x40", actor=TESTER)
    response = client.get("/items/bolts.M8x40/")
    assert response.status_code == 410
    shown = words(response)
    for word in (
        "This item was deleted",
        "Größe 40",
        "Made of Cu",
        "other",
        "bolts.M8",
    ):
        assert word in shown


# --- retire and delete


def test_item_is_retired_with_its_successor_and_last_day(editor_client, bolts):
    page = editor_client.get("/items/bolts.M9/")
    assert text(page).index(">Retire<") < text(page).index(">Delete<")
    before = timezone.now().date()
    form = untouched(text(editor_client.get("/items/bolts.M9/retire/")), "retire-form")
    (day,) = form["valid_to"]
    assert before <= date.fromisoformat(day) <= timezone.now().date()
    form |= {"replaced_by": ["M8"], "valid_to": ["2026-06-30"]}
    response = editor_client.post("/items/bolts.M9/retire/", form, follow=True)
    assert response.redirect_chain == [("/items/bolts.M9/", 302)]
    item = catalogue.get_item("bolts.M9")
    assert item.status == "retired"
    assert item.valid_to == date(2026, 6, 30)
    assert (item.replaced_by_id, item.version) == ("bolts.M8", 2)
    assert item.name == "M9"
    assert "Replaced by Bolt of eight" in words(response)
    assert ">Retire<" not in text(response)


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        ({"replaced_by": "nix"}, "replaced_by"),
        ({"replaced_by": "other"}, "replaced_by"),
        ({"replaced_by": "bolts.M10"}, "replaced_by"),  # a circle
        ({"valid_to": "soon"}, "valid_to"),
        ({"valid_to": "2019-01-01"}, "valid_to"),
    ],
)
def test_item_is_not_retired_with_a_wrong_successor_or_day(
    editor_client, bolts, sent, field
):
    catalogue.update_item("bolts.M9", {"valid_from": "2020-01-01"}, actor=TESTER)
    form = untouched(text(editor_client.get("/items/bolts.M9/retire/")), "retire-form")
    response = editor_client.post("/items/bolts.M9/retire/", form | sent)
    assert response.status_code == 422
    assert set(response.context["form"].errors) == {field}
    assert catalogue.get_item("bolts.M9").status == "active"


def test_item_that_was_changed_meanwhile_is_not_retired(editor_client, bolts):
    address = "/items/bolts.M9/retire/"
    form = untouched(text(editor_client.get(address)), "retire-form")
    catalogue.update_item("bolts.M9", {"name": "Theirs"}, actor=TESTER)
    response = editor_client.post(address, form)
    assert response.status_code == 409
    assert "Theirs" in words(response)
    assert catalogue.get_item("bolts.M9").status == "active"
    again = untouched(text(response), "retire-form")
    assert editor_client.post(address, again).status_code == 302
    assert catalogue.get_item("bolts.M9").name == "Theirs"


def test_retiring_requires_permission_to_change_items(client, reader, bolts):
    client.force_login(reader)
    assert client.get("/items/bolts.M9/retire/").status_code == 403
    assert ">Retire<" not in text(client.get("/items/bolts.M9/"))


def test_item_that_others_refer_to_says_so_instead_of_being_deleted(
    editor_client, bolts
):
    item = catalogue.get_item("metals.Cu")
    for response, status in (
        (editor_client.get("/items/metals.Cu/delete/"), 200),
        (
            editor_client.post("/items/metals.Cu/delete/", {"version": item.revision}),
            409,
        ),
    ):
        assert response.status_code == status
        assert 'href="/items/bolts.M8x40/"' in text(response)
        assert 'href="/items/metals.Cu/retire/"' in text(response)
        assert 'class="primary danger"' not in text(response)
    assert Item.objects.filter(pk="metals.Cu").exists()
    free = text(editor_client.get("/items/bolts.M8x40/delete/"))
    assert 'class="primary danger"' in free
    assert 'href="/items/bolts.M8x40/retire/"' in free
