"""What a client may not have, whatever he sends."""

import pytest

from compute.models import Job
from items.models import Item, ItemChange
from resilient_site.models import ApiToken

ITEMS = "/api/v1/items/"
JOBS = "/api/v1/jobs/"
# What only the site says of an item.
OURS = {
    "version": 99,
    "created_at": "1999-01-01T00:00:00Z",
    "updated_at": "1999-01-01T00:00:00Z",
    "search_text": "found",
    "actor": 1,
    "actor_name": "somebody else",
    "owner": 1,
}


@pytest.mark.parametrize("path", ["/items/", "/account/sign-in/", "/none/"])
def test_every_page_says_what_it_may_do(client, path, db):
    headers = client.get(path).headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "camera=()" in headers["Permissions-Policy"]
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"


def test_an_answer_to_a_program_asks_for_no_devices(anonymous_api):
    assert "Permissions-Policy" not in anonymous_api.get(ITEMS).headers


def test_of_an_item_only_its_own_fields_are_taken(api, editor):
    made = api.post(ITEMS, {"id": "x", "name": "X"} | OURS)
    assert made.status_code == 201
    api.patch(f"{ITEMS}x", {"description": "new"} | OURS)
    item = Item.objects.get(pk="x")
    assert (item.version, item.description) == (2, "new")
    assert item.created_at.year > 1999
    assert item.search_text == " x new"
    assert set(ItemChange.objects.values_list("actor_name")) == {(editor.username,)}


def test_a_job_belongs_to_whoever_asks_for_it(api, editor, reader):
    asked = {"task": "heavy_computation", "params": {}}
    theirs = {"owner": reader.pk, "state": "succeeded", "attempts": 5, "id": "1"}
    made = api.post(JOBS, asked | theirs)
    job = Job.objects.get()
    assert made.status_code == 202
    assert (job.owner, job.state, job.attempts) == (editor, "queued", 0)


def test_a_token_of_another_cannot_be_taken_away(editor_client, reader):
    token, _ = ApiToken.objects.create(reader)
    for key in (token.pk, token.token_key):
        editor_client.post(f"/account/tokens/{key}/revoke/")
    assert ApiToken.objects.filter(pk=token.pk).exists()
