"""The pages of collections: what people see and may do."""

import pytest

from compute.models import Job
from items import catalogue
from items.collections import editing, views
from items.models import Collection
from tests.factories import TESTER, allow, make_item

pytestmark = [pytest.mark.once, pytest.mark.django_db]

SCHEMA = {
    "properties": {
        "size": {
            "type": "integer", "title": "Size <mm>", "minimum": 1, "x-unique": True,
        },
        "metal": {"type": "string", "x-reference": "metals"},
        "finish": {
            "type": "array", "items": {"type": "string", "enum": ["zinc", "oil"]},
        },
        "article": {"type": "string", "pattern": "^[A-Z]+$", "maxLength": 9},
    },
    "required": ["size"],
    "x-order": ["size", "metal", "finish", "article"],
}  # fmt: skip


@pytest.fixture
def bolts(db) -> Collection:
    editing.create_collection({"key": "metals", "name": "Metals"})
    data = {"key": "bolts", "name": "Bolts", "source": "ISO 4014", "schema": SCHEMA}
    return editing.create_collection(data)


def make_bolt(code: str, **attributes):
    return make_item(collection="bolts", code=code, attributes=attributes)


def text(response) -> str:
    return response.content.decode()


def rows(*attributes, **more: str) -> dict[str, str]:
    """Return what the form sends of these attributes."""
    sent = {"attributes-TOTAL_FORMS": str(len(attributes))}
    for number, row in enumerate(attributes):
        sent |= {f"attributes-{number}-{name}": row[name] for name in row}
    return {"name": "Bolts", "attributes-INITIAL_FORMS": "0"} | sent | more


SIZE = {"was": "size", "name": "size", "kind": "integer", "is_required": "on"}
METAL = {"was": "metal", "name": "metal", "kind": "reference", "reference": "metals"}


def names(form) -> list[str]:
    return [row["name"].value() for row in form.rows]


def test_list_counts_items_and_page_describes_attributes(client, bolts):
    make_bolt("m8", size=8)
    page = text(client.get("/collections/"))
    assert "Bolts" in page
    assert '<a href="/items/?collection=bolts">1 item<' in page
    page = text(client.get("/collections/bolts/"))
    for words in (
        "Size &lt;mm&gt;", "Whole number", "At least 1", "Required, Unique",
        'Code of another collection: <a href="/collections/metals/">',
        "Text (list)", "zinc", "At most 9 characters", "^[A-Z]+$", "ISO 4014",
        "/items/?collection=bolts", "/api/v1/collections/bolts",
    ):  # fmt: skip
        assert words in page, words
    assert page.index(">size<") < page.index(">metal<") < page.index(">finish<")
    assert "/edit/" not in page
    assert client.get("/collections/nix/").status_code == 404


def test_page_is_cached_by_the_tags_of_what_it_shows(client, editor, bolts):
    tags = {
        "/collections/": "collections items",
        "/collections/bolts/": "collection:bolts",
    }
    for path, tag in tags.items():
        assert client.get(path)["Cache-Tag"] == tag
    client.force_login(editor)
    for path in tags:
        assert client.get(path)["Cache-Control"].startswith("private")


def test_editor_creates_a_collection_of_typed_attributes(editor_client, bolts):
    sent = rows(
        {"name": "length", "kind": "number", "is_required": "on", "minimum": "0"},
        {"name": "head", "kind": "string", "values": "hex\r\nround"},
        {"kind": "string"},  # is empty
        {"name": "metal", "kind": "reference", "reference": "metals"},
        {"name": "since", "kind": "date", "title": "On sale since"},
        {"name": "tools", "kind": "string", "is_list": "on"},
        key="nuts",
        name="Nuts",
    )
    response = editor_client.post("/collections/-/new/", sent)
    assert (response.status_code, response["Location"]) == (302, "/collections/nuts/")
    assert Collection.objects.get(pk="nuts").schema == {
        "properties": {
            "length": {"type": "number", "minimum": 0},
            "head": {"type": "string", "enum": ["hex", "round"]},
            "metal": {"type": "string", "x-reference": "metals"},
            "since": {"type": "string", "format": "date", "title": "On sale since"},
            "tools": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["length"],
        "x-order": ["length", "head", "metal", "since", "tools"],
    }
    assert "“Nuts” was created." in text(editor_client.get(response["Location"]))


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"key": "Bolts!"}, "key"),
        ({"key": "bolts"}, "key"),
        ({"name": ""}, "name"),
        ({"licence": "x" * 201}, "licence"),
    ],
)
def test_bad_form_shows_the_error_at_its_field(editor_client, bolts, bad, field):
    sent = rows(SIZE, key="nuts") | bad
    response = editor_client.post("/collections/-/new/", sent)
    assert response.status_code == 422
    assert set(response.context["form"].errors) == {field}
    assert names(response.context["form"]) == ["size"]
    assert Collection.objects.count() == 3


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"name": "length mm"}, "name"),
        ({"name": "", "title": "Head"}, "name"),
        ({"name": "size"}, "name"),
        ({"kind": "colour"}, "kind"),
        ({"kind": "any"}, "kind"),
        ({"kind": "reference"}, "reference"),
        ({"kind": "reference", "reference": "nix"}, "reference"),
        ({"kind": "reference", "reference": "metals", "is_list": "on"}, "kind"),
        ({"kind": "integer", "values": "1\ntwo"}, "values"),
        ({"kind": "integer", "values": "1.5"}, "values"),
        ({"kind": "number", "values": "1e999"}, "values"),
        ({"kind": "boolean", "default": "perhaps"}, "default"),
        ({"kind": "integer", "minimum": "1", "default": "0"}, "default"),
        ({"kind": "integer", "default": "1\n2"}, "default"),
        ({"kind": "integer", "pattern": "^1"}, "pattern"),
        ({"pattern": "("}, "pattern"),
        ({"pattern": "(", "is_list": "on"}, "pattern"),
        ({"minimum": "-1"}, "minimum"),
        ({"minimum": "few"}, "minimum"),
        ({"kind": "boolean", "maximum": "1"}, "maximum"),
        ({"is_list": "on", "is_unique": "on"}, "is_unique"),
        ({"title": "x" * 1_001}, "title"),
        ({"title": "\0"}, "title"),
    ],
    ids=str,
)
def test_bad_attribute_shows_the_error_at_its_field(editor_client, bolts, bad, field):
    row = {"name": "head", "kind": "string"} | bad
    sent = rows(SIZE, row, key="nuts")
    response = editor_client.post("/collections/-/new/", sent)
    assert response.status_code == 422
    form = response.context["form"]
    assert [set(row.errors) for row in form.rows] == [set(), {field}]
    assert f'href="#id_attributes-1-{field}"' in text(response)
    assert "autofocus" in text(response)
    assert not Collection.objects.filter(pk="nuts").exists()


@pytest.mark.parametrize(
    ("button", "expected", "focus"),
    [
        ("add", ["size", "metal", "head", ""], 'name="attributes-3-name"'),
        ("up:2", ["size", "head", "metal"], 'value="up:1"'),
        ("up:1", ["metal", "size", "head"], 'value="down:0"'),
        ("down:0", ["metal", "size", "head"], 'value="down:1"'),
        ("down:1", ["size", "head", "metal"], 'value="up:2"'),
        ("remove:0", ["metal", "head"], 'name="attributes-0-name"'),
        ("remove:2", ["size", "metal"], 'name="attributes-1-name"'),
        ("remove:9", ["size", "metal", "head"], None),
        ("up:x", ["size", "metal", "head"], None),
    ],
)
@pytest.mark.parametrize("is_htmx", [False, True])
def test_rows_are_added_moved_and_removed(
    editor_client, bolts, button, expected, focus, is_htmx
):
    head = {"name": "head", "kind": "integer", "values": "1\nx", "more": "on"}
    sent = rows(SIZE, METAL, head, name="", is_open="on", _row=button)
    headers = {"HX-Request": "true", "HX-Target": "attributes"} if is_htmx else {}
    page = editor_client.post("/collections/bolts/edit/", sent, headers=headers)
    assert page.status_code == 200
    form = page.context["form"]
    assert [name or "" for name in names(form)] == expected
    assert form["is_open"].value()
    assert not form.has_errors()
    assert ("<html" in text(page)) != is_htmx
    focused = [part for part in text(page).split("<") if "autofocus" in part]
    assert [focus in part for part in focused] == ([True] if focus else [])
    if "head" in expected:
        (row,) = (row for row in form.rows if row["name"].value() == "head")
        assert (row["values"].value(), row["more"].value()) == ("1\nx", True)
    bolts.refresh_from_db()
    assert bolts.version == 1


def test_rows_stay_as_they_are_when_the_session_has_ended(client, bolts):
    headers = {"HX-Request": "true", "HX-Target": "attributes"}
    sent = rows(SIZE, _row="add")
    response = client.post("/collections/bolts/edit/", sent, headers=headers)
    assert response.status_code == 401
    assert 'id="error-detail">To do this, sign in again' in text(response)


def saved(client, key="bolts", **changes):
    """Change the collection as its form shows it."""
    form = client.get(f"/collections/{key}/edit/").context["form"]
    shown = [{name: row[name].value() for name in row.fields} for row in form.rows]
    sent = rows(
        *({k: "on" if v is True else v for k, v in row.items() if v} for row in shown),
        **{name: form[name].value() for name in ("name", "source", "version")},
    )
    return client.post(f"/collections/{key}/edit/", sent | changes)


def test_unchanged_form_changes_nothing(editor_client, bolts):
    assert saved(editor_client).status_code == 302
    bolts.refresh_from_db()
    assert (bolts.version, bolts.schema) == (1, SCHEMA)
    response = saved(editor_client, name="Hex bolts", source="")
    assert response.status_code == 302
    bolts.refresh_from_db()
    assert (bolts.name, bolts.source, bolts.schema) == ("Hex bolts", "", SCHEMA)


def test_items_that_break_the_attributes_are_listed(editor_client, bolts, monkeypatch):
    monkeypatch.setattr(views, "BROKEN_SHOWN", 1)
    for size in (8, 40, 41):
        make_bolt(f"m/{size}", size=size)
    limit = {"attributes-0-maximum": "10", "attributes-0-title": "Größe"}
    response = saved(editor_client, **limit)
    assert response.status_code == 409
    assert "2 items do not conform" in text(response)
    assert 'value="Größe"' in text(response)
    ((broken, name, _),) = response.context["broken"]
    item = catalogue.get_item(broken)
    assert name == "size"
    assert f'href="{item.get_absolute_url()}"' in text(response)
    assert f"{item.attributes['size']} is greater than" in text(response)
    bolts.refresh_from_db()
    assert (bolts.schema, bolts.next_schema) == (SCHEMA, None)


def test_conflicting_edit_shows_the_saved_version(editor_client, bolts):
    editing.change_collection("bolts", {"name": "Theirs", "licence": "CC0-1.0"})
    response = saved(editor_client, name="Mine", version=bolts.revision)
    assert response.status_code == 409
    assert "Theirs" in text(response)
    assert 'value="Mine"' in text(response)
    assert Collection.objects.get(pk="bolts").name == "Theirs"
    version = response.context["form"]["version"].value()
    assert f'value="{version}"' in text(response)
    assert saved(editor_client, name="Mine", version=version).status_code == 302
    assert Collection.objects.get(pk="bolts").name == "Mine"


def test_schema_of_many_items_is_handed_to_a_job(editor_client, bolts, monkeypatch):
    make_bolt("m8", size=8)
    allowed = editing.introduced.__wrapped__.__kwdefaults__
    monkeypatch.setitem(allowed, "items_max", 0)
    limit = {"attributes-0-maximum": "10"}
    response = saved(editor_client, name="Hex bolts", **limit)
    assert response.status_code == 409
    bolts.refresh_from_db()
    assert (bolts.name, bolts.schema) == ("Hex bolts", SCHEMA)
    assert response.context["form"]["version"].value() == bolts.revision
    assert 'action="/jobs/new/change_schema/"' in text(response)
    job = {
        "collection": "bolts",
        "schema": response.context["schema"],
        "idempotency-key": response.context["idempotency_key"],
    }
    assert editor_client.post("/jobs/new/change_schema/", job).status_code == 302
    params = Job.objects.get().params
    assert params["schema"]["properties"]["size"]["maximum"] == 10
    assert params["schema"]["x-order"] == SCHEMA["x-order"]


def test_only_an_unused_collection_is_deleted(editor_client, bolts):
    for key, reason in (
        ("general", "name no collection"), ("metals", "“bolts” refers to it"),
    ):  # fmt: skip
        address = f"/collections/{key}/delete/"
        assert reason in text(editor_client.get(address))
        version = {"version": Collection.objects.get(pk=key).revision}
        response = editor_client.post(address, version)
        assert (response.status_code, reason in text(response)) == (409, True)
    address = "/collections/bolts/delete/"
    make_bolt("m8", size=8)
    assert "has items" in text(editor_client.get(address))
    catalogue.delete_item("bolts.m8", actor=TESTER)
    assert "Delete this collection?" in text(editor_client.get(address))
    response = editor_client.post(address, {"version": "1"}, follow=True)
    assert "not deleted" in text(response)
    response = editor_client.post(address, {"version": bolts.revision})
    assert response["Location"] == "/collections/"
    assert not Collection.objects.filter(pk="bolts").exists()


WRITING = {
    "/collections/-/new/": "add_collection",
    "/collections/metals/edit/": "change_collection",
    "/collections/metals/delete/": "delete_collection",
}


def test_each_page_that_writes_needs_its_permission(client, reader, bolts):
    for path in WRITING:
        assert client.get(path)["Location"] == f"/account/sign-in/?next={path}"
    client.force_login(reader)
    for path in WRITING:
        assert client.get(path).status_code == client.post(path).status_code == 403
        assert path not in text(client.get("/collections/metals/"))
    for path, permission in WRITING.items():
        allow(reader, permission)
        assert client.get(path).status_code == 200
    pages = text(client.get("/collections/")) + text(client.get("/collections/metals/"))
    assert all(f'href="{path}"' in pages for path in WRITING)


def test_pages_take_a_fixed_number_of_queries(client, bolts, django_assert_num_queries):
    for path in ("/collections/", "/collections/bolts/"):
        with django_assert_num_queries(1):
            assert client.get(path).status_code == 200
