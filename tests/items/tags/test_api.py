"""The REST contract of tags, and what a rename or merge does to items."""

from urllib.parse import quote

import pytest
from rest_framework.test import APIClient

from items import catalogue
from items.models import Item, ItemChange, ItemTag, Tag
from items.tags import api as tags_api
from items.tags import editing
from resilient_site.edge.cache.invalidation import pending_tags
from tests.factories import TESTER, allow, changes_of, make_item, make_items
from tests.items.test_api import assert_problem

pytestmark = pytest.mark.django_db

TAGS = "/api/v1/tags"


def url(name: str) -> str:
    return f"{TAGS}/{quote(name, safe='')}"


def names(response) -> list[str]:
    return [row["name"] for row in response.json()["results"]]


@pytest.mark.parametrize("name", ["dark red", "région", "r&d/x?", "50%", "c#", "a;b=c"])
def test_tag_is_read_changed_and_deleted_by_its_name_percent_encoded(api, name):
    make_item(id="a", tags=[name])

    read = api.get(url(name))
    changed = api.patch(f"{url(name)}/", {"description": " Of all kinds "})

    assert read.status_code == 200
    assert (read.json()["name"], read.json()["description"]) == (name, "")
    assert changed.json()["description"] == "Of all kinds"
    assert api.get(url(name)).json() == changed.json()
    assert changed["ETag"] != read["ETag"]
    assert (read.json()["version"], changed.json()["version"]) == (1, 2)
    assert_problem(api.delete(url(name)), 409, "tag_in_use")
    catalogue.update_item("a", {"tags": []}, actor=TESTER)
    assert api.delete(url(name)).status_code == 204
    for method in (api.get, api.patch, api.delete):
        assert_problem(method(url(name)), 404, "tag_not_found")


@pytest.mark.once
def test_list_is_paged_and_searched_by_the_beginning_of_the_name(
    anonymous_api, monkeypatch
):
    make_items(3, tags=["red"])
    make_item(tags=["dark red", "100%"])
    monkeypatch.setattr(tags_api, "COUNTED_MAX", 2)
    first = anonymous_api.get(TAGS, {"page_size": 2})
    second = anonymous_api.get(first.json()["next"])
    rows = {
        row["name"]: row for page in (first, second) for row in page.json()["results"]
    }
    assert rows.keys() == {"100%", "dark red", "red"}
    assert (rows["red"]["item_count"], rows["red"]["has_more_items"]) == (2, True)
    assert (rows["dark red"]["item_count"], rows["100%"]["has_more_items"]) == (
        1,
        False,
    )
    assert names(anonymous_api.get(TAGS, {"search": " Dark  R"})) == ["dark red"]
    assert names(anonymous_api.get(TAGS, {"search": "%"})) == []
    assert_problem(anonymous_api.get(TAGS, {"q": "x"}), 400, "unknown_parameter")


def test_rename_is_an_edit_of_each_item(api, editor):
    make_item(id="a", tags=["crimson", "x"])
    make_item(id="b", tags=["crimson"])
    make_item(id="other", tags=["x"])
    Tag.objects.filter(name="crimson").update(description="A colour")

    renamed = api.patch(url("crimson"), {"name": "Dark  Red"})

    assert renamed.status_code == 200
    assert (renamed.json()["name"], renamed.json()["description"]) == (
        "dark red", "A colour",
    )  # fmt: skip
    assert catalogue.get_item("a").tag_names() == ["dark red", "x"]
    changes = {pk: changes_of(pk).first() for pk in ("a", "b")}
    for pk, change in changes.items():
        item = catalogue.get_item(pk)
        assert (change.action, change.actor) == ("updated", editor)
        assert (item.version, change.version) == (2, 2)
        assert change.after == item.state()
        assert change.before == item.state() | {"tags": change.before["tags"]}
        assert item.updated_at > item.created_at
    assert changes["a"].before["tags"] == ["crimson", "x"]
    assert catalogue.get_item("other").version == 1
    assert_problem(api.get(url("crimson")), 404, "tag_not_found")
    assert names(api.get(TAGS)) == ["dark red", "x"]


def test_merged_tag_gives_its_items_the_other_one(api):
    make_item(id="both", tags=["colour", "color"])
    make_item(id="one", tags=["color"])
    Tag.objects.filter(name="color").update(description="What it looks like")

    taken = api.patch(url("color"), {"name": "colour"})
    problem = assert_problem(taken, 409, "tag_exists")
    assert "merge" in problem["detail"]
    merged = api.post(f"{url('color')}/merge", {"into": "Colour"})

    assert merged.status_code == 200
    assert merged.json()["description"] == "What it looks like"
    for pk in ("both", "one"):
        assert catalogue.get_item(pk).tag_names() == ["colour"]
        assert changes_of(pk).first().after["tags"] == ["colour"]
    assert names(api.get(TAGS)) == ["colour"]
    catalogue.undo(changes_of("both").first(), actor=TESTER)
    assert catalogue.get_item("both").tag_names() == ["color", "colour"]


@pytest.mark.once
@pytest.mark.parametrize(
    ("method", "address", "body", "field"),
    [
        ("patch", "red", {"name": 'a"b'}, "name"),
        ("patch", "red", {"description": "x" * 201}, "description"),
        ("patch", "red", {"titel": ""}, "titel"),
        ("patch", "red", [], "non_field_errors"),
        ("post", "red/merge", {}, "into"),
        ("post", "red/merge", {"into": "nix"}, "into"),
        ("post", "red/merge", {"into": "red"}, "into"),
    ],
)
def test_bad_change_of_a_tag_names_the_field(api, method, address, body, field):
    make_item(tags=["red"])
    response = getattr(api, method)(f"{TAGS}/{address}", body)
    code = "unknown_field" if field == "titel" else "invalid"
    assert field in assert_problem(response, 400, code)["errors"]
    assert Item.objects.get().tag_names() == ["red"]


@pytest.mark.once
def test_tag_of_many_items_needs_a_job(api, monkeypatch):
    monkeypatch.setattr(editing, "ITEMS_AT_ONCE", 2)
    make_items(3, tags=["red", "blue"])
    for response in (
        api.patch(url("red"), {"name": "dark red"}),
        api.post(f"{url('red')}/merge", {"into": "blue"}),
    ):
        problem = assert_problem(response, 409, "tag_needs_job")
        assert "replace_tag" in problem["detail"]
    assert api.patch(url("red"), {"description": "d"}).status_code == 200
    assert not ItemChange.objects.filter(action="updated").exists()


@pytest.mark.once
def test_rename_needs_permission_to_change_items(reader):
    make_item(tags=["red", "blue"])
    allow(reader, "change_tag", "add_tag")
    client = APIClient()
    client.force_authenticate(reader)
    assert client.patch(url("red"), {"description": "d"}).status_code == 200
    for response in (
        client.patch(url("red"), {"name": "x"}),
        client.post(f"{url('red')}/merge", {"into": "blue"}),
        client.delete(url("red")),
    ):
        assert_problem(response, 403, "permission_denied")


@pytest.mark.once
def test_tag_that_was_changed_meanwhile_is_412(api):
    make_item(tags=["red"])
    etag = api.get(url("red"))["ETag"]
    api.patch(url("red"), {"description": "theirs"})
    for write in (api.patch, api.delete):
        response = write(url("red"), {"description": "d"}, headers={"If-Match": etag})
        assert_problem(response, 412, "stale_version")
    assert Tag.objects.get().description == "theirs"


@pytest.mark.once
@pytest.mark.parametrize(
    ("write", "arguments"),
    [
        (editing.create_tag, {"name": "new"}),
        (editing.change_tag, {"changes": {"description": "d"}, "actor": TESTER}),
        (editing.change_tag, {"changes": {"name": "blue"}, "actor": TESTER}),
        (editing.delete_tag, {}),
    ],
)
def test_every_write_of_a_tag_is_seen_by_its_readers(
    write, arguments, django_capture_on_commit_callbacks
):
    Tag.objects.create(name="red")
    with django_capture_on_commit_callbacks():
        write(**{"name": "red"} | arguments)
        assert editing.TAGS in pending_tags()


@pytest.mark.once
def test_items_are_retagged_in_batches_of_one_transaction(monkeypatch):
    monkeypatch.setattr(catalogue, "RETAGGED_MAX", 2)
    make_items(5, tags=["red"])
    editing.change_tag("red", {"name": "blue"}, actor=TESTER)
    assert ItemTag.objects.filter(tag__name="blue").count() == 5
    assert set(Item.objects.values_list("version", flat=True)) == {2}


@pytest.mark.once
def test_tag_deleted_while_it_is_given_to_an_item_starts_the_write_again(monkeypatch):
    Tag.objects.create(name="red")
    deletions = iter([True])
    create = Tag.objects.bulk_create

    def create_and_delete(*args, **options):
        create(*args, **options)
        if next(deletions, False):
            editing.delete_tag("red")

    monkeypatch.setattr(Tag.objects, "bulk_create", create_and_delete)
    assert make_item(tags=["red"]).tag_names() == ["red"]
    assert ItemTag.objects.get().tag.name == "red"
