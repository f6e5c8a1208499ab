"""Members of a body that only the site may set are ignored."""

import pytest

from compute.models import Job
from items.models import Item, ItemChange

pytestmark = pytest.mark.once

ITEMS = "/api/v1/items/"
READ_ONLY = {
    "version": 99,
    "created_at": "1999-01-01T00:00:00Z",
    "updated_at": "1999-01-01T00:00:00Z",
    "search_text": "found",
    "actor": 1,
    "actor_name": "somebody else",
    "owner": 1,
}


def test_read_only_members_of_an_item_are_ignored(api, editor):
    made = api.post(ITEMS, {"id": "x", "name": "X"} | READ_ONLY)
    assert made.status_code == 201
    api.patch(f"{ITEMS}x", {"description": "new"} | READ_ONLY)
    item = Item.objects.get(pk="x")
    assert (item.version, item.description) == (2, "new")
    assert item.created_at.year > 1999
    assert item.search_text == " x new"
    assert set(ItemChange.objects.values_list("actor_name")) == {(editor.username,)}


def test_read_only_members_of_a_job_are_ignored(api, editor, reader):
    request = {"task": "heavy_computation", "params": {}}
    theirs = {"owner": reader.pk, "state": "succeeded", "attempts": 5, "id": "1"}
    made = api.post("/api/v1/jobs/", request | theirs)
    job = Job.objects.get()
    assert made.status_code == 202
    assert (job.owner, job.state, job.attempts) == (editor, "queued", 0)
