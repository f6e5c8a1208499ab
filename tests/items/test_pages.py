"""The pages of the catalogue: what people see and may do."""

import re
from io import StringIO
from uuid import UUID

import pytest
from django.contrib.auth.models import Permission
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.urls import reverse

from items import catalogue, fields
from items.models import Item, ItemChange
from tests.factories import TESTER, make_item, make_items

pytestmark = [pytest.mark.once, pytest.mark.django_db]

FORM = {"name": "Steel bolt", "description": "M8", "tags": "steel, Small"}


def text(response) -> str:
    return response.content.decode()


# --- reading


def test_front_page_is_the_list_which_shows_editors_how_to_start(client, editor):
    response = client.get("/", follow=True)
    assert response.redirect_chain == [("/items/", 302)]
    assert "The catalogue is empty" in text(response)
    assert "Create an item" not in text(response)
    client.force_login(editor)
    assert "Create an item" in text(client.get("/items/"))


def test_list_page_searches_filters_orders_and_paginates(client):
    make_items(60, tags=["t"])
    make_item(name="Needle", tags=["u"])

    first = client.get("/items/")
    assert "Item 00000" in text(first)
    assert "Needle" not in text(first)
    page = client.get("/items/", {"cursor": first.context["page"].next})
    assert "Needle" in text(page)
    back = page.context["page"].previous
    assert f"?cursor={back}" in text(page)
    assert "Item 00000" in text(client.get("/items/", {"cursor": back}))
    found = "<mark>Needl</mark>e"
    assert found in text(client.get("/items/?search=needl&tag=u&ordering=-name"))
    assert "Needle" not in text(client.get("/items/?tag=t&search=needle"))


def test_search_as_you_type_gets_only_the_results(client):
    make_item(name="Needle")
    headers = {"HX-Request": "true", "HX-Target": "results"}
    response = client.get("/items/?search=need", headers=headers)
    assert "<mark>Need</mark>le" in text(response)
    assert "<html" not in text(response)
    assert "<html" in text(client.get("/items/?search=need"))


def test_item_page_shows_item_and_history(client):
    make_item(id="bolt", name="Old <b>", description="line\nother")
    catalogue.update_item("bolt", {"name": "New"}, actor=TESTER)
    response = client.get("/items/bolt/")
    assert "Old &lt;b&gt;" in text(response)
    assert "tester" not in text(response)
    assert [c.version for c in response.context["history"].rows] == [2, 1]


def test_deleted_item_is_410_and_among_the_changes_of_all_items(client):
    make_item(id="bolt")
    catalogue.delete_item("bolt", actor=TESTER)
    response = client.get("/items/bolt/")
    assert response.status_code == 410
    assert "deleted" in text(response)
    response = client.get("/items/-/changes/")
    assert [c.action for c in response.context["page"].rows] == ["deleted", "created"]
    assert "/items/bolt/" in text(response)
    assert "tester" not in text(response)


def test_purged_item_says_that_it_cannot_be_restored(editor_client):
    make_item(id="bolt")
    catalogue.delete_item("bolt", actor=TESTER)
    call_command("purge_item", "bolt", stdout=(output := StringIO()))
    assert "backups" in output.getvalue()
    with pytest.raises(CommandError, match="never was"):
        call_command("purge_item", "nix")
    response = editor_client.get("/items/bolt/")
    page = response.content.decode()
    assert (response.status_code, "Brass" in page) == (410, False)
    assert "cannot be undone" in page
    assert "/undo/" not in page
    created = ItemChange.objects.get(item_id="bolt", action="created")
    url = reverse("items:undo", args=["bolt", created.pk])
    assert editor_client.post(url).status_code == 409
    assert "purge_item" in editor_client.get("/items/-/changes/").content.decode()
    assert editor_client.get("/api/v1/items/bolt").status_code in (404, 410)
    rows = editor_client.get("/api/v1/items/bolt/history").json()["results"]
    assert [row["action"] for row in rows] == ["purged", "deleted", "created"]
    assert {row["before"] or row["after"] for row in rows} == {None}
    # A new item of that id has the emptied history, of which nothing can be undone.
    make_item(id="bolt", name="New")
    page = editor_client.get("/items/bolt/").content.decode()
    assert page.count("removed for good") == 2
    assert page.count("/undo/") == 1  # of its creation


@pytest.mark.parametrize(
    ("path", "status", "word"),
    [
        ("/items/nix/", 404, ""),
        ("/nothing/", 404, ""),
        ("/items/a%20b/", 404, ""),
        ("/items/%00/", 404, ""),
        ("/items/?ordering=size", 400, "ordering"),
        ("/items/?search=%00", 400, "null"),
    ],
)
def test_unknown_item_or_bad_query_is_an_error_page(client, path, status, word):
    response = client.get(path)
    assert response.status_code == status
    assert response["Content-Type"].startswith("text/html")
    assert response["X-Request-ID"] in text(response)
    assert word in text(response)


# --- writing


def test_editor_creates_an_item(editor_client):
    response = editor_client.post("/items/-/new/", FORM | {"id": "bolt"}, follow=True)
    assert response.redirect_chain == [("/items/bolt/", 302)]
    item = catalogue.get_item("bolt")
    assert (item.name, item.tag_names()) == ("Steel bolt", ["small", "steel"])
    assert ItemChange.objects.get().actor_name == "edith"
    editor_client.post("/items/-/new/", FORM | {"id": ""})  # one is generated
    assert Item.objects.count() == 2


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"id": "a b"}, "id"),
        ({"id": "taken"}, "id"),
        ({"tags": '"dark red'}, "tags"),
        ({"description": "x" * 10_001}, "description"),
        ({"collection": "nix", "code": "1"}, "collection"),
        ({"code": "another", "id": "one"}, "code"),
        ({"valid_from": "2026-02-30"}, "valid_from"),
        ({"valid_from": "2026-02-02", "valid_to": "2026-02-01"}, "valid_to"),
        ({"parent": "nix"}, "parent"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_bad_form_shows_the_error_at_its_field(editor_client, bad, field):
    make_item(id="taken")
    response = editor_client.post("/items/-/new/", FORM | bad)
    assert response.status_code == 422
    assert set(response.context["form"].errors) == {field}
    assert Item.objects.count() == 1


def test_editor_changes_the_version_shown_of_an_item(editor_client):
    make_item(id="bolt")
    assert editor_client.post("/items/bolt/edit/", FORM).status_code == 422
    page = editor_client.get("/items/bolt/edit/")
    version = page.context["form"]["version"].value()
    response = editor_client.post("/items/bolt/edit/", FORM | {"version": version})
    assert response.status_code == 302
    item = catalogue.get_item("bolt")
    assert (item.name, item.version) == ("Steel bolt", 2)


def test_form_fills_and_clears_every_field(editor_client):
    make_item(id="whole", name="Whole")
    filled = {
        "labels": {"de": "Schraube"},
        "aliases": ["Screw"],
        "attributes": {"length_mm": 40},
        "status": "retired",
        "valid_from": "2020-01-01",
        "valid_to": "2025-12-31",
        "parent": "whole",
        "replaced_by": "whole",
        "links": [{"relation": "closeMatch", "target": "whole"}],
    }
    texts = {
        "labels-language": "de",
        "labels-text": "Schraube",
        "aliases": "Screw",
        "attributes-name": "length_mm",
        "attributes-value": "40",
        "links-relation": "closeMatch",
        "links-target": "whole",
    }
    texts |= {name: value for name, value in filled.items() if isinstance(value, str)}
    make_item(id="bolt")
    for number, sent, expected in (
        (1, texts, filled),
        (2, dict.fromkeys(texts, ""), {n: fields.empty_state()[n] for n in filled}),
    ):
        page = editor_client.get("/items/bolt/edit/")
        version = page.context["form"]["version"].value()
        data = FORM | sent | {"version": version}
        response = editor_client.post("/items/bolt/edit/", data, follow=True)
        assert response.status_code == 200
        item = catalogue.get_item("bolt")
        assert item.version == number + 1
        assert {name: item.state()[name] for name in filled} == expected
        assert "closeMatch: whole" in text(response)


def test_conflicting_edit_shows_the_saved_version(editor_client):
    make_item(id="bolt")
    catalogue.update_item("bolt", {"name": "Theirs"}, actor=TESTER)

    response = editor_client.post("/items/bolt/edit/", FORM | {"version": "1"})

    assert response.status_code == 409
    assert "Theirs" in text(response)
    assert "Steel bolt" in text(response)
    assert catalogue.get_item("bolt").name == "Theirs"

    again = response.context["form"]["version"].value()
    response = editor_client.post("/items/bolt/edit/", FORM | {"version": again})
    assert response.status_code == 302
    assert catalogue.get_item("bolt").name == "Steel bolt"


def test_deletion_is_confirmed_and_undone(editor_client):
    item = make_item(id="bolt")
    page = editor_client.get("/items/bolt/delete/")
    assert "Brass bolt" in text(page)
    assert Item.objects.exists()

    assert f'name="version" value="{item.revision}"' in text(page)
    response = editor_client.post("/items/bolt/delete/", {"version": item.revision})
    assert response.status_code == 302
    assert not Item.objects.exists()

    change = ItemChange.objects.get(action="deleted")
    url = reverse("items:undo", args=["bolt", change.pk])
    assert editor_client.get(url).status_code == 405
    of_another = reverse("items:undo", args=["nut", change.pk])
    assert editor_client.post(of_another).status_code == 404
    editor_client.post(url)
    assert catalogue.get_item("bolt").tag_names() == ["metal"]


def test_undoing_a_creation_asks_first(editor_client):
    item = make_item()
    page = text(editor_client.get(item.get_absolute_url()))
    address = reverse("items:delete", args=[item.pk])
    assert f'href="{address}" aria-label="Undo the creation' in page
    assert "Delete this item?" in text(editor_client.get(address))


def test_text_has_its_own_direction(editor_client):
    """A name with control characters does not turn the page around it."""
    item = make_item(name="\u202eabc שלום", description="مرحبا \u202e")
    catalogue.update_item(item.pk, {"name": "\u2067def"}, actor=TESTER)
    for path in ("/items/", "/items/-/changes/", item.get_absolute_url()):
        page = text(editor_client.get(path))
        body = page[page.index("<main") :]
        without = re.sub(r'<(\w+)[^>]* dir="auto".*?</\1>', "", body, flags=re.S)
        assert "def" in body
        assert not re.search("[\u202e\u2067]", without), path


@pytest.mark.parametrize("version", ["", "-1", "1", "1.5", "x", "9" * 5000, "²"])
def test_deletion_requires_the_version_shown(editor_client, version):
    make_item(id="bolt")
    catalogue.update_item("bolt", {"name": "X"}, actor=TESTER)
    data = {"version": version}
    response = editor_client.post("/items/bolt/delete/", data, follow=True)
    assert Item.objects.exists()
    assert ("changed" in text(response)) or version != "1"


def test_undo_requires_all_permissions_of_an_editor(client, reader):
    make_item(id="bolt")
    for permission in Permission.objects.filter(codename="change_item"):
        reader.user_permissions.add(permission)
    client.force_login(reader)
    url = reverse("items:undo", args=["bolt", ItemChange.objects.get().pk])
    assert client.post(url).status_code == 403
    assert "undo" not in text(client.get("/items/bolt/"))
    assert Item.objects.exists()


@pytest.mark.parametrize(
    "rest", ["new/", "import/", "changes/?cursor=x", f"import/{UUID(int=1)}/"]
)
def test_page_is_found_from_its_address_of_before(editor_client, rest):
    for send in (editor_client.get, editor_client.post):
        response = send(f"/items/{rest}")
        assert (response.status_code, response["Location"]) == (307, f"/items/-/{rest}")


WRITING = [
    "/items/-/new/", "/items/bolt/edit/", "/items/bolt/retire/", "/items/bolt/delete/",
    "/items/-/import/",
]  # fmt: skip


def test_import_requires_permission_to_change_items(client, reader):
    for permission in Permission.objects.filter(codename="add_item"):
        reader.user_permissions.add(permission)
    client.force_login(reader)
    assert client.get("/items/-/new/").status_code == 200
    assert client.get("/items/-/import/").status_code == 403
    assert "Import" not in text(client.get("/items/"))


@pytest.mark.parametrize("path", WRITING)
def test_writing_asks_anonymous_to_sign_in_and_rejects_readers(client, reader, path):
    make_item(id="bolt")
    response = client.get(path)
    assert response.status_code == 302
    assert response["Location"] == f"/account/sign-in/?next={path}"
    client.force_login(reader)
    assert client.get(path).status_code == 403
    assert client.post(path, FORM).status_code == 403
    assert catalogue.get_item("bolt").version == 1


def test_session_without_a_csrf_token_is_rejected(editor):
    client = Client(enforce_csrf_checks=True)
    client.force_login(editor)
    response = client.post("/items/-/new/", FORM)
    assert response.status_code == 403
    assert "reload" in text(response)
    response = client.post("/api/v1/items/", {"name": "x"}, "application/json")
    assert response.status_code == 403
    assert response["Content-Type"] == "application/problem+json"
    assert not Item.objects.exists()


# --- query counts


def test_pages_take_a_fixed_number_of_queries(
    client, editor_client, django_assert_num_queries
):
    make_items(60, tags=["t", "u"])
    client.get("/items/")  # the tag counts, from now on from the cache
    session_and_user = 2
    permissions = 1
    item_with_collection_and_history = 2
    # PostgreSQL's planner is asked how many rows a filter leaves.
    planned = int(connection.vendor == "postgresql")
    # Counts of the items found, for which it is asked once more, and collections.
    list_with_tags, controls, counts = 2, 1, 1 + planned
    for number, path in (
        (list_with_tags + controls, "/items/"),
        (list_with_tags + planned + controls + counts, "/items/?search=item"),
        (list_with_tags + planned + controls + counts + 2, "/items/?tag=t"),
        (item_with_collection_and_history, "/items/item-00001/"),
        (1, "/items/-/changes/"),
    ):
        with django_assert_num_queries(number):
            assert Client().get(path).status_code == 200
        with django_assert_num_queries(number + session_and_user + permissions):
            assert editor_client.get(path).status_code == 200
    item_its_collection_and_all = 3
    with django_assert_num_queries(
        item_its_collection_and_all + session_and_user + permissions
    ):
        assert editor_client.get("/items/item-00001/edit/").status_code == 200
