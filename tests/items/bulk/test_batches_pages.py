"""The pages of batches of changes, and of their undo."""

from uuid import UUID

import pytest
from django.test import Client

from items import catalogue
from items.bulk import staging
from items.bulk.batches import begin_batch, finish_batch
from items.models import ChangeBatch, Item
from tests.factories import TESTER, make_item, make_items

pytestmark = [pytest.mark.django_db, pytest.mark.once]

URL = "/items/-/batches/"


@pytest.fixture
def batch(db: None) -> UUID:
    """One item created, two changed, one deleted."""
    make_items(3)
    made = begin_batch(ChangeBatch.Kind.IMPORT, "list <1>.csv", actor=TESTER)
    rows = [{"id": pk, "name": "X"} for pk in ("item-00000", "item-00001", "new")]
    staging.apply(rows, actor=TESTER, batch_id=made.pk)
    catalogue.delete_items(["item-00002"], actor=TESTER, batch_id=made.pk)
    finish_batch(made.pk)
    return made.pk


def test_batches_are_listed_and_shown(editor_client, batch):
    client = Client()
    page = client.get(URL).text
    assert "list &lt;1&gt;.csv" in page
    assert "tester" not in page
    assert "list &lt;1&gt;.csv" not in client.get(f"{URL}?kind=job").text
    editor_page = editor_client.get(f"{URL}{batch}/").text
    assert "by tester" in editor_page
    assert f'href="{URL}{batch}/undo/"' in editor_page
    assert editor_page.count('<span class="action') == 4
    other = client.get("/items/item-00000/").text
    assert f'part of <a href="{URL}{batch}/"' in other
    assert f'part of <a href="{URL}{batch}/"' in client.get("/items/-/changes/").text


def test_batch_is_undone_after_confirmation(editor_client, batch):
    page = editor_client.get(f"{URL}{batch}/undo/").text
    assert "Undo all" in page
    assert Item.objects.filter(pk="new").exists()
    response = editor_client.post(f"{URL}{batch}/undo/", follow=True)
    undo = ChangeBatch.objects.get(undoes=batch)
    assert response.redirect_chain == [(f"{URL}{undo.pk}/", 302)]
    assert "was undone: 4 items" in response.text
    assert {*Item.objects.values_list("name", flat=True)} == {
        "Item 00000", "Item 00001", "Item 00002",
    }  # fmt: skip
    page = editor_client.get(f"{URL}{batch}/").text
    assert f'href="{URL}{undo.pk}/"' in page
    assert "Undo all" not in page
    response = editor_client.post(f"{URL}{batch}/undo/", follow=True)
    assert "nothing to undo" in response.text


def test_conflicts_are_shown_and_left(editor_client, batch):
    make_item(id="child", parent="new")
    catalogue.update_item("item-00000", {"name": "Mine"}, actor=TESTER)
    for response in (
        editor_client.get(f"{URL}{batch}/undo/"),
        editor_client.post(f"{URL}{batch}/undo/"),
    ):
        assert "2 items cannot be as they were" in response.text
        assert "“child” refers to it by parent" in response.text
    assert response.status_code == 409
    data = {"skip_conflicts": "on"}
    response = editor_client.post(f"{URL}{batch}/undo/", data, follow=True)
    assert "2 items left alone" in response.text
    assert Item.objects.get(pk="item-00000").name == "Mine"
    assert Item.objects.filter(pk__in=["new", "item-00002"]).count() == 2


def test_large_batch_is_undone_by_a_job(editor_client, batch):
    ChangeBatch.objects.update(updated=1_000)
    link = f"/jobs/new/undo_batch/?batch={batch}"
    assert f'href="{link}"' in editor_client.get(f"{URL}{batch}/").text
    assert editor_client.get(f"{URL}{batch}/undo/").url == f"{URL}{batch}/"
    assert f'value="{batch}"' in editor_client.get(link).text


def test_undo_page_is_for_those_who_may(client, reader, batch):
    assert "/account/" in client.get(f"{URL}{batch}/undo/").url
    client.force_login(reader)
    assert client.post(f"{URL}{batch}/undo/").status_code == 403
    assert "Undo all" not in client.get(f"{URL}{batch}/").text


def test_no_batches_and_unknown_batch(client):
    assert "No batches" in client.get(URL).text
    unknown = client.get(f"{URL}0193b0f4-7c3e-7a51-9d55-3f1c5a2b7e10/")
    assert unknown.status_code == 404
