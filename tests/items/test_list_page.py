"""The page of the list: its filters, what they leave, and what was found."""

import html
import re

import pytest
from django.db import connection
from django.test import Client

from items.models import Collection
from tests.factories import make_item

pytestmark = [pytest.mark.once, pytest.mark.django_db]

LIST = "/items/"
PROPERTIES = {
    "metal": {
        "type": "string", "title": "Metal", "enum": ["brass", "steel", "zinc"],
        "x-filterable": True,
    },
    "length_mm": {"type": "integer", "title": "Length", "x-filterable": True},
    "is_old": {"type": "boolean", "x-filterable": True},
    "maker": {"type": "string", "title": "Maker", "x-filterable": True},
    "hidden": {"type": "string"},
}  # fmt: skip


@pytest.fixture
def bolts(db: None) -> None:
    schema = {"properties": PROPERTIES}
    Collection.objects.create(key="bolts", name="Bolts & nuts", schema=schema)
    Collection.objects.create(key="nuts", name="Nuts")
    for code, attributes in {
        "m8": {"metal": "brass", "length_mm": 40, "is_old": True, "maker": "ACME"},
        "m9": {"metal": "steel", "length_mm": 50, "is_old": False},
        "m10": {"metal": "brass", "length_mm": 60},
    }.items():
        make_item(
            collection="bolts", code=code, name=code.upper(), attributes=attributes
        )
    make_item(id="z", name="Zinc", status="retired", tags=["t"])


def text(response) -> str:
    assert response.status_code == 200, response.content
    return response.content.decode()


def names(response) -> list[str]:
    assert response.status_code == 200, response.content
    return [item.name for item in response.context["page"].rows]


def options(page: str, name: str) -> list[str]:
    """Return the options of a select, the chosen one with a star."""
    found = re.search(rf'<select [^>]*name="{re.escape(name)}".*?</select>', page, re.S)
    assert found, name
    parts = re.findall("<option[^>]*?( selected)?>([^<]*)<", found[0])
    return [label + "*" * bool(chosen) for chosen, label in parts]


def sent(page: str) -> dict[str, list[str]]:
    """Return what the form sends of filters: its inputs, selects and hidden inputs."""
    values: dict[str, list[str]] = {}
    for tag in re.findall(r"<input [^>]*form=\"filters\"[^>]*>", page):
        name = re.search(' name="([^"]*)"', tag)
        value = re.search(' value="([^"]*)"', tag)
        if name and value and value[1]:
            values.setdefault(name[1], []).append(value[1])
    for name, body in re.findall(
        r'<select [^>]*name="([^"]*)"(.*?)</select>', page, re.S
    ):
        for value in re.findall(r'value="([^"]+)" selected', body):
            values.setdefault(name, []).append(value)
    return values


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("collection=bolts", ["M8", "M9", "M10"]),
        ("status=retired", ["Zinc"]),
        ("valid_on=2026-01-01&collection=bolts", ["M8", "M9", "M10"]),
        ("collection=bolts&attributes.metal=brass", ["M8", "M10"]),
        ("collection=bolts&attributes.length_mm=50", ["M9"]),
        ("collection=bolts&attributes.is_old=true", ["M8"]),
        ("collection=bolts&attributes.maker=ACME", ["M8"]),
        # Filters without a control
        ("collection=bolts&attributes.length_mm__gte=50", ["M9", "M10"]),
        ("collection=bolts&collection=general", ["M8", "M9", "M10", "Zinc"]),
        ("collection=bolts&attributes.metal__isnull=false", ["M8", "M9", "M10"]),
        ("code=m8&code=m9", ["M8", "M9"]),
        ("updated_since=2026-01-01T00:00:00Z&tag=t", ["Zinc"]),
        ("ancestor=z", []),
        ("parent=z&parent=y", []),
    ],
)
def test_form_sends_every_filter_again(client, bolts, query, found):
    response = client.get(f"{LIST}?{query}")
    assert names(response) == found
    given = dict(response.wsgi_request.GET.lists())
    assert sent(text(response)) == given
    # And each of them can be removed.
    assert len(response.context["chosen"]) == sum(map(len, given.values()))


def test_filter_is_removed_without_the_others(client, bolts):
    query = "collection=bolts&attributes.metal=brass&tag=metal&search=m"
    response = client.get(f"{LIST}?{query}&ordering=name")
    removed = {one.label: one.without for one in response.context["chosen"]}
    assert removed == {
        # The attributes are those of the collection.
        "Bolts & nuts": "tag=metal&search=m&ordering=name",
        "Metal: brass": "collection=bolts&tag=metal&search=m&ordering=name",
        "metal": "collection=bolts&attributes.metal=brass&search=m&ordering=name",
    }
    assert "Bolts &amp; nuts" in text(response)


def test_labels_of_filters_are_in_words(client, bolts):
    query = (
        "collection=bolts&attributes.length_mm__gte=40&attributes.is_old=true"
        "&attributes.maker__isnull=false&status=active&valid_on=2026-01-31&parent=z"
    )
    labels = [one.label for one in client.get(f"{LIST}?{query}").context["chosen"]]
    assert labels == [
        "Bolts & nuts", "Status: active", "Directly below z", "Valid on 2026-01-31",
        "Length ≥ 40", "is_old: Yes", "With Maker",
    ]  # fmt: skip


def test_controls_show_what_is_chosen_and_how_many_there_are(client, bolts):
    page = text(client.get(LIST))
    assert options(page, "status") == [
        "Any status", "Draft", "Active", "Deprecated", "Retired",
    ]  # fmt: skip
    page = text(client.get(f"{LIST}?valid_on=2026-01-01&search=m"))
    assert options(page, "collection") == ["Any collection", "Bolts &amp; nuts (3)"]
    assert options(page, "status") == ["Any status", "Active (3)"]
    assert options(page, "tag") == ["Any tag", "metal (3)"]
    page = text(client.get(f"{LIST}?collection=bolts&attributes.is_old=true"))
    assert options(page, "collection") == [
        "Any collection", "Bolts &amp; nuts*", "General", "Nuts",
    ]  # fmt: skip
    assert options(page, "attributes.metal") == ["Metal: any", "brass (1)"]
    assert options(page, "attributes.is_old") == ["is_old: any", "Yes*", "No"]
    assert 'type="number"' in page
    assert '<option value="ACME">' in page
    assert "hidden</option>" not in page


def test_controls_of_many_items_have_no_counts(client, bolts, monkeypatch):
    query = f"{LIST}?collection=bolts"
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE items_item")  # else it counts those of other tests
    monkeypatch.setattr("items.facets.FEW", 3)
    named = "Metal: any", "brass (2)", "steel (1)"
    assert options(text(client.get(query)), "attributes.metal") == [*named]
    monkeypatch.setattr("items.facets.FEW", 2)
    named = "Metal: any", "brass", "steel", "zinc"
    assert options(text(client.get(query)), "attributes.metal") == [*named]


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        ("search=&tag=&status=&valid_on=", ""),
        ("collection=bolts&attributes.metal=&attributes.maker=", "collection=bolts"),
        ("collection=nuts&attributes.metal=brass", "collection=nuts"),
        ("collection=&attributes.metal=brass&tag=t", "tag=t"),
        ("tag=&tag=t&tag=metal", "tag=t&tag=metal"),
    ],
)
def test_what_a_form_leaves_over_is_removed_from_the_address(
    client, bolts, query, kept
):
    response = client.get(f"{LIST}?{query}")
    assert (response.status_code, response["Location"]) == (302, f"{LIST}?{kept}")
    headers = {"HX-Request": "true", "HX-Target": "results"}
    part = client.get(f"{LIST}?{query}", headers=headers, follow=True)
    assert "<html" not in text(part)


def test_new_item_is_of_the_collection_of_the_list(editor_client, bolts):
    page = text(editor_client.get(f"{LIST}?collection=bolts"))
    assert 'href="/items/-/new/?collection=bolts"' in page
    assert 'href="/items/-/new/"' in text(editor_client.get(LIST))
    headers = {"HX-Request": "true", "HX-Target": "results"}
    part = text(editor_client.get(f"{LIST}?collection=bolts", headers=headers))
    assert 'href="/items/-/new/?collection=bolts" hx-swap-oob="true"' in part


def test_list_marks_what_was_found(client):
    make_item(id="screw", name="Brass <screw>", description="filler " * 60 + "needle")
    page = text(client.get(f"{LIST}?search=screw+needle"))
    assert "Brass &lt;<mark>screw</mark>&gt;" in page
    assert '<p class="id"><mark>screw</mark></p>' not in page
    assert "<mark>needle</mark>" in page
    make_item(id="de", name="Germany", labels={"fr": "Allemagne"}, aliases=["Teutonia"])
    assert "<mark>Alleman</mark>" not in text(client.get(f"{LIST}?search=allemagn"))
    assert "<mark>Allemagn</mark>e" in text(client.get(f"{LIST}?search=allemagn"))
    assert '<p class="id"><mark>de</mark></p>' in text(client.get(f"{LIST}?search=DE"))


def test_search_that_finds_nothing_links_the_closest_names(client, bolts):
    make_item(name="R&D <bolt>", tags=["t"])
    page = text(client.get(f"{LIST}?search=bollt&tag=t"))
    assert "Nothing found" in page
    assert "R&amp;D &lt;bolt&gt;</a>?" in page
    link = re.search(r'Did you mean <a href="([^"]*)"', page)
    assert link
    address = link[1].replace("&amp;", "&")
    assert names(client.get(address)) == ["R&D <bolt>"]
    assert "tag=t" in address
    assert "Did you mean" not in text(client.get(f"{LIST}?tag=unknown"))


def test_editors_change_all_items_of_a_list(editor_client, bolts):
    query = "collection=bolts&attributes.metal=brass&ordering=-name"
    page = editor_client.get(f"{LIST}?{query}").content.decode()
    [address] = re.findall(
        r'<a class="change-all" href="([^"]*)"[^>]*>Change all 2…', page
    )
    answer = editor_client.get(html.unescape(address), follow=True)
    form = answer.context["form"]
    expected = {"filter": "collection=bolts&attributes.metal=brass", "number": "2"}
    assert {name: form[name].value() for name in expected} == expected
    assert "change-all" not in editor_client.get(LIST).content.decode()
    assert "change-all" not in Client().get(f"{LIST}?{query}").content.decode()
