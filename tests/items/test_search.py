"""Search finds the same, in the same order, on both databases."""

import os

import psycopg
import pytest
from django.db import connection, transaction
from django.http import QueryDict
from django.urls import reverse
from hypothesis import given
from hypothesis import strategies as st

from items import catalogue, fields, search, search_columns
from items.list_query import MAX_POPULAR_TAGS, ListQuery, popular_tags
from items.models import Collection, Item
from items.search import search_words, sort_key
from resilient_site.errors import Invalid
from tests.factories import TESTER, create_items, make_item, make_items

pytestmark = pytest.mark.django_db

ITEMS = {
    "aland": ("Åland Islands", "Country code AX, ALA"),
    "ivory": ("Côte d’Ivoire", "Country code CI, 50% \\ _"),
    "cpp": ("C++ compiler", "The GNU compiler\nfor C++"),
    "jp": ("日本語", "Japanese language"),
    "tram": ("Łódź tramway", ""),
    "harbour": ("Tromsø harbour", ""),
    "danang": ("Đà Nẵng", ""),
    "diyar": ("Diyarbakır", ""),
    "hamrun": ("Il-Ħamrun", ""),
    "ganja": ("Gəncə", "þorn, ðæt, œuvre, ŋoni, straße"),
    "tokyo": ("大東京都市圏", ""),
    "stop": ("バス停", "Halfwidth ﾊﾞｽ"),
    "pond": ("ハス池", ""),
    "seoul": ("서울특별시", ""),
    "hindi": ("हिन्दी", "भाषा"),
    "school": ("ἀγορά", "школа ёлка שָׁלוֹם مُحَمَّد"),
    "pizza": ("Pizza 🍕 parlour", "for 5 € with 👩🏽\u200d🍳"),
    "brien": ("O'Brien", "soft\u00adware"),
    "SKU-4711-X": ("Left-handed widget", ""),
    "country.DE": ("Germany", "Country code DE, DEU"),
    "currency.EUR": ("Euro", "Currency code EUR, 978"),
    "europe": ("EUR area, or Europe", ""),
    "numbers": ("Arabic ٤٢", ""),
    "unit.kgm": ("Kilogram", ""),
}


@pytest.fixture
def some_items():
    rows = [{"id": pk, "name": n, "description": d} for pk, (n, d) in ITEMS.items()]
    create_items(rows)


def found(text: str) -> set[str]:
    return set(Item.objects.search(text).values_list("pk", flat=True))


# Text, and the items it finds: in lists, exports, jobs and the admin, which all call
# the same function.
EXAMPLES = [
    ("aland", {"aland"}),
    ("ÅLAND", {"aland"}),
    ("land isl", {"aland"}),
    ("ountr", {"aland", "ivory", "country.DE"}),
    ("mwa", {"tram"}),
    ("country ivoire", {"ivory"}),
    ("ax", {"aland"}),
    ("x", {"SKU-4711-X"}),
    ("gnu c", {"cpp"}),
    ("c++", {"aland", "ivory", "cpp", "country.DE", "currency.EUR"}),
    ("compiler gnu the for", {"cpp"}),
    ('"quoted" OR NOT', set()),
    ("nothinglikethis", set()),
    # Letters that have no accent to lose
    ("Lodz", {"tram"}),
    ("Tromso", {"harbour"}),
    ("Da Nang", {"danang"}),
    ("Diyarbakir", {"diyar"}),
    ("DİYARBAKIR", {"diyar"}),
    ("Hamrun", {"hamrun"}),
    ("gence thorn dhaet", set()),
    ("gence thorn daet oeuvre noni strasse", {"ganja"}),
    # Apostrophes and invisible characters
    ("dIvoire", {"ivory"}),
    ("d'Ivoire", {"ivory"}),
    ("ivoire", {"ivory"}),
    ("OBrien", {"brien"}),
    ("O’Brien", {"brien"}),
    ("software", {"brien"}),
    ("soft\u200bware", {"brien"}),
    # Scripts without spaces, and marks that make another letter
    ("日本語", {"jp"}),
    ("日", {"jp"}),
    ("語", {"jp"}),
    ("東京", {"tokyo"}),
    ("圏", {"tokyo"}),
    ("京東", set()),
    ("バス", {"stop"}),
    ("ハス", {"pond"}),
    ("ﾊﾞｽ停", {"stop"}),
    ("ス", {"stop", "pond"}),
    ("특별", {"seoul"}),
    ("ㅌ", set()),
    ("हिन्दी", {"hindi"}),
    ("हनद", set()),
    ("αγορα", {"school"}),
    ("елка שלום محمد", {"school"}),
    # Symbols
    ("🍕", {"pizza"}),
    ("€", {"pizza"}),
    ("👩", {"pizza"}),
    ("42", {"numbers"}),
    *[(text, set()) for text in ("%", "_", "*", "\\", "' '", "?!", "\u200b", "%%%")],
    # Ids and codes
    ("SKU-4711-X", {"SKU-4711-X"}),
    ("sku-4711-x", {"SKU-4711-X"}),
    ("country.DE", {"country.DE"}),
    ("Country.De", {"country.DE"}),
    ("currency.DE", set()),
    ("Unit.KGM", {"unit.kgm"}),
    ("jp", {"jp"}),
]


def test_search_finds_every_word_in_name_or_description(some_items):
    wrong = {text: found(text) for text, ids in EXAMPLES if found(text) != ids}
    assert not wrong
    assert found(" ") == set(ITEMS)


def test_search_is_the_same_in_lists_exports_and_admin(some_items, client, admin):
    client.force_login(admin)
    for text in ("Lodz", "%", "東京", "country.DE"):
        listed = client.get("/api/v1/items", {"search": text}).json()["results"]
        assert {item["id"] for item in listed} == found(text)
        exported = client.get("/api/v1/items/export", {"search": text}).getvalue()
        assert len(exported.splitlines()) - 1 == len(found(text))
        shown = client.get(reverse("admin:items_item_changelist"), {"q": text})
        assert {item.pk for item in shown.context["cl"].result_list} == found(text)


def pages(search: str, size: int = 50, **query: str) -> list[str]:
    """Return the ids of all pages, which are the same forwards and backwards."""
    listed = QueryDict(mutable=True)
    listed.update({"search": search} | query)
    parsed = ListQuery.parse(listed)
    read = [page := parsed.page(cursor=None, size=size)]
    while page.next:
        read.append(page := parsed.page(cursor=page.next, size=size))
    back = [read[-1]]
    while page.previous:
        back.insert(0, page := parsed.page(cursor=page.previous, size=size))
    ids = [item.pk for page in read for item in page.rows]
    assert ids == [item.pk for page in back for item in page.rows]
    return ids


RANKED = [
    "X.oak",  # the code
    "exact",  # the name
    "begins-1",  # begins with it
    "begins-2",
    "word",  # has it as a word
    "inside",  # has it inside of a word
    "text",  # has it in the description
]


@pytest.fixture
def ranked_items():
    make_item(id="text", name="Willow", description="oak")
    make_item(id="inside", name="A soaked tree")
    make_item(id="word", name="Great Oak")
    make_item(id="begins-2", name="Oaks")
    make_item(id="begins-1", name="Oak 2")
    make_item(id="exact", name="OÅK")
    make_item(id="X.oak", name="z")
    make_item(id="other", name="Ash")


@pytest.mark.parametrize("size", [1, 2, 50])
def test_search_is_ordered_by_relevance(ranked_items, size):
    assert pages("Oak", size) == RANKED
    by_name = pages("Oak", size, ordering="name")
    assert by_name == [*sorted(RANKED, key=lambda pk: sort_key(name_of(pk)))]


def name_of(pk: str) -> str:
    return Item.objects.get(pk=pk).name


@pytest.mark.parametrize("size", [1, 2, 50])
def test_frequent_word_is_ordered_by_what_an_index_finds(
    ranked_items, size, monkeypatch
):
    monkeypatch.setattr(search, "RARE_ROWS", 0)
    monkeypatch.setattr(search, "FEW_ROWS", 0)
    by_index = [*RANKED[:4], "inside", "word", "text"]
    # SQLite ranks all that it finds by a long word.
    assert pages("Oak", size) == (RANKED if connection.vendor == "sqlite" else by_index)


@pytest.mark.parametrize("size", [1, 50])
def test_frequent_short_word_is_ordered_by_what_an_index_finds(size, monkeypatch):
    for name, description in {"The ox": "", "Ash": "An ox", "Oxen": ""}.items():
        make_item(id=name.split()[0], name=name, description=description)
    assert pages("ox", size) == ["Oxen", "The", "Ash"]
    monkeypatch.setattr(search, "RARE_ROWS", 0)
    monkeypatch.setattr(search, "FEW_ROWS", 0)
    assert pages("ox", size) == ["Oxen", "Ash", "The"]


def test_cursor_of_relevance_keeps_its_way(ranked_items, monkeypatch):
    query = ListQuery.parse(QueryDict("search=oak"))
    ids, cursor = [], None
    for rare_rows in (50_000, 0, 50_000, 0, 50_000, 0, 0):
        monkeypatch.setattr(search, "RARE_ROWS", rare_rows)
        page = query.page(cursor=cursor, size=1)
        ids.append(page.rows[0].pk)
        cursor = page.next
        if cursor:
            wordless = ListQuery.parse(QueryDict("search=%25"))
            assert wordless.page(cursor=cursor, size=1).rows == []
    assert ids == RANKED
    assert cursor is None
    with pytest.raises(Invalid) as caught:
        ListQuery.parse(QueryDict("ordering=relevance"))
    assert "ordering" in caught.value.errors


# Of a list like the packages of Debian, beside countries and currencies.
PACKAGES = [
    "git", "git-all", "git-annex", "gitk", "gitlab", "cgit", "digitools", "legit",
    "libgit2", "python3-git", "python3", "python3-all", "r-base", "r-cran-git",
]  # fmt: skip
COUNTRIES = {
    "DE": "Germany", "US": "United States", "UM": "United States Outlying Islands",
    "AE": "United Arab Emirates", "DENM": "Denmark", "GE": "Georgia", "MX": "Mexico",
}  # fmt: skip
OBVIOUS = {
    "country.DE": "country.DE",
    "DE": "country.DE",
    "de": "country.DE",
    "united states": "country.US",
    "States United": "country.US",
    "EUR": "currency.EUR",
    "euro": "currency.EUR",
    "git": "debian.git",
    "GIT": "debian.git",
    "python3": "debian.python3",
    "python3 git": "debian.python3-git",
    "ge": "country.GE",
    "germany": "country.DE",
    "germ": "country.DE",
}


def test_obvious_item_is_the_first_one():
    for key in ("country", "currency", "debian"):
        Collection.objects.create(key=key, name=key)
    rows = [("debian", code, code, "Tool of git, for de EUR") for code in PACKAGES]
    rows += [("country", *pair, "A country; git") for pair in COUNTRIES.items()]
    rows += [("currency", "EUR", "Euro", ""), ("currency", "XEU", "EUR unit", "")]
    rows += [("general", "a", "A DE", "country.DE EUR"), ("general", "b", "de fr", "")]
    names = ("collection", "code", "name", "description")
    create_items([fields.clean(dict(zip(names, row, strict=True))) for row in rows])
    assert {text: pages(text)[0] for text in OBVIOUS} == OBVIOUS


def test_names_are_ordered_without_case_accents_and_by_numbers():
    names = [
        "%%", "Item 2", "item 10", "Item 10a", "Item 100", "ITEM 2024123456789",
        "Item 1234567890", "Item 987654321", "Åland Islands", "Albania", "apple",
        "Côte d’Ivoire", "Cyprus", "résumé", "Zebra", "Łódź",
    ]  # fmt: skip
    right = [
        "%%", "Åland Islands", "Albania", "apple", "Côte d’Ivoire", "Cyprus",
        "Item 2", "item 10", "Item 10a", "Item 100", "Item 987654321",
        "Item 1234567890", "ITEM 2024123456789", "Łódź", "résumé", "Zebra",
    ]  # fmt: skip
    for name in names:
        make_item(name=name)
    query = ListQuery.parse(QueryDict(""))
    assert [item.name for item in query.page(cursor=None, size=50).rows] == right
    query = ListQuery.parse(QueryDict("ordering=-name"))
    listed = [item.name for item in query.page(cursor=None, size=50).rows]
    assert listed == right[::-1]


def test_name_of_letters_that_are_words_is_ordered_by_its_beginning():
    """One of them folds to 15 letters: the column would not take all of them."""
    make_item(id="long", name="ﷺ" * 200)
    assert found("الله") == {"long"}


@given(st.text(max_size=60))
def test_search_words_are_words_and_folding_them_again_changes_nothing(text):
    words = search_words(text)
    assert search_words(words) == words
    assert len(sort_key(text)) <= 250
    assert words == words.casefold()
    assert "\n" not in words


def test_search_sees_edits_and_deletions_at_once(some_items):
    catalogue.update_item("cpp", {"name": "Rust"}, actor=TESTER)
    assert found("rust") == {"cpp"}
    assert Item.objects.get(pk="cpp").sort_key == "rust"
    catalogue.update_item("cpp", {"description": "Crab"}, actor=TESTER)
    assert found("gnu") == set()
    catalogue.delete_item("cpp", actor=TESTER)
    assert found("rust") == set()


def test_items_of_an_earlier_release_are_brought_up_to_date(monkeypatch):
    make_items(8, name="Łódź 12", description="東京")
    written = dict(Item.objects.values_list("pk", "search_text"))
    Item.objects.filter(pk="item-00003").update(name="Ħamrun")
    Item.objects.exclude(pk="item-00005").update(search_text=" łodz 12", sort_key="")
    assert found("lodz 京") == {"item-00005"}
    monkeypatch.setattr(search_columns, "RENEWED_BATCH", 2)
    assert search_columns.renew(for_s=0) == 2
    assert search_columns.renew() == 5
    assert search_columns.renew() == 0
    assert found("lodz 京") == set(written) - {"item-00003"}
    assert found("hamrun 京") == {"item-00003"}
    del written["item-00003"]
    now = Item.objects.filter(sort_key="lodz 212")
    assert dict(now.values_list("pk", "search_text")) == written


@pytest.mark.django_db(transaction=True)
def test_renewal_does_not_wait_for_an_item_that_is_being_written():
    if connection.vendor == "sqlite":
        pytest.skip("SQLite locks no rows")
    make_items(3)
    Item.objects.update(search_text=" of before")
    url, name = os.environ["DATABASE_URL"], connection.settings_dict["NAME"]
    with psycopg.connect(url, dbname=name) as writer:
        writer.execute("SELECT FROM items_item WHERE id = 'item-00001' FOR UPDATE")
        assert search_columns.renew() == 2
    assert search_columns.renew() == 1


def test_search_indexes_exist_and_are_used(some_items):
    with connection.cursor() as cursor, transaction.atomic():
        if connection.vendor == "sqlite":
            cursor.execute(
                "INSERT INTO items_search_index (items_search_index, rank) "
                "VALUES ('integrity-check', 1)"
            )
        else:
            cursor.execute("SET LOCAL enable_seqscan = off")
            plan = Item.objects.search("zzz yyy").order_by().explain()
            assert "item_by_trigram" in plan
        plan = Item.objects.search("zzzyyy").order_by().explain()
        assert "item_by_code" in plan
        assert "item_by_old_search" in search_columns.outdated(Item).explain()
        assert connection.vendor == "sqlite" or "item_by_trigram" in plan


@pytest.mark.skipif(connection.vendor == "sqlite", reason="it has no such list")
def test_search_reads_a_short_list_of_what_was_just_imported():
    text = " ".join(f"word{n}" for n in range(100))
    make_items(500, description=text)
    with connection.cursor() as cursor:
        cursor.execute("SELECT gin_clean_pending_list('item_by_trigram')")
        (pages,) = cursor.fetchone()
    assert pages <= 64  # of 8 KB; more than 150 were written


def test_popular_tags_are_the_most_frequent():
    names = [f"t{n:02}" for n in range(MAX_POPULAR_TAGS + 1)]
    for tags in (names[:30], names[30:60], names[60:], names[5:6], names[60:]):
        make_item(tags=tags)
    once = [(name, 1) for name in names if name not in ("t05", "t60")]
    assert [tuple(pair) for pair in popular_tags()] == [
        ("t05", 2),
        ("t60", 2),
        *once[:-1],
    ]


LISTS = "/api/v1/items"
LIMITS = {
    "letters of a search": ("search", lambda n: "w" * n, 200),
    "words of a search": ("search", lambda n: "w " * n, 16),
    "letters of a tag": ("tag", lambda n: "t" * n, 50),
    "page size": ("page_size", str, 500),
}


def test_list_takes_what_is_within_its_limits(client):
    statuses = {
        what: [client.get(LISTS, {name: make(n)}).status_code for n in (most, most + 1)]
        for what, (name, make, most) in LIMITS.items()
    }
    assert statuses == dict.fromkeys(LIMITS, [200, 400])


def test_cursor_is_of_one_ordering(client):
    make_items(3, description="word")
    names = ["name", "-name", "id", "-id", "updated_at", "-updated_at", "created_at"]
    lists = [*[{"ordering": n} for n in names], {"search": "word"}]
    for listed in lists:
        page = client.get(LISTS, listed | {"page_size": 1}).json()
        cursor = page["next"].rpartition("cursor=")[2].partition("&")[0]
        taken = [
            other
            for other in lists
            if client.get(LISTS, other | {"cursor": cursor}).status_code == 200
        ]
        assert taken == [listed]
