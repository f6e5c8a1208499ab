"""The admin: fast on a large table, and writing through the one change log."""

import html
import re

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.urls import reverse

import items.admin
import resilient_site.admin
from items import catalogue
from items.admin import ItemAdmin
from items.models import ChangeBatch, ImportRun, Item, ItemChange
from resilient_site.admin import MAX_COUNTED_ROWS, CappedPaginator
from resilient_site.edge.policy import policy_at
from tests.factories import TESTER, allow, changes_of, make_item, make_items

pytestmark = [pytest.mark.once, pytest.mark.django_db]

ITEMS = "/admin/items/item/"
CHANGES = "/admin/items/itemchange/"
FORM = {"name": "Steel bolt", "description": "M8", "tags": "steel"}


@pytest.fixture
def admin_site(client, admin):
    client.force_login(admin)
    return client


def sent(response) -> str:
    assert response.status_code in (200, 302), response
    return response.getvalue().decode(errors="replace")


def test_admin_adds_changes_and_deletes_items_with_history(admin_site):
    sent(admin_site.post(f"{ITEMS}add/", FORM | {"id": "bolt"}))
    assert catalogue.get_item("bolt").tag_names() == ["steel"]

    page = admin_site.get(f"{ITEMS}bolt/change/")
    version = page.context["adminform"].form["version"].value()
    changed = FORM | {"name": "Brass bolt", "tags": "brass", "version": version}
    sent(admin_site.post(f"{ITEMS}bolt/change/", changed))
    item = catalogue.get_item("bolt")
    assert (item.name, item.tag_names(), item.version) == ("Brass bolt", ["brass"], 2)

    sent(admin_site.post(f"{ITEMS}bolt/delete/", {"post": "yes"}))
    changes = changes_of("bolt")
    assert [c.action for c in changes] == ["deleted", "updated", "created"]
    assert {c.actor_name for c in changes} == {"ada"}
    assert not LogEntry.objects.exists()


def test_taken_id_and_stale_version_are_form_errors(admin_site):
    make_item(id="bolt")
    response = admin_site.post(f"{ITEMS}add/", FORM | {"id": "bolt"})
    assert "Item already exists" in sent(response)
    catalogue.update_item("bolt", {"name": "Theirs"}, actor=TESTER)
    response = admin_site.post(f"{ITEMS}bolt/change/", FORM | {"version": "1"})
    assert "changed" in sent(response)
    assert catalogue.get_item("bolt").name == "Theirs"


def test_deleting_many_items_names_some_and_logs_all(admin_site):
    make_items(60)
    make_item(id="stays")
    ids = [f"item-{n:05}" for n in range(60)]
    data = {"action": "delete_selected", "_selected_action": ids}
    page = sent(admin_site.post(ITEMS, data))
    assert "and 10 more" in page
    assert page.count("Item 000") == 50
    sent(admin_site.post(ITEMS, data | {"post": "yes"}))
    assert Item.objects.get().pk == "stays"
    assert ItemChange.objects.filter(action="deleted").count() == 60
    batch = ChangeBatch.objects.get()
    assert (batch.title, batch.kind, batch.deleted) == ("Delete 60 items", "bulk", 60)
    assert batch.finished_at


def hidden_fields(page: str) -> dict[str, str]:
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page))


def test_selection_across_pages_is_deleted_whatever_its_size(admin_site, settings):
    settings.DATA_UPLOAD_MAX_NUMBER_FIELDS = 20
    make_items(70, tags=["t"])
    make_item(id="stays", tags=["u"])
    data = {"action": "delete_selected", "select_across": "1", "index": "0"}
    data["_selected_action"] = "item-00001"
    page = sent(admin_site.post(f"{ITEMS}?tag=t", data))
    assert "and 20 more" in page
    form = hidden_fields(page)
    make_item(id="new", tags=["t"])
    changed = sent(admin_site.post(f"{ITEMS}?tag=t", form, follow=True))
    assert "selection has changed" in changed
    assert Item.objects.count() == 72
    catalogue.delete_item("new", actor=TESTER)
    sent(admin_site.post(f"{ITEMS}?tag=t", form))
    assert Item.objects.get().pk == "stays"
    # It may take longer than a write may.
    assert policy_at(ITEMS, "POST").is_heavy
    assert not policy_at(ITEMS, "GET").is_heavy


@pytest.mark.parametrize("where", [f"{ITEMS}?tag=t", f"{CHANGES}?q=bolt"])
def test_purge_is_confirmed_and_takes_any_selection(client, reader, settings, where):
    settings.DATA_UPLOAD_MAX_NUMBER_FIELDS = 20
    make_items(70, tags=["t"])
    make_item(id="bolt", name="Confidential", tags=["t"])
    for name in map(str, range(60)):
        catalogue.update_item("bolt", {"name": name}, actor=TESTER)
    pk = ItemChange.objects.get(item_id="bolt", version=1).pk
    data = {"action": "purge", "select_across": "1", "index": "0"}
    data["_selected_action"] = "bolt" if "tag" in where else pk
    reader.is_staff = True
    reader.save()
    allow(reader, "view_item", "view_itemchange", "change_item", "delete_item")
    client.force_login(reader)
    sent(client.post(where, data | {"post": "yes"}))
    assert not ItemChange.objects.filter(action="purged").exists()
    allow(reader, "purge_item")
    page = sent(client.post(where, data))
    assert "cannot be undone" in page
    assert "backups" in page
    assert not ItemChange.objects.filter(action="purged").exists()
    sent(client.post(where, hidden_fields(page)))
    purged = ItemChange.objects.filter(action="purged")
    assert purged.count() == (71 if "tag" in where else 1)
    assert {change.actor_name for change in purged} == {"rita"}
    assert ItemChange.objects.filter(after__isnull=False).count() == 71 - len(purged)


@pytest.mark.parametrize(
    ("action", "job", "params"),
    [
        ("delete_selected", "Delete them by a job", {"tag": "t", "number": "4"}),
        ("export_xlsx", "Export them by a job", {"tag": "t", "format": "xlsx"}),
        ("purge", None, {}),
    ],
)
def test_action_on_more_than_a_request_can_treat_offers_a_job(
    admin_site, monkeypatch, action, job, params
):
    monkeypatch.setattr(resilient_site.admin, "MAX_DELETED_OBJECTS", 3)
    monkeypatch.setattr(items.admin, "MAX_WORKBOOK_ITEMS", 3)
    make_items(4, tags=["t"])
    make_item(id="stays")
    data = {"action": action, "select_across": "1", "_selected_action": "item-00001"}
    for confirmed in {}, {"post": "yes", "number": "4"}:
        answer = admin_site.post(f"{ITEMS}?tag=t", data | confirmed, follow=True)
        page = sent(answer)
        assert "Nothing was done: this action takes up to 3 items" in page
    assert Item.objects.count() == 5
    links = re.findall(rf'<a href="([^"]*)">{job or ".* by a job"}<', page)
    assert len(links) == bool(job)
    if job:
        form = admin_site.get(html.unescape(links[0])).context["form"]
        assert {name: form[name].value() for name in params} == params
    sent(admin_site.post(f"{ITEMS}?tag=t&q=00001", data | {"post": "yes"}))
    assert Item.objects.count() == (5 if action == "export_xlsx" else 4)


def test_action_that_treats_one_after_the_other_states_its_bound(
    admin_site, monkeypatch
):
    monkeypatch.setattr(resilient_site.admin, "MAX_SELECTED_OBJECTS", 3)
    make_items(4)
    pks = list(ItemChange.objects.values_list("pk", flat=True))
    data = {"action": "undo", "select_across": "1", "_selected_action": pks[0]}
    page = sent(admin_site.post(CHANGES, data, follow=True))
    assert "takes up to 3" in page
    assert Item.objects.count() == 4
    sent(
        admin_site.post(
            CHANGES, data | {"select_across": 0, "_selected_action": pks[1:]}
        )
    )
    assert Item.objects.count() == 1


@pytest.mark.parametrize(("rows", "has_more"), [(3, False), (4, True)])
def test_count_above_the_bound_is_not_said_to_be_all(
    admin_site, monkeypatch, rows, has_more
):
    monkeypatch.setattr(resilient_site.admin, "MAX_COUNTED_ROWS", 3)
    monkeypatch.setattr(ItemAdmin, "list_per_page", 2)
    make_items(rows)
    page = " ".join(
        re.sub("<[^>]*>", "", sent(admin_site.get(ITEMS + "?q=item"))).split()
    )
    # Beside the search, in the pager, and twice for the actions.
    assert page.count("more than 3") == (4 if has_more else 0)
    assert ("All 3 selected" in page) == (not has_more)
    assert "more than 3 results" in page or not has_more


def test_deletion_is_undone_from_the_change_log(admin_site):
    make_item(id="bolt")
    make_item(id="nut")
    change = catalogue.delete_item("bolt", actor=TESTER)

    listed = sent(admin_site.get(CHANGES, {"action": "deleted"}))
    assert "bolt" in listed
    assert "nut" not in listed
    history = admin_site.get(f"{ITEMS}bolt/history/")
    assert history["Location"] == f"{CHANGES}?q=bolt"
    assert "bolt" in sent(admin_site.get(history["Location"]))
    assert "Brass bolt" in sent(admin_site.get(f"{CHANGES}{change.pk}/change/"))

    sent(admin_site.post(CHANGES, {"action": "undo", "_selected_action": [change.pk]}))
    assert catalogue.get_item("bolt").version == 3


def test_change_log_is_read_only(admin_site):
    make_item(id="bolt")
    change = ItemChange.objects.get()
    assert admin_site.get(f"{CHANGES}add/").status_code == 403
    assert admin_site.post(f"{CHANGES}{change.pk}/delete/").status_code == 403
    data = {"version": 9}
    assert admin_site.post(f"{CHANGES}{change.pk}/change/", data).status_code == 403


def test_items_are_searched_filtered_and_exported(admin_site):
    make_item(id="a", name="Alpha", tags=["x"])
    make_item(id="b", name="Beta", tags=["y"])

    assert "Beta" not in sent(admin_site.get(ITEMS, {"q": "alph"}))
    page = sent(admin_site.get(ITEMS, {"tag": "y"}))
    assert "Alpha" not in page
    assert "/api/v1/items/-/export?tag=y&amp;format=csv" in page
    assert reverse("items:import") in page
    for name in ("csv", "ndjson"):
        data = {"action": f"export_{name}", "_selected_action": ["a"]}
        exported = admin_site.post(ITEMS, data).getvalue()
        assert b"Alpha" in exported
        assert b"Beta" not in exported


def test_lists_take_a_fixed_number_of_queries(admin_site, django_assert_num_queries):
    make_items(60, tags=["t", "u"])
    ImportRun.objects.create(id="0" * 32, source="x", path="x")
    # Tag counts and content types come from a cache from now on.
    sent(admin_site.get(ITEMS))
    sent(admin_site.get(f"{ITEMS}item-00001/change/"))
    # A search asks PostgreSQL's planner whether it can rank what it finds.
    asks_planner = connection.vendor == "postgresql"
    for number, path in (
        (5, ITEMS),
        (5 + asks_planner, f"{ITEMS}?q=item"),
        (6, f"{ITEMS}?tag=t"),
        (4, CHANGES),
        (4, "/admin/items/tag/"),
        (4, "/admin/items/importrun/"),
        (4, f"{ITEMS}item-00001/change/"),
    ):
        with django_assert_num_queries(number) as queries:
            sent(admin_site.get(path))
        if path == ITEMS:  # a large table is not counted as a whole
            counts = [q["sql"] for q in queries if "COUNT(*)" in q["sql"]]
            assert counts
            assert all(f"LIMIT {MAX_COUNTED_ROWS + 1}" in sql for sql in counts)
    assert CappedPaginator(Item.objects.order_by("pk"), 2).count == 60


@pytest.mark.parametrize(
    ("ticked", "initial"),
    [
        ({"select_across": "1"}, {"filter": "tag=t", "number": "4"}),
        ({"_selected_action": ["item-00001", "item-00002"]},
         {"ids": "item-00001\nitem-00002", "number": "2"}),
    ],
)  # fmt: skip
def test_selected_items_are_changed_by_a_job(admin_site, ticked, initial):
    make_items(4, tags=["t"])
    data = {"action": "change_many", "_selected_action": "item-00001"} | ticked
    answer = admin_site.post(f"{ITEMS}?tag=t", data, follow=True)
    form = answer.context["form"]
    assert {name: form[name].value() for name in initial} == initial


def test_ids_that_no_address_takes_are_not_changed_by_a_job(admin_site):
    ids = [f"{n:0100}" for n in range(40)]
    for pk in ids:
        make_item(id=pk)
    data = {"action": "change_many", "_selected_action": ids}
    assert "Select fewer items" in sent(admin_site.post(ITEMS, data, follow=True))
