"""Collections in the admin."""

import json

import pytest

from items.collections import editing
from items.models import Collection
from tests.factories import make_item

pytestmark = [pytest.mark.once, pytest.mark.django_db]

COLLECTIONS = "/admin/items/collection/"
BOLTS = f"{COLLECTIONS}bolts/change/"
SCHEMA = {"properties": {"size": {"type": "integer", "title": "Größe"}}}


@pytest.fixture
def admin_site(client, admin):
    client.force_login(admin)
    return client


@pytest.fixture
def bolts(db) -> Collection:
    data = {"key": "bolts", "name": "Bolts", "schema": SCHEMA}
    found = editing.create_collection(data)
    make_item(collection="bolts", code="m8", attributes={"size": 40})
    return found


def form(bolts: Collection, **changes: str) -> dict[str, str]:
    sent = {"name": "Bolts", "schema": json.dumps(SCHEMA), "revision": bolts.revision}
    return sent | changes


def errors(response) -> dict:
    assert response.status_code == 200
    return response.context["adminform"].form.errors


def test_admin_adds_changes_and_deletes_collections(admin_site):
    sent = {"key": "nuts", "name": "Nuts", "schema": ""}
    assert admin_site.post(f"{COLLECTIONS}add/", sent).status_code == 302
    nuts = Collection.objects.get(pk="nuts")
    assert (nuts.schema, nuts.next_schema) == ({}, None)

    changed = form(nuts, name="Hex nuts")
    assert admin_site.post(f"{COLLECTIONS}nuts/change/", changed).status_code == 302
    nuts.refresh_from_db()
    assert (nuts.name, nuts.schema, nuts.version) == ("Hex nuts", SCHEMA, 2)

    address = f"{COLLECTIONS}nuts/delete/"
    assert admin_site.post(address, {"post": "yes"}).status_code == 302
    assert not Collection.objects.filter(pk="nuts").exists()


def test_list_links_to_the_items(admin_site, bolts):
    make_item(id="other", name="Other thing")
    page = admin_site.get(COLLECTIONS, {"q": "bol"}).content.decode()
    address = "/admin/items/item/?collection__exact=bolts"
    assert f'href="{address}"' in page
    listed = admin_site.get(address).content.decode()
    assert "bolts.m8" in listed
    assert "Other thing" not in listed


def test_schema_is_shown_as_json_and_a_coming_one_too(admin_site, bolts):
    editing._introduce("bolts", {}, None, None)
    page = admin_site.get(BOLTS).content.decode()
    assert "&quot;title&quot;: &quot;Größe&quot;" in page
    assert "$comment" in page


@pytest.mark.parametrize(
    ("schema", "messages"),
    [
        ("{", ["Enter a valid JSON."]),
        (r'{"title": "\ud800"}', ["Enter a valid JSON."]),
        ('{"maximum": NaN}', ["Enter a valid JSON."]),
        ('{"properties": {"size": {"type": "x"}}}', ["properties.size.type: Must be"]),
        (
            '{"properties": {"size": {"type": "integer", "maximum": 2}}}',
            ["bolts.m8: attributes.size: 40 is greater"],
        ),
    ],
)
def test_schema_that_cannot_be_is_a_form_error(admin_site, bolts, schema, messages):
    found = errors(admin_site.post(BOLTS, form(bolts, schema=schema)))["schema"]
    assert len(found) == len(messages)
    assert all(map(str.startswith, found, messages))
    bolts.refresh_from_db()
    assert (bolts.schema, bolts.next_schema) == (SCHEMA, None)


def test_taken_key_and_stale_version_are_form_errors(admin_site, bolts):
    sent = {"key": "bolts", "name": "Bolts", "schema": ""}
    found = errors(admin_site.post(f"{COLLECTIONS}add/", sent))
    assert found == {"key": ["Collection already exists"]}
    editing.change_collection("bolts", {"name": "Theirs"})
    found = errors(admin_site.post(BOLTS, form(bolts, name="Mine")))
    assert "changed since" in found["__all__"][0]


def test_collection_with_items_cannot_be_deleted(admin_site, bolts):
    for key in ("bolts", "general"):
        response = admin_site.post(f"{COLLECTIONS}{key}/delete/", {"post": "yes"})
        assert response.status_code == 403
    assert Collection.objects.count() == 2


def test_change_of_a_schema_is_no_single_transaction(admin_site, bolts, monkeypatch):
    """Others conform to a schema once it is introduced, so that has to be committed."""
    seen = []
    original = editing.expect_conformity

    def look(*args, **options):
        seen.append(len(editing.transaction.get_connection().savepoint_ids))
        return original(*args, **options)

    monkeypatch.setattr(editing, "expect_conformity", look)
    before = len(editing.transaction.get_connection().savepoint_ids)
    admin_site.post(BOLTS, form(bolts, schema=""))
    assert seen == [before]
