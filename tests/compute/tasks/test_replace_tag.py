"""The task that renames or merges a tag of many items."""

import pytest

from compute.registry import get_task
from items import catalogue
from items.models import ChangeBatch, Item, ItemTag, Tag
from items.tags import editing
from tests.compute.factories import begin, do
from tests.factories import make_item, make_items

pytestmark = [pytest.mark.django_db, pytest.mark.once]


@pytest.fixture(autouse=True)
def small_batches(monkeypatch) -> None:
    monkeypatch.setattr(catalogue, "RETAGGED_MAX", 2)
    monkeypatch.setattr(editing, "ITEMS_AT_ONCE", 2)


def test_replacement_goes_on_after_a_kill(editor):
    make_items(5, tags=["red"])
    make_item(id="other", tags=["blue"])
    context = begin("replace_tag", editor, tag="red", into="Dark red")
    task, params = get_task("replace_tag"), context.claim.params

    class PowerCut(BaseException):
        pass

    def fail(fraction: float, message: str) -> None:
        raise PowerCut(message)

    context._on_progress = fail
    with pytest.raises(PowerCut, match="2 of 5 items"):
        task.main(context, **params)
    assert ItemTag.objects.filter(tag__name="dark red").count() == 2
    context._on_progress = lambda fraction, message: None
    for left in (3, 0):
        result = task.main(context, **params)
        assert result == {"tag": "dark red", "items": left, "batch": context.job_id}
    assert {*Tag.objects.values_list("name", flat=True)} == {"blue", "dark red"}
    batch = ChangeBatch.objects.get()
    assert (batch.title, batch.updated) == ("Replace tag red by dark red", 5)
    assert batch.finished_at
    versions = Item.objects.order_by("pk").values_list("version", flat=True)
    assert [*versions] == [2] * 5 + [1]


def test_tag_is_merged_by_a_job(editor):
    make_items(3, tags=["red", "blue"])
    job = do("replace_tag", editor, tag="red", into="blue")
    assert job.result == {"tag": "blue", "items": 3, "batch": str(job.pk)}
    assert Tag.objects.get().name == "blue"
    assert Item.objects.first().tag_names() == ["blue"]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [({"tag": "nix"}, "tag"), ({"into": 'a"b'}, "into"), ({"into": "Red"}, "into")],
)
def test_bad_parameter_is_named(wrong, field):
    make_item(tags=["red"])
    params = get_task("replace_tag").params(data={"tag": "red", "into": "x"} | wrong)
    assert not params.is_valid()
    assert [*params.errors] == [field]
