"""What came of a job, as its page shows it: the tasks themselves make the results."""

import re

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from compute.templatetags.jobtext import removed_from
from items import catalogue
from items.models import Item, Tag
from tests.compute.factories import do
from tests.factories import TESTER, make_item, make_items

pytestmark = [pytest.mark.django_db, pytest.mark.once]


def text(response) -> str:
    assert response.status_code == 200
    return response.content.decode()


def words(response) -> str:
    """What is to be read on the page."""
    return " ".join(re.sub(r"<[^>]*>", " ", text(response)).split())


def test_computation_page_shows_its_numbers(editor_client, editor):
    job = do("heavy_computation", editor, size=10_000)
    page = words(editor_client.get(job.get_absolute_url()))
    assert "Primes 1,229 Below 10,000 Largest 9,973" in page
    assert merge(editor_client, job).status_code == 404  # it has no pairs


def test_export_page_links_to_its_file(editor_client, editor):
    make_items(3)
    job = do("export_items", editor)
    response = editor_client.get(job.get_absolute_url())
    assert "3 items exported to a file" in words(response)
    address = f"{job.get_absolute_url()}files/items.csv.gz"
    assert f'href="{address}"' in text(response)
    assert editor_client.get(address).content.startswith(b"\x1f\x8b")


def test_import_page_shows_counts_and_rejected_rows(editor_client, editor):
    page = text(editor_client.get("/items/-/import/"))
    assert 'href="/jobs/new/import_items/"' in page
    rows = b"id,name\na,One\nb,\nc,Three\n"
    file = SimpleUploadedFile("units.csv", rows, "text/csv")
    job = do("import_items", editor, file=file)
    response = editor_client.get(job.get_absolute_url())
    assert "was imported as CSV in UTF-8; 1 row was rejected" in words(response)
    assert "Created 2 Updated 0 Unchanged 0 Rejected 1" in words(response)
    assert "/items/?ordering=-updated_at" in text(response)
    found = re.search(r'href="([^"]*)" download>Download the rej', text(response))
    assert found
    assert b"Must not be empty" in editor_client.get(found[1]).content


def test_report_page_shows_tables_with_bars(editor_client, editor):
    make_items(1_001, tags=["metal"])
    make_item(id="bolt", name="Rusty <bolt>", description="Very rusty", tags=["a+b"])
    catalogue.update_item("bolt", {"name": "Rusty <nut>"}, actor=TESTER)
    job = do("catalogue_report", editor)
    response = editor_client.get(job.get_absolute_url())
    page = words(response)
    assert "Items 1,002 Without a tag 0 Tags in use 2 Changes 1,003" in page
    assert "metal 1,001" in page
    assert '<progress max="1001" value="1" aria-hidden="true">' in text(response)
    assert "rusty 1" in page
    assert "Rusty &lt;nut&gt; bolt 2" in page
    for link in ("?tag=metal", "?tag=a%2Bb", "?search=rusty", "bolt/"):
        assert f'href="/items/{link}"' in text(response)
        assert editor_client.get(f"/items/{link}").status_code == 200


def test_links_of_a_report_keep_its_tag(editor_client, editor):
    make_item(name="Steel bolt", tags=["metal", "strong"])
    job = do("catalogue_report", editor, tag="strong")
    page = text(editor_client.get(job.get_absolute_url()))
    assert 'href="/items/?tag=metal&amp;tag=strong"' in page
    assert 'href="/items/?search=steel&amp;tag=strong"' in page


def test_pages_of_no_items_and_no_pairs(editor_client, editor):
    Tag.objects.create(name="nothing")
    for task, shown in (
        ("catalogue_report", "Items 0 Without a tag 0"),
        ("find_duplicates", "No two of the 0 items are that similar."),
    ):
        job = do(task, editor, tag="nothing")
        page = words(editor_client.get(job.get_absolute_url()))
        assert shown in page
        assert "Tag nothing" in page


# --- pairs of items


@pytest.fixture
def pair(editor):
    """A job that has found two items alike."""
    make_item(id="a", name="Brass bolt <M8>", description="", tags=["metal", "x"])
    make_item(id="b", name="Brass bolt <M9>", description="Long", tags=["metal", "y"])
    return do("find_duplicates", editor)


def merge(client: Client, job, keep="first", pair="1", **options):
    data = {"pair": pair, "keep": keep}
    return client.post(f"{job.get_absolute_url()}merge/", data, **options)


def test_pair_is_shown_with_its_differences(editor_client, pair):
    response = editor_client.get(pair.get_absolute_url())
    assert "1 pair among 2 items." in words(response)
    assert "93.3 % name" in words(response)
    assert (
        '<a href="/items/a/"><span>Brass bolt &lt;</span><del>M8</del>'
        "<span>&gt;</span></a>"
    ) in text(response)
    assert "<ins>M9</ins>" in text(response)
    assert "<ins>Long</ins>" in text(response)
    assert f"{pair.get_absolute_url()}files/pairs.csv" in text(response)


def test_merged_pair_shows_the_remaining_item(editor_client, pair):
    response = merge(editor_client, pair, "second", follow=True)
    address = f"{pair.get_absolute_url()}?page=1#pair-1"
    assert response.redirect_chain == [(address, 302)]
    assert "The two items were merged into “Brass bolt &lt;M9&gt;”." in words(response)
    assert "Brass bolt &lt;M8&gt; a Deleted" in words(response)
    assert "by edith" in words(response)
    assert "Brass bolt &lt;M9&gt; b Not deleted" in words(response)
    assert "Keep this item" not in words(response)
    assert catalogue.get_item("b").tag_names() == ["metal", "x", "y"]
    assert not Item.objects.filter(pk="a").exists()


def test_pair_with_a_deleted_item_is_not_merged(editor_client, pair):
    catalogue.delete_item("b", actor=TESTER)
    response = merge(editor_client, pair, follow=True)
    assert "One of the two items has been deleted." in words(response)
    catalogue.delete_item("a", actor=TESTER)
    page = words(editor_client.get(pair.get_absolute_url()))
    assert page.count("Deleted") == 2


def test_merge_fails_on_too_many_tags(editor_client, pair):
    for item, letter in (("a", "p"), ("b", "q")):
        tags = [f"{letter}{number}" for number in range(20)]
        catalogue.update_item(item, {"tags": tags}, actor=TESTER)
    response = merge(editor_client, pair, follow=True)
    assert "The items cannot be merged. An item may have at most 30" in words(response)
    assert Item.objects.count() == 2


def test_merge_requires_a_pair_of_the_job(editor_client, pair):
    for number in ("2", "0", "-1", "x"):
        assert merge(editor_client, pair, pair=number).status_code == 404
    assert merge(editor_client, pair, keep="third").status_code == 404
    assert Item.objects.count() == 2


def test_merge_requires_the_permissions_of_an_editor(client, reader, pair):
    pair.owner = reader
    pair.save()
    client.force_login(reader)
    assert "Keep this item" not in words(client.get(pair.get_absolute_url()))
    assert merge(client, pair).status_code == 403
    assert Item.objects.count() == 2


def test_pairs_are_paged(editor_client, pair, django_assert_num_queries):
    row = pair.result["pairs"][0]
    pair.result["pairs"] = [row] * 101
    pair.result |= {"found": 5_000, "truncated": True}
    pair.save()
    address = pair.get_absolute_url()
    first = editor_client.get(address)
    assert "The 5,000 best pairs among 2 items; the first 101 are" in words(first)
    assert 'id="pair-50"' in text(first)
    assert 'id="pair-51"' not in text(first)
    assert 'href="?page=2"' in text(first)
    for number in ("3", "9"):
        last = text(editor_client.get(f"{address}?page={number}"))
        assert re.findall(r'id="pair-(\d+)"', last) == ["101"]
        assert 'href="?page=2"' in last
    assert 'id="pair-1"' in text(editor_client.get(f"{address}?page=x"))
    session_and_user, permissions, job, items_and_tags = 2, 1, 1, 2
    with django_assert_num_queries(
        session_and_user + permissions + job + items_and_tags
    ):
        editor_client.get(address)


def test_differences_are_marked_by_words():
    for text, other, shown in (
        ("Brass bolt", "Brass nut", "<span>Brass </span><del>bolt</del>"),
        ("one two", "six ten", "<del>one</del><span> </span><del>two</del>"),
        ("a, b", "a b", "<span>a</span><del>,</del><span> b</span>"),
        ("<i>", "<b>", "<span>&lt;</span><del>i</del><span>&gt;</span>"),
        ("same", "same", "<span>same</span>"),
        ("", "x", ""),
        ("x", "", "<del>x</del>"),
        ("Ünï", "Uni", "<del>Ünï</del>"),
    ):
        assert removed_from(text, other) == shown
