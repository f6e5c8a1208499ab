"""Rows without an id: they are of the item with their code, whatever its id is."""

import pytest

from items import catalogue
from items.collections import editing
from items.models import Item
from tests.factories import TESTER, make_item
from tests.items.imports.factories import begin, counts, load, preview, proceed, rejects

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def icd(db, monkeypatch) -> None:
    monkeypatch.setattr("items.imports.batch.BATCH_ROWS", 2)
    editing.create_collection({"key": "icd", "name": "ICD"})


def test_row_changes_the_item_of_its_code_whatever_its_id(tmp_path):
    make_item(id="any", collection="icd", code="A00", name="Old", description="keep")
    content = "code,name\nA00,New\nA01,Two\nA00/B99,Three\n"
    assert preview(content, collection="icd").updated == 1
    assert counts(load(content, tmp_path, collection="icd")) == (2, 1, 0, 0)
    item = catalogue.get_item("any")
    assert (item.name, item.description) == ("New", "keep")
    ids = dict(Item.objects.values_list("code", "pk"))
    assert ids["A01"] == "icd.A01"
    # Again, also what was given a generated id.
    assert counts(load(content, tmp_path, collection="icd")) == (0, 0, 3, 0)


def test_row_with_a_code_and_one_column_changes_that_alone(tmp_path):
    before = make_item(id="any", collection="icd", code="A00", tags=["t"]).state()
    content = "collection,code,description\nicd,A00,New\nicd,A01,New\n"
    assert counts(load(content, tmp_path)) == (0, 1, 0, 1)
    assert catalogue.get_item("any").state() == before | {"description": "New"}
    assert "a new one needs a name" in rejects(tmp_path)[0]["reject_reason"]


def test_new_item_takes_no_id_of_an_item_that_has_another_code_now(tmp_path):
    make_item(id="icd.A00", collection="icd", code="A00.1", name="Recoded")
    load("code,name\nA00,New\n", tmp_path, collection="icd")
    assert catalogue.get_item("icd.A00").code == "A00.1"
    new = Item.objects.get(collection="icd", code="A00")
    assert new.name == "New"


def test_id_comes_before_the_code(tmp_path):
    make_item(id="one", collection="icd", code="A00", name="One")
    make_item(id="two", collection="icd", code="A01", name="Two")
    run = load("id,code,name\ntwo,A02,B\nnew,A00,C\n", tmp_path, collection="icd")
    assert counts(run) == (0, 1, 0, 1)
    assert catalogue.get_item("two").code == "A02"
    assert "already" in rejects(tmp_path)[0]["reject_reason"]


@pytest.mark.parametrize(("duplicates", "name"), [("reject", "a"), ("last", "c")])
@pytest.mark.parametrize("code", ["A00", "A00/B99", "known"])
def test_rows_with_one_code_are_of_one_item(code, duplicates, name, tmp_path):
    """In one batch or in several, in one run or after an interruption."""
    make_item(id="any", collection="icd", code="known", name="old")
    content = f"code,name\n{code},a\n{code},b\nB00,x\nB01,x\n{code},c\n"
    shown = preview(content, collection="icd", duplicates=duplicates)
    run = begin(collection="icd", duplicates=duplicates)
    for _ in range(4):
        if run.state == "running":
            run = proceed(run, content, tmp_path, seconds=0)
    assert Item.objects.get(code=code, collection="icd").name == name
    assert Item.objects.filter(collection="icd").exclude(pk="any").count() == (
        2 if code == "known" else 3
    )
    found = (run.created + run.updated, run.unchanged, run.rejected)
    assert found == ((3, 0, 2) if duplicates == "reject" else (5, 0, 0))
    assert (shown.rejected, shown.unchanged) == (run.rejected, run.unchanged)
    if duplicates == "reject":
        reasons = [row["reject_reason"] for row in rejects(tmp_path)]
        assert reasons == ["id: The id is in line 2 already."] * 2


def test_row_of_a_collection_chosen_for_the_file_is_in_it(tmp_path):
    content = "id,name,collection,code\na,A,,1\nb,B,general,\n"
    load(content, tmp_path, collection="icd")
    assert catalogue.get_item("a").collection_id == "icd"
    assert catalogue.get_item("b").collection_id == "general"


def test_item_that_was_recoded_meanwhile_is_new(tmp_path):
    make_item(id="any", collection="icd", code="A00")
    catalogue.update_item("any", {"code": "A09"}, actor=TESTER)
    assert load("code,name\nA00,New\n", tmp_path, collection="icd").created == 1
