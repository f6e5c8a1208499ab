"""Sample catalogue: the ISO standards of countries, languages, currencies, …

From the `pycountry` package: one collection for each standard. Ids are made of the
codes, so that loading it again changes nothing.
"""

import gettext
from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from functools import cache
from typing import Any

import pycountry

from items import fields, rules
from items.bulk import staging
from items.bulk.staging import Counts
from items.collections import editing
from items.fields import ItemData
from items.models import Item, ItemChange
from items.sample_collections import COLLECTIONS
from resilient_site.accounts.actor import Actor

ACTOR = Actor(None, "load_sample")

# Language tags of the labels, and the names of pycountry's translations.
LANGUAGES = {"ar": "ar", "de": "de", "es": "es", "fr": "fr", "ru": "ru", "zh": "zh_CN"}
LANGUAGE_TYPES = {
    "A": "ancient",
    "C": "constructed",
    "E": "extinct",
    "H": "historical",
    "L": "living",
    "S": "special",
}
LANGUAGE_SCOPES = {"I": "individual", "M": "macrolanguage", "S": "special"}
# The last two letters of a code of ISO 3166-3 are those of the code that took its
# place, if a single one did; but not those of these two.
SUCCESSORS = {"BYAA": "BY", "YUCS": "CSXX"}
# Currencies by their digits after the decimal point, if those are not two (ISO 4217).
# Metals, units of account, and codes for tests have none.
MINOR_UNITS = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
    None: "XAG XAU XBA XBB XBC XBD XDR XPD XPT XSU XTS XUA XXX",
}


def load(keys: Iterable[str] = tuple(COLLECTIONS)) -> Counts:
    """Import the sample into the catalogue; it is idempotent.

    Items of an earlier sample, which was in `general`, move into their collections.
    """
    keys = set(keys)
    for key in COLLECTIONS:
        if key in keys:
            with suppress(editing.CollectionExists):
                data = editing.clean({"key": key, **COLLECTIONS[key]})
                editing.create_collection(data)
    return staging.apply(_without_edited(rows(keys)), actor=ACTOR)


def _without_edited(rows: Iterable[ItemData]) -> list[ItemData]:
    """Leave out what others than this command have given items that they edited."""
    by_id = {row["id"]: row for row in rows}
    edits = ItemChange.objects.filter(item_id__in=by_id)
    edited = edits.exclude(actor_name=ACTOR.name).values("item_id")
    for item in Item.objects.for_reading().filter(pk__in=edited):
        state = item.state()
        own = {field.name for field in fields.STATE_FIELDS if state[field.name]}
        if item.collection_id == rules.GENERAL:
            own -= {"collection", "code"}
        row = by_id[item.pk]
        by_id[item.pk] = {name: row[name] for name in row if name not in own}
    return list(by_id.values())


def rows(keys: Container[str]) -> Iterator[ItemData]:
    for key, standard, records, describe in (
        ("country", "iso-3166-1", pycountry.countries, _describe_country),
        ("country", "iso-3166-3", pycountry.historic_countries, _describe_withdrawn),
        ("subdivision", "iso-3166-2", pycountry.subdivisions, _describe_subdivision),
        ("language", "iso-639-3", pycountry.languages, _describe_language),
        ("currency", "iso-4217", pycountry.currencies, _describe_currency),
        ("script", "iso-15924", pycountry.scripts, _describe_script),
    ):
        for record in records if key in keys else ():
            item = describe(record)
            raw = {
                "id": f"{key}.{item['code']}",
                "collection": key,
                # An earlier sample had sentences there, made of the codes.
                "description": "",
                **item,
                "tags": [standard, key, *item.get("tags", ())],
            }
            yield fields.clean(raw)


# --- of one record each: the fields of its item


def _describe_country(country: Any) -> ItemData:
    name = getattr(country, "common_name", country.name)
    return {
        "code": country.alpha_2,
        "name": name,
        "labels": _labels("iso3166-1", name, country.name),
        "aliases": [country.name] if country.name != name else [],
        "attributes": _attributes(
            country, "alpha_2", "alpha_3", "numeric", "official_name", "flag"
        ),
    }


def _describe_withdrawn(country: Any) -> ItemData:
    code, date = country.alpha_4, country.withdrawal_date
    successor = SUCCESSORS.get(code, code[2:])
    if code not in SUCCESSORS and not pycountry.countries.get(alpha_2=successor):
        successor = ""
    return {
        "code": code,
        "name": country.name,
        "description": getattr(country, "comment", ""),
        "labels": _labels("iso3166-3", country.name),
        "attributes": _attributes(country, "alpha_2", "alpha_3", "numeric"),
        "status": "retired",
        # Of some, only the year is known.
        "valid_to": date if len(date) > len("1977") else f"{date}-12-31",
        "replaced_by": f"country.{successor}" if successor else None,
    }


def _describe_subdivision(part: Any) -> ItemData:
    return {
        "code": part.code,
        "name": part.name,
        "labels": _labels("iso3166-2", part.name),
        "attributes": {"country": part.country_code, "type": part.type},
        "parent": f"subdivision.{part.parent_code}" if part.parent_code else None,
    }


def _describe_language(language: Any) -> ItemData:
    kind = LANGUAGE_TYPES[language.type]
    others = [getattr(language, n, "") for n in ("common_name", "inverted_name")]
    return {
        "code": language.alpha_3,
        "name": language.name,
        "labels": _labels("iso639-3", language.name),
        "aliases": [name for name in others if name],
        "attributes": {
            "scope": LANGUAGE_SCOPES[language.scope],
            "type": kind,
            **_attributes(language, "alpha_2", "bibliographic"),
        },
        "tags": [kind, *(["iso-639-1"] if hasattr(language, "alpha_2") else [])],
    }


def _describe_currency(currency: Any) -> ItemData:
    code = currency.alpha_3
    digits = [n for n, codes in MINOR_UNITS.items() if code in codes.split()] or [2]
    return {
        "code": code,
        "name": currency.name,
        "labels": _labels("iso4217", currency.name),
        "attributes": {"numeric": currency.numeric, "minor_units": digits[0]},
    }


def _describe_script(script: Any) -> ItemData:
    return {
        "code": script.alpha_4,
        "name": script.name,
        "labels": _labels("iso15924", script.name),
        "attributes": {"numeric": script.numeric},
    }


def _attributes(record: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(record, name) for name in names if hasattr(record, name)}


def _labels(standard: str, *names: str) -> dict[str, str]:
    """Return the translations of the first of these names that has one."""
    labels = {}
    for language, locale in LANGUAGES.items():
        catalogue = _translations(standard, locale)
        texts = (catalogue.gettext(name) for name in names)
        labels[language] = next(filter(None, texts), "")
    return labels


class _Untranslated(gettext.NullTranslations):
    """Stands in for what has no translation: its own name would pass for one."""

    def gettext(self, message: str) -> str:
        return ""


@cache
def _translations(standard: str, locale: str) -> gettext.NullTranslations:
    found = gettext.translation(
        standard, pycountry.LOCALES_DIR, [locale], fallback=True
    )
    if not isinstance(found, gettext.GNUTranslations):
        return _Untranslated()
    found.add_fallback(_Untranslated())
    return found
