"""Sample catalogue: the ISO standards of countries, languages, currencies, …

From the `pycountry` package. Ids are made of the codes, so that loading it again
changes nothing.
"""

from collections.abc import Iterator

import pycountry

from items import fields
from items.fields import ItemData
from items.imports import staging
from items.imports.staging import Counts
from resilient_site.accounts.actor import Actor

ACTOR = Actor.from_command("load_sample")

LANGUAGE_TYPES = {
    "A": "ancient",
    "C": "constructed",
    "E": "extinct",
    "H": "historical",
    "L": "living",
    "S": "special",
}
LANGUAGE_SCOPES = {"I": "individual", "M": "macrolanguage", "S": "special"}


def rows() -> Iterator[ItemData]:
    for make in (_countries, _subdivisions, _languages, _currencies, _scripts):
        for pk, name, description, *tags in make():
            yield fields.clean(
                {"id": pk, "name": name, "description": description, "tags": tags}
            )


def load() -> Counts:
    """Import the sample into the catalogue; it is idempotent."""
    return staging.apply(list(rows()), actor=ACTOR)


type Rows = Iterator[tuple[str, ...]]


def _countries() -> Rows:
    for country in pycountry.countries:
        official = getattr(country, "official_name", country.name)
        yield (
            f"country.{country.alpha_2}",
            getattr(country, "common_name", country.name),
            f"{official}. Country code {country.alpha_2}, {country.alpha_3}, "
            f"{country.numeric} (ISO 3166-1).",
            "iso-3166-1",
            "country",
        )


def _subdivisions() -> Rows:
    for part in pycountry.subdivisions:
        country = pycountry.countries.get(alpha_2=part.country_code)
        whole = country.name if country else part.country_code
        parent = f", part of {part.parent_code}" if part.parent_code else ""
        yield (
            f"subdivision.{part.code}",
            part.name,
            f"{part.type} of {whole}{parent}. Subdivision code {part.code} "
            f"(ISO 3166-2).",
            "iso-3166-2",
            "subdivision",
        )


def _languages() -> Rows:
    for language in pycountry.languages:
        short = getattr(language, "alpha_2", "")
        codes = f"{short}, {language.alpha_3}" if short else language.alpha_3
        kind = LANGUAGE_TYPES[language.type]
        scope = LANGUAGE_SCOPES[language.scope]
        yield (
            f"language.{language.alpha_3}",
            language.name,
            f"{kind.capitalize()} language ({scope}). Language code {codes} (ISO 639).",
            "iso-639-3",
            "language",
            kind,
            *(["iso-639-1"] if short else []),
        )


def _currencies() -> Rows:
    for currency in pycountry.currencies:
        yield (
            f"currency.{currency.alpha_3}",
            currency.name,
            f"Currency code {currency.alpha_3}, {currency.numeric} (ISO 4217).",
            "iso-4217",
            "currency",
        )


def _scripts() -> Rows:
    for script in pycountry.scripts:
        yield (
            f"script.{script.alpha_4}",
            script.name,
            f"Script code {script.alpha_4}, {script.numeric} (ISO 15924).",
            "iso-15924",
            "script",
        )
