"""The rules that REST, forms and imports share."""

from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from items import field_types, fields, rules
from items.field_types import TextField
from items.models import Item
from items.search import search_words
from resilient_site.errors import Invalid

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("given_id", "stored", "shown"),
    [
        (7, "7", 7),
        ("7", "7", 7),
        ("007", "007", "007"),
        (0, "0", 0),
        (2**53 - 1, "9007199254740991", 2**53 - 1),
        ("9007199254740992", "9007199254740992", "9007199254740992"),
        (" libstdc++6 ", "libstdc++6", "libstdc++6"),
        ("country.DE", "country.DE", "country.DE"),
        ("-a", "-a", "-a"),
        ("12(3)", "12(3)", "12(3)"),
        ("Ma\u0308dchen", "M\u00e4dchen", "M\u00e4dchen"),
        ("हिन्दी", "हिन्दी", "हिन्दी"),
    ],
    ids=repr,
)
def test_numeric_id_stays_a_number_in_json(given_id, stored, shown):
    assert rules.clean_id(given_id) == stored
    assert field_types.public_id(stored) == shown


@pytest.mark.parametrize(
    "bad",
    [-1, 2**53, True, 1.5, None, [], {}, "", "a b", "a/b", "a?b", "50%", "a\0", "-",
     "..", "a\u200bb", "x" * 101],
    ids=repr,
)  # fmt: skip
def test_bad_id_is_rejected_with_a_sentence(bad):
    with pytest.raises(ValueError, match=r"\.$"):
        rules.clean_id(bad)


def test_clean_names_every_field_that_breaks_a_rule():
    with pytest.raises(Invalid) as caught:
        fields.clean({"id": "a b", "name": " ", "tags": ["/"], "description": 5})
    assert set(caught.value.errors) == {"id", "name", "tags", "description"}
    with pytest.raises(Invalid) as caught:
        fields.clean({"description": "d"})
    assert caught.value.errors == {"name": ["This field is required."]}
    assert fields.clean({"description": "d"}, partial=True) == {"description": "d"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        *(
            (f"x{bad}", "Must")
            for bad in ("a\0b", "\ud800", "a\nb", "\x7f", "a\u2028b")
        ),
        *((bad, "can be seen") for bad in ("\u202e", "\u200b \u200b", "\u00ad")),
    ],
    ids=repr,
)
def test_name_is_one_printable_line_that_can_be_seen(text, reason):
    with pytest.raises(ValueError, match=reason):
        rules.clean_line(text, max_length=200, required=True)


@pytest.mark.parametrize("text", ["a\r\nb\r\n", "a\rb\r", "a\nb\n"], ids=repr)
def test_line_ends_of_a_description_are_of_one_kind(text):
    assert rules.clean_text(text, max_length=4) == "a\nb\n"


def test_tags_are_sorted_lower_case_and_once():
    assert rules.clean_tags("b, A a") == ["a", "b"]
    assert rules.clean_tags([]) == []
    with pytest.raises(ValueError, match="at most 30"):
        rules.clean_tags([f"t{n}" for n in range(31)])


@pytest.mark.parametrize(
    ("given", "tags"),
    [
        ('country "dark red" Région', ["country", "dark red", "région"]),
        ('"Smith, John",b', ["b", "smith, john"]),
        ([" Dark\u00a0  red ", "R&D/x?"], ["dark red", "r&d/x?"]),
        (["re\u0301gion"], ["région"]),
        (["می\u200cشود", ".net", "c#"], [".net", "c#", "می\u200cشود"]),
    ],
    ids=str,
)  # fmt: skip
def test_tag_has_any_letters_with_single_spaces(given, tags):
    assert rules.clean_tags(given) == tags


@pytest.mark.parametrize(
    "bad",
    ["", " ", "-", 'a"b', "a\nb", "a\0", "a\u200bb", "a\u202eb", "\ud800", "/a", "a/",
     5, None],
    ids=repr,
)  # fmt: skip
def test_bad_tag_is_rejected_with_a_sentence(bad):
    with pytest.raises(ValueError, match=r"\.$"):
        rules.clean_tag(bad)


@pytest.mark.parametrize("text", ['""', '"dark red', 'dark red"'])
def test_text_of_tags_with_a_stray_quote_is_rejected(text):
    with pytest.raises(ValueError, match="is not a tag"):
        rules.clean_tags(text)


@given(st.lists(st.text("aÉσΣ\u0301 ,'\"\\\t\u00a0", max_size=5) | st.text(max_size=4)))
@example(["İ", "ΑΣ", "a\\", "'"])
def test_tags_written_as_text_are_read_as_they_were(given):
    tags = set()
    for tag in given:
        with suppress(ValueError):
            tags.add(rules.clean_tag(tag))
    found = rules.clean_tags(rules.join_tags(sorted(tags)[:30]))
    assert found == sorted(tags)[:30]


# By field: the longest value that is accepted, and one that is longer by one.
LIMITS = {
    "id": (100, lambda n: "i" * n),
    "name": (200, lambda n: "n" * n),
    "description": (10_000, lambda n: "d\n" * (n // 2) + "d" * (n % 2)),
    "tags": (30, lambda n: [f"t{m}" for m in range(n)]),
    "tags.0": (50, lambda n: ["t" * n]),
}


@pytest.mark.parametrize("is_json", [True, False])
@pytest.mark.parametrize("limited", LIMITS)
def test_field_takes_what_is_within_its_limit(limited, is_json):
    most, make = LIMITS[limited]
    name = limited.partition(".")[0]
    row = {"name": "n", name: make(most)}
    assert len(fields.clean(row, is_json=is_json)[name]) in (most, 1)
    with pytest.raises(Invalid) as caught:
        fields.clean(row | {name: make(most + 1)}, is_json=is_json)
    assert [*caught.value.errors] == [name]
    assert f"at most {most} " in caught.value.errors[name][0]


@given(st.text(max_size=50), st.text(max_size=80), st.lists(st.text(max_size=8)))
def test_cleaning_is_idempotent(name, description, tags):
    try:
        once = fields.clean({"name": name, "description": description, "tags": tags})
    except Invalid:
        return
    assert fields.clean(once) == once


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Åland Islands", "aland islands"),
        ("Côte d'Ivoire", "cote divoire"),
        ("STRASSE Straße", "strasse strasse"),
        ("C++ (ISO/IEC 14882)", "c iso iec 14882"),
        ("日本 Nippon", "日本 nippon"),
        ("under_score 100%", "under score 100"),
        ("Å^2—$5", "a 2 5"),
    ],
)
def test_search_words_have_no_case_accents_or_punctuation(text, words):
    assert search_words(text) == words


@given(st.text(max_size=60))
@example("\N{MATHEMATICAL BOLD CAPITAL A}")
def test_search_words_are_idempotent(text):
    words = search_words(text)
    assert search_words(words) == words


@pytest.mark.parametrize(
    "field",
    [field for field in fields.COLUMN_FIELDS if isinstance(field, TextField)],
    ids=lambda field: field.name,
)
def test_declared_length_fits_the_column(field):
    column = Item._meta.get_field(field.name)
    assert column.max_length in (None, field.max_length)
