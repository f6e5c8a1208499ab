"""Every field of an item comes back as it was given: over REST, and in every format."""

from pathlib import Path
from typing import Any
from unicodedata import normalize

from django.contrib.auth.models import User
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase
from rest_framework.test import APIClient

from items import fields, rules
from items.field_types import public_id
from items.imports import exporting
from items.models import Collection, Item
from tests.items.imports.factories import counts, load

ITEMS = "/api/v1/items"
SCHEMA = {
    "properties": {
        "text": {"type": "string", "x-searchable": True},
        "word": {"type": "string", "pattern": "^[a-z]+$", "minLength": 2},
        "choice": {"type": "string", "enum": ["brass", "steel, zinc"]},
        "day": {"type": "string", "format": "date", "x-filterable": True},
        "moment": {"type": "string", "format": "date-time"},
        "page": {"type": "string", "format": "uri"},
        "mail": {"type": "string", "format": "email"},
        "whole": {"type": "integer", "minimum": -(2**53) + 1, "x-filterable": True},
        "number": {"type": "number"},
        "flag": {"type": "boolean"},
        "texts": {"type": "array", "items": {"type": "string"}},
        "numbers": {"type": "array", "items": {"type": "number"}},
        "flags": {"type": "array", "items": {"type": "boolean"}},
        "key": {"type": "string", "x-unique": True},
        "kin": {"type": "string", "x-reference": "things"},
    }
}

# Formats, and whether each attribute and label has a column of its own.
FILES = [
    *((name, False) for name in sorted(exporting.FORMATS)),
    ("csv", True),
    ("xlsx", True),
]

ids = st.one_of(
    st.integers(0, rules.INTEGER_MAX),
    st.from_regex(rules.ID_PATTERN, fullmatch=True).filter(rules.is_legal_id),
).filter(lambda pk: public_id(rules.clean_id(pk)) == pk)
# Printable, with what files and spreadsheets give a meaning of their own.
lines = st.one_of(
    st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20),
    st.sampled_from(["=1+1", "007", "1e5", "a, b", 'say "x"', "-", "TRUE", "null"]),
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30).map(
    lambda text: text.replace("\r", "").replace("\0", "")
)
numbers = st.one_of(
    st.integers(-rules.INTEGER_MAX, rules.INTEGER_MAX),
    st.floats(-rules.INTEGER_MAX, rules.INTEGER_MAX, allow_subnormal=False),
)
days = st.dates().map(str)
attributes = {
    "text": texts,
    "word": st.sampled_from(["ab", "xyz"]),
    "choice": st.sampled_from(["brass", "steel, zinc"]),
    "day": days,
    "moment": st.sampled_from(["2026-11-30T22:00:00Z", "1999-12-31T23:59:59+14:00"]),
    "page": st.just("https://example.com/?a=1&b=%20"),
    "mail": st.just("a@example.com"),
    "whole": st.integers(-rules.INTEGER_MAX, rules.INTEGER_MAX),
    "number": numbers,
    "flag": st.booleans(),
    "texts": st.lists(texts, max_size=3),
    "numbers": st.lists(numbers, max_size=3),
    "flags": st.lists(st.booleans(), max_size=2),
}
plain_fields = {
    "description": texts,
    "labels": st.dictionaries(st.sampled_from(["de", "pt-BR", "zh-Hant-TW"]), lines),
    "aliases": st.lists(lines, unique=True, max_size=3),
    "attributes": st.fixed_dictionaries({}, optional=attributes),
    "tags": st.lists(
        st.sampled_from(
            ["a", "b-c", "=1", "dark red", "smith, john", "région", "a\\b", "'x"]
        ),
        unique=True,
    ).map(sorted),
    "status": st.sampled_from(rules.STATUSES),
}


@st.composite
def catalogues(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Bodies of items, each of which may refer to those before it."""
    bodies: list[dict[str, Any]] = []
    names = draw(st.lists(st.tuples(ids, lines), max_size=4, unique_by=(_text, _code)))
    for pk, code in names:
        body = {"id": pk, "name": draw(lines), "collection": "things", "code": code}
        body |= draw(st.fixed_dictionaries({}, optional=plain_fields))
        first, last = sorted(draw(st.tuples(days, days)))
        body |= draw(
            st.fixed_dictionaries(
                {}, optional={"valid_from": st.just(first), "valid_to": st.just(last)}
            )
        )
        if bodies:
            body |= draw(_references(bodies, body.get("attributes", {})))
        bodies.append(body)
    return bodies


def _text(name: tuple[Any, str]) -> str:
    return str(name[0])


def _code(name: tuple[Any, str]) -> str:
    return normalize("NFC", name[1])


def _references(
    bodies: list[dict[str, Any]], attributes: dict[str, Any]
) -> st.SearchStrategy[dict[str, Any]]:
    known = st.sampled_from([body["id"] for body in bodies])
    codes = st.sampled_from([body["code"] for body in bodies])
    link = st.tuples(st.sampled_from(rules.RELATIONS), known)
    by_text = lambda pair: (pair[0], str(pair[1]))  # noqa: E731 - the order of links
    links = st.lists(link, unique_by=by_text, max_size=3).map(
        lambda pairs: [
            {"relation": relation, "target": target}
            for relation, target in sorted(pairs, key=by_text)
        ]
    )
    kin = codes.map(lambda code: attributes | {"kin": code})
    optional = {
        "parent": known, "replaced_by": known, "links": links, "attributes": kin,
    }  # fmt: skip
    return st.fixed_dictionaries({}, optional=optional)


class RoundTrip(TestCase):
    def setUp(self) -> None:
        Collection.objects.create(key="things", name="Things", schema=SCHEMA)
        self.api = APIClient()
        self.api.force_authenticate(User.objects.create_superuser("ada"))

    @settings(max_examples=10, suppress_health_check=list(HealthCheck))
    @given(catalogues(), st.sampled_from(FILES))
    def test_items_come_back_as_they_were_given(self, bodies, file):
        """Also by a file, into the same catalogue or an empty one."""
        for number, body in enumerate(bodies):
            if number == 0:
                body["attributes"] = body.get("attributes", {}) | {"key": "once"}
            created = self.api.post(ITEMS, body)
            assert created.status_code == 201, created.content
            shown = self.api.get(created["Location"]).json()
            assert shown == created.json()
            body["code"] = normalize("NFC", body["code"])
            assert {name: shown[name] for name in body} == body
            assert self.api.put(created["Location"], shown).json() == shown

        def exported() -> bytes:
            name, flat = file
            items = Item.objects.for_reading()
            return b"".join(exporting.export(name, items, flat=flat))

        content, number = exported(), len(bodies)
        folder = Path("/nonexistent")
        assert counts(load(content, folder)) == (0, 0, number, 0)
        assert exported() == content

        state = {item.pk: item.state() for item in Item.objects.all()}
        Item.objects.all().delete()
        assert counts(load(content, folder)) == (number, 0, 0, 0)
        assert {item.pk: item.state() for item in Item.objects.all()} == state


def test_every_declared_field_is_in_the_round_trip():
    given = {"id", "name", "collection", "code", *plain_fields}
    given |= {"valid_from", "valid_to", "parent", "replaced_by", "links"}
    assert given == {field.name for field in fields.FIELDS}
