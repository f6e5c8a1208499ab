"""The collections of the sample, by key: their schemas, source and licence."""

from typing import Any

LICENCE = "LGPL-2.1-only"


def _source(standards: str) -> str:
    return f"{standards}, from pycountry (https://pypi.org/project/pycountry/)"


def _attributes(required: list[str], **properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


def _code(title: str, pattern: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "string", "title": title, "pattern": pattern,
        "x-filterable": True, "x-searchable": True, **more,
    }  # fmt: skip


NUMERIC = _code("Numeric code", "^[0-9]{3}$")

COLLECTIONS: dict[str, dict[str, Any]] = {
    "country": {
        "name": "Countries",
        "source": _source("ISO 3166-1 and ISO 3166-3"),
        "licence": LICENCE,
        "description": (
            "Countries and territories of ISO 3166-1. Their codes are of two letters; "
            "those of four are of countries whose codes were withdrawn (ISO 3166-3)."
        ),
        "schema": _attributes(
            ["alpha_2", "alpha_3"],
            # Two letters may be given again, once they were withdrawn.
            alpha_2=_code("Two letters", "^[A-Z]{2}$"),
            alpha_3=_code("Three letters", "^[A-Z]{3}$"),
            numeric=NUMERIC,
            official_name={
                "type": "string", "title": "Official name", "x-searchable": True,
            },
            flag={"type": "string", "title": "Flag"},
        ),
    },
    "subdivision": {
        "name": "Subdivisions of countries",
        "source": _source("ISO 3166-2"),
        "licence": LICENCE,
        "description": "States, provinces, districts, … of countries (ISO 3166-2).",
        "schema": _attributes(
            ["country", "type"],
            country={
                "type": "string", "title": "Country", "x-reference": "country",
                "x-filterable": True,
            },
            type={"type": "string", "title": "Type", "x-filterable": True},
        ),
    },
    "language": {
        "name": "Languages",
        "source": _source("ISO 639-3"),
        "licence": LICENCE,
        "description": "Languages by their code of three letters (ISO 639-3).",
        "schema": _attributes(
            ["scope", "type"],
            alpha_2=_code("ISO 639-1", "^[a-z]{2}$", **{"x-unique": True}),
            bibliographic=_code("Bibliographic (ISO 639-2)", "^[a-z]{3}$"),
            scope={
                "type": "string", "title": "Scope", "x-filterable": True,
                "enum": ["individual", "macrolanguage", "special"],
            },
            type={
                "type": "string", "title": "Type", "x-filterable": True,
                "enum": [
                    "ancient", "constructed", "extinct", "historical", "living",
                    "special",
                ],
            },
        ),
    },
    "currency": {
        "name": "Currencies",
        "source": _source("ISO 4217"),
        "licence": LICENCE,
        "description": "Currencies and funds by their three letters (ISO 4217).",
        "schema": _attributes(
            ["numeric"],
            numeric=NUMERIC | {"x-unique": True},
            minor_units={
                "type": "integer", "title": "Minor units", "x-filterable": True,
                "description": "Digits after the decimal point.", "minimum": 0,
            },
        ),
    },
    "script": {
        "name": "Scripts",
        "source": _source("ISO 15924"),
        "licence": LICENCE,
        "description": "Writing systems by their code of four letters (ISO 15924).",
        "schema": _attributes(["numeric"], numeric=NUMERIC),
    },
}  # fmt: skip
