"""Sample catalogue: the ISO standards of countries, languages, currencies, …

From the `pycountry` package. Ids are made of the codes, so that loading it again
changes nothing.
"""

from collections.abc import Iterator
from typing import Any

import pycountry

from items import fields
from items.fields import ItemData
from items.imports import staging
from items.imports.staging import Counts
from resilient_site.accounts.actor import Actor

ACTOR = Actor(None, "load_sample")

LANGUAGE_TYPES = {
    "A": "ancient",
    "C": "constructed",
    "E": "extinct",
    "H": "historical",
    "L": "living",
    "S": "special",
}
LANGUAGE_SCOPES = {"I": "individual", "M": "macrolanguage", "S": "special"}


def load() -> Counts:
    """Import the sample into the catalogue; it is idempotent."""
    return staging.apply(list(rows()), actor=ACTOR)


def rows() -> Iterator[ItemData]:
    for kind, standard, records, describe in (
        ("country", "iso-3166-1", pycountry.countries, _describe_country),
        ("subdivision", "iso-3166-2", pycountry.subdivisions, _describe_subdivision),
        ("language", "iso-639-3", pycountry.languages, _describe_language),
        ("currency", "iso-4217", pycountry.currencies, _describe_currency),
        ("script", "iso-15924", pycountry.scripts, _describe_script),
    ):
        for record in records:
            code, name, description, *tags = describe(record)
            yield fields.clean(
                {
                    "id": f"{kind}.{code}",
                    "name": name,
                    "description": description,
                    "tags": [standard, kind, *tags],
                }
            )


# --- of one record each: its code, name, description and further tags

type Described = tuple[str, ...]


def _describe_country(country: Any) -> Described:
    official = getattr(country, "official_name", country.name)
    codes = f"{country.alpha_2}, {country.alpha_3}, {country.numeric}"
    return (
        country.alpha_2,
        getattr(country, "common_name", country.name),
        f"{official}. Country code {codes} (ISO 3166-1).",
    )


def _describe_subdivision(part: Any) -> Described:
    country = pycountry.countries.get(alpha_2=part.country_code)
    whole = country.name if country else part.country_code
    if part.parent_code:
        whole += f", part of {part.parent_code}"
    text = f"{part.type} of {whole}. Subdivision code {part.code} (ISO 3166-2)."
    return part.code, part.name, text


def _describe_language(language: Any) -> Described:
    kind = LANGUAGE_TYPES[language.type]
    short = getattr(language, "alpha_2", "")
    codes = f"{short}, {language.alpha_3}" if short else language.alpha_3
    return (
        language.alpha_3,
        language.name,
        f"{kind.capitalize()} language ({LANGUAGE_SCOPES[language.scope]}). "
        f"Language code {codes} (ISO 639).",
        kind,
        *(["iso-639-1"] if short else []),
    )


def _describe_currency(currency: Any) -> Described:
    code = currency.alpha_3
    return code, currency.name, f"Currency code {code}, {currency.numeric} (ISO 4217)."


def _describe_script(script: Any) -> Described:
    code = script.alpha_4
    return code, script.name, f"Script code {code}, {script.numeric} (ISO 15924)."
