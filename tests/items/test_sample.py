"""The sample: its collections, and what it leaves to those who edit it."""

from typing import Any

import pytest
from django.core.management import CommandError, call_command

from items import catalogue, fields, sample
from items.bulk import staging
from items.bulk.staging import Counts
from items.collections.schema import clean_schema
from items.models import Collection, Item
from items.sample_collections import COLLECTIONS
from tests.factories import TESTER, changes_of

pytestmark = pytest.mark.django_db

COUNTRIES = 280


def load() -> Counts:
    return sample.load(["country"])


def load_old(*items: dict[str, Any]) -> None:
    """Write items as the sample had them before there were collections."""
    rows = [fields.clean(item) for item in items]
    assert staging.apply(rows, actor=sample.ACTOR).created == len(items)


OLD = {
    "id": "country.DE",
    "name": "Germany",
    "description": "Federal Republic of Germany. Country code DE, DEU, 276.",
    "tags": ["iso-3166-1", "country"],
}


def test_sample_has_countries_with_attributes_and_labels():
    assert load() == Counts(COUNTRIES, 0, 0, {}, {})
    item = Item.objects.get(attributes__alpha_3="DEU")
    assert (item.pk, item.collection_id, item.code) == ("country.DE", "country", "DE")
    assert item.attributes == {
        "alpha_2": "DE",
        "alpha_3": "DEU",
        "numeric": "276",
        "official_name": "Federal Republic of Germany",
        "flag": "🇩🇪",
    }
    assert item.labels["de"] == "Deutschland"
    assert item.labels.keys() == {"ar", "de", "es", "fr", "ru", "zh"}
    assert (item.description, item.status) == ("", "active")
    bolivia = Item.objects.get(pk="country.BO")
    assert bolivia.name == "Bolivia"
    assert bolivia.aliases == ["Bolivia, Plurinational State of"]


def test_label_without_a_translation_is_that_of_the_longer_name_or_absent():
    load()
    labels = dict(Item.objects.values_list("pk", "labels"))
    assert "كوريا" in labels["country.KP"]["ar"]
    assert "ar" not in labels["country.YUCS"]


@pytest.mark.parametrize(
    ("code", "valid_to", "successor"),
    [
        ("DDDE", "1990-10-30", "DE"),
        ("BYAA", "1992-06-15", "BY"),
        ("YUCS", "2003-07-23", "CSXX"),
        ("SUHH", "1992-08-30", None),
        ("AIDJ", "1977-12-31", "DJ"),
    ],
)
def test_withdrawn_code_is_retired_with_its_successor(code, valid_to, successor):
    load()
    item = Item.objects.get(collection="country", code=code)
    assert (item.status, item.valid_to.isoformat()) == ("retired", valid_to)
    assert item.replaced_by_id == (successor and f"country.{successor}")
    assert item.tag_names() == ["country", "iso-3166-3"]


def test_sample_has_subdivisions_under_their_country():
    counts = sample.load(["country", "subdivision"])
    assert (counts.created, counts.rejected) == (COUNTRIES + 5046, {})
    rows = Item.objects.filter(collection="subdivision", attributes__country="DE")
    assert rows.count() == 16
    assert rows.get(code="DE-BY").attributes == {"country": "DE", "type": "Land"}
    assert Item.objects.get(code="FR-75C").parent_id == "subdivision.FR-IDF"


def test_sample_has_currencies_with_minor_units():
    sample.load(["currency", "script"])
    currencies = dict(Item.objects.values_list("code", "attributes__minor_units"))
    assert [currencies[code] for code in ("EUR", "JPY", "KWD", "XAU")] == [
        2,
        0,
        3,
        None,
    ]
    assert Item.objects.get(code="Latn").attributes == {"numeric": "215"}


@pytest.mark.once
def test_sample_describes_languages():
    row = next(r for r in sample.rows(["language"]) if r["code"] == "deu")
    assert row["attributes"] == {
        "alpha_2": "de",
        "bibliographic": "ger",
        "scope": "individual",
        "type": "living",
    }
    assert row["labels"]["fr"] == "Allemand"
    assert row["tags"] == ["iso-639-1", "iso-639-3", "language", "living"]


@pytest.mark.once
@pytest.mark.parametrize("key", COLLECTIONS)
def test_collection_of_the_sample_is_of_the_subset(key):
    assert clean_schema(COLLECTIONS[key]["schema"])


def test_sample_loaded_again_changes_nothing():
    load()
    collection = Collection.objects.get(pk="country")
    Collection.objects.filter(pk="country").update(name="Our countries")
    assert load() == Counts(0, 0, COUNTRIES, {}, {})
    collection.refresh_from_db()
    assert collection.name == "Our countries"


def test_old_sample_moves_into_its_collection():
    load_old(OLD, OLD | {"id": "country.XK", "name": "Kosovo"})
    assert load() == Counts(COUNTRIES - 1, 1, 0, {}, {})
    item = Item.objects.get(pk="country.DE")
    assert (item.collection_id, item.code, item.description) == ("country", "DE", "")
    assert item.attributes["alpha_3"] == "DEU"
    assert item.version == 2
    # What is not of the sample stays where it is.
    assert Item.objects.get(pk="country.XK").collection_id == "general"


def test_edits_of_others_stay_when_the_sample_is_loaded():
    load_old(OLD, OLD | {"id": "country.FR", "name": "France"})
    changes = {"name": "Deutschland", "labels": {"de": "Dtl."}}
    catalogue.update_item("country.DE", changes, actor=TESTER)
    load()
    item = Item.objects.get(pk="country.DE")
    assert (item.collection_id, item.code) == ("country", "DE")
    assert (item.name, item.labels) == ("Deutschland", {"de": "Dtl."})
    assert item.description == OLD["description"]
    assert item.attributes["alpha_3"] == "DEU"
    assert load() == Counts(0, 0, COUNTRIES, {}, {})
    assert changes_of("country.DE").count() == 3


@pytest.mark.once
def test_load_sample_names_what_it_left_out(capsys):
    load_old(OLD)
    changes = {"attributes": {"capital": "Berlin"}}
    catalogue.update_item("country.DE", changes, actor=TESTER)
    call_command("load_sample", "country")
    shown = capsys.readouterr()
    assert "278 items created" in shown.out
    assert "country.DE was left out: attributes.alpha_2: This attribute" in shown.err
    assert "country.DDDE was left out: replaced_by: “country.DE” is in" in shown.err


@pytest.mark.once
def test_load_sample_rejects_a_collection_that_it_does_not_have():
    with pytest.raises(CommandError, match="The sample has no planet"):
        call_command("load_sample", "planet")
