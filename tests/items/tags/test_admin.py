"""Tags in the admin."""

import pytest

from items import catalogue
from items.models import Tag
from items.tags import editing
from tests.factories import allow, changes_of, make_item, make_items

pytestmark = [pytest.mark.once, pytest.mark.django_db]

TAGS = "/admin/items/tag/"


@pytest.fixture
def admin_site(client, admin):
    client.force_login(admin)
    return client


def change(tag: str) -> str:
    return f"{TAGS}{Tag.objects.get(name=tag).pk}/change/"


def errors(response) -> dict:
    assert response.status_code == 200
    return response.context["adminform"].form.errors


def test_tag_is_added_and_deleted_only_when_unused(admin_site):
    make_item(tags=["used"])
    sent = {"name": "Dark  Red", "description": "d"}
    assert admin_site.post(f"{TAGS}add/", sent).status_code == 302
    assert "name" in errors(admin_site.post(f"{TAGS}add/", sent))
    assert "name" in errors(admin_site.post(f"{TAGS}add/", {"name": 'no"tag'}))
    page = admin_site.get(TAGS).content.decode()
    assert "used" in page
    assert "?tag=dark+red" in page

    used, unused = (Tag.objects.get(name=name).pk for name in ("used", "dark red"))
    assert admin_site.post(f"{TAGS}{used}/delete/").status_code == 403
    assert (
        admin_site.post(f"{TAGS}{unused}/delete/", {"post": "yes"}).status_code == 302
    )
    assert [tag.name for tag in Tag.objects.all()] == ["used"]


def test_tag_is_described_renamed_and_merged(admin_site):
    make_item(id="a", tags=["color"])
    make_item(id="b", tags=["colour"])

    described = {"name": "color", "description": "d"}
    assert admin_site.post(change("color"), described).status_code == 302
    assert catalogue.get_item("a").version == 1
    renamed = described | {"name": "hue"}
    assert admin_site.post(change("color"), renamed).status_code == 302
    assert Tag.objects.get(name="hue").description == "d"
    assert changes_of("a").first().actor_name == "ada"
    merged = {"name": "colour"}
    assert "merge" in str(errors(admin_site.post(change("hue"), merged))["name"])
    merged["merge"] = "on"
    assert admin_site.post(change("hue"), merged).status_code == 302
    assert catalogue.get_item("a").tag_names() == ["colour"]
    assert not Tag.objects.filter(name="hue").exists()


def test_tag_of_many_items_is_renamed_by_a_job(admin_site, monkeypatch):
    monkeypatch.setattr(editing, "ITEMS_AT_ONCE", 2)
    make_items(3, tags=["dark red"])
    response = admin_site.post(change("dark red"), {"name": "crimson"})
    link = "/jobs/new/replace_tag/?tag=dark+red&amp;into=crimson"
    assert link in str(errors(response)["name"])
    form = admin_site.get(link.replace("&amp;", "&")).content.decode()
    assert 'value="crimson"' in form


def test_tag_keeps_its_name_for_those_who_may_not_change_items(client, reader):
    make_item(id="a", tags=["red"])
    reader.is_staff = True
    reader.save()
    allow(reader, "view_tag", "change_tag")
    client.force_login(reader)
    sent = {"name": "blue", "description": "d"}
    assert client.post(change("red"), sent).status_code == 302
    tag = Tag.objects.get()
    assert (tag.name, tag.description) == ("red", "d")
