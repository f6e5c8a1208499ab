"""What a search has found is marked where it stands in the text as it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from items.highlighting import LETTERS_MAX, Highlighter
from items.models import Collection
from items.search import search_words
from items.templatetags.highlighting import excerpt, marked
from tests.factories import make_item

ITEMS = "/api/v1/items"

MARKED = [
    ("strasse", "An der Straße 5", "An der [Straße] 5"),
    ("STRASS", "Straße", "[Straß]e"),
    ("oebr", "Œbrø", "[Œbr]ø"),
    ("lodz", "Łódź tramway", "[Łódź] tramway"),
    ("cote", "Co\u0302te d’Ivoire", "[Co\u0302te] d’Ivoire"),
    ("divoire", "Côte d’Ivoire", "Côte [d’Ivoire]"),
    ("software", "soft\u00adware", "[soft\u00adware]"),
    ("バス", "ﾊﾞｽ停とバス", "[ﾊﾞｽ]停と[バス]"),
    ("ス", "バス停", "バ[ス]停"),
    ("京", "大東京都", "大東[京]都"),
    ("특별", "서울특별시", "서울[특별]시"),
    ("한", "\u1112\u1161\u11ab", "[\u1112\u1161\u11ab]"),
    ("हिन्दी", "हिन्दी", "[हिन्दी]"),
    ("🍕", "Pizza 🍕", "Pizza [🍕]"),
    ("42", "٤٢", "[٤٢]"),
    ("fi", "ﬁn de", "[ﬁ]n de"),
    # Short words are found where a word begins, long ones anywhere.
    ("de", "made de Den", "made [de] [De]n"),
    ("ade", "made", "m[ade]"),
    ("abcd cdef", "abcdef", "[abcdef]"),
    ("x", "nothing", "nothing"),
    ("%", "100%", "100%"),
    ("", "text", "text"),
]


@pytest.mark.parametrize(("search", "text", "expected"), MARKED)
def test_highlight_is_where_the_folded_word_comes_from(search, text, expected):
    at, parts = 0, []
    for start, end in Highlighter(search).ranges(text):
        parts += [text[at:start], "[", text[start:end], "]"]
        at = end
    assert "".join([*parts, text[at:]]) == expected


# Letters that folding adds, drops, divides, joins or orders.
LETTERS = "aeßſﬁﬀŒøİıΣςｶﾞﾊﾟハ\u3099한\u1112\u1161\u11ab\u0302\u0327\u093fक\u094d'’\u00ad\u200d \u0345ﷺ東京٤🍕€-."  # noqa: E501 - one alphabet
TEXTS = st.text(st.sampled_from(LETTERS) | st.characters(codec="utf-8"), max_size=24)


@given(TEXTS, TEXTS)
def test_highlighted_text_has_a_word_of_the_search(search, text):
    words = search_words(search).split()
    ranges = Highlighter(search).ranges(text)
    for start, end in ranges:
        assert 0 <= start < end <= len(text)
        found = search_words(text[start:end])
        assert any(word in found for word in words)
    assert ranges == sorted(ranges)


@given(TEXTS, st.data())
def test_every_word_of_a_text_is_highlighted(text, data):
    words = search_words(text).split()
    if words:
        word = data.draw(st.sampled_from(words))
        assert Highlighter(word).ranges(text)


def test_marked_text_is_escaped():
    highlighter = Highlighter("script")
    assert marked("<script>", highlighter) == "&lt;<mark>script</mark>&gt;"
    assert excerpt("<b> & script", highlighter) == (
        "&lt;b&gt; &amp; <mark>script</mark>"
    )


def test_excerpt_has_what_was_found_further_on():
    text = " ".join(["filler"] * 60 + ["needle"] + ["filler"] * 60)
    found = excerpt(text, Highlighter("needle"))
    assert "<mark>needle</mark>" in found
    assert found.startswith("…filler")
    assert found.endswith("…")
    assert excerpt(text, Highlighter("nothing")).startswith("filler")


@pytest.mark.django_db
def test_list_says_where_each_item_was_found(anonymous_api):
    schema = {
        "properties": {
            "metal": {"type": "string", "x-searchable": True},
            "words": {
                "type": "array", "items": {"type": "string"}, "x-searchable": True,
            },
            "hidden": {"type": "string"},
        }
    }  # fmt: skip
    Collection.objects.create(key="bolts", name="Bolts", schema=schema)
    make_item(
        collection="bolts", code="brass", name="Brass bolt", description="of brass",
        labels={"de": "Straßbrass"}, aliases=["Nut", "brass nut"],
        attributes={"metal": "brass", "words": ["x", "Brass"], "hidden": "brass"},
    )  # fmt: skip
    make_item(id="other", name="Bräss")

    def highlights(query: str) -> list:
        found = anonymous_api.get(f"{ITEMS}?{query}").json()["results"]
        return [item["highlight"] for item in found]

    assert highlights("search=brass&highlight=true") == [
        {
            "id": [[6, 11]],
            "code": [[0, 5]],
            "name": [[0, 5]],
            "description": [[3, 8]],
            "labels.de": [[5, 10]],
            "aliases.1": [[0, 5]],
            "attributes.metal": [[0, 5]],
            "attributes.words.1": [[0, 5]],
        },
        {"name": [[0, 5]]},
    ]
    [whole] = highlights("search=BOLTS.Brass&highlight=true")
    assert whole["id"] == [[0, 11]]
    assert highlights("highlight=true") == [{}, {}]
    plain = anonymous_api.get(f"{ITEMS}?search=brass&highlight=false").json()
    assert "highlight" not in plain["results"][0]
    assert anonymous_api.get(f"{ITEMS}?highlight=1").status_code == 400


@pytest.mark.django_db
def test_highlights_are_of_the_first_letters_of_an_item(anonymous_api):
    far = "x" * LETTERS_MAX
    make_item(id="far", name="Far", description=f"{far} needle", aliases=["needle"])
    make_item(id="near", name="Near", description="needle", aliases=["needle"])
    found = anonymous_api.get(f"{ITEMS}?search=needle&highlight=true").json()["results"]
    both = {"description": [[0, 6]], "aliases.0": [[0, 6]]}
    assert [item["highlight"] for item in found] == [{}, both]
