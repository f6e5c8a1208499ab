"""Clients that generators make of the OpenAPI schema go through every resource."""

import importlib
import os
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User

from resilient_site.models import ApiToken
from tests.compute.factories import finished_job
from tests.running import ROOT

pytestmark = [pytest.mark.once, pytest.mark.django_db(transaction=True)]

SCHEMA = ROOT / "resilient_site" / "openapi.yaml"
SCRIPT = Path(__file__).with_name("client.ts")
# The generator takes few types; the script looks at none of these bodies as JSON.
CONFIG = """
post_hooks: []
content_type_overrides:
  "*/*": application/octet-stream
  text/csv: text/plain
  application/x-ndjson: text/plain
  text/event-stream: text/plain
  application/problem+json: application/json
"""


@pytest.fixture
def token(admin: User) -> str:
    return str(ApiToken.objects.create(admin)[1])


def run(*command: str | Path, folder: Path) -> str:
    done = subprocess.run(
        [*map(str, command)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        env={**os.environ, "NO_COLOR": "1"},
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_python_client_goes_through_every_resource(
    live_server, token, admin, tmp_path, monkeypatch
):
    (tmp_path / "config.yml").write_text(CONFIG)
    output = run(
        sys.executable, "-m", "openapi_python_client", "generate", "--path", SCHEMA,
        "--output-path", tmp_path / "made_client", "--meta", "none",
        "--config", tmp_path / "config.yml",
        folder=tmp_path,
    )  # fmt: skip
    assert "WARNING" not in output
    monkeypatch.syspath_prepend(tmp_path)
    made = importlib.import_module("made_client")
    models = importlib.import_module("made_client.models")
    operations = {
        name.rpartition(".")[2]: name
        for _, name, is_package in pkgutil.walk_packages(
            importlib.import_module("made_client.api").__path__, "made_client.api."
        )
        if not is_package
    }
    used = set()
    client = made.AuthenticatedClient(live_server.url, token, prefix="Bearer")

    def call(operation: str, status: int = 200, **arguments: Any) -> Any:
        used.add(operation)
        module = importlib.import_module(operations[operation])
        answer = module.sync_detailed(client=client, **arguments)
        assert answer.status_code == status, answer.content
        return answer.parsed

    with client:
        body = models.ItemRequest(id="py.bolt", name="Bolt")
        assert call("items_create", 201, body=body).tags == []
        problem = call("items_create", 400, body=body)
        assert problem.code == models.ProblemCode.ITEM_EXISTS
        one = {"id": "py.bolt"}
        body = models.PatchedItemRequest(name="Nut")
        assert call("items_partial_update", **one, body=body).version == 2
        body = models.ItemRequest(name="Cap")
        assert call("items_update", **one, body=body).version == 3
        assert call("items_retrieve", **one).name == "Cap"
        assert len(call("items_list", search="cap", page_size=5).results) == 1
        assert call("items_list", count=True, page_size=1).total == 1
        assert call("items_facets").counted == 1
        name = models.ItemsRetrieveFieldsItem.NAME
        assert call("items_retrieve", **one, fields=[name]).to_dict().keys() == {
            "id", "name",
        }  # fmt: skip
        assert call("items_retrieve", **one, version=1).name == "Bolt"
        for relation in ("children", "ancestors", "references"):
            assert call(f"items_{relation}", **one).results == []
        (*_, first) = call("items_history", **one).results
        assert (first.action, first.before) == (models.ChangeAction.CREATED, None)
        body = [models.ItemRequest(name=name) for name in "ab"]
        made = call("items_bulk_create", 201, body=body).results
        assert [item.name for item in made] == ["a", "b"]
        body = [models.ItemReplacementRequest(id=made[0].id, name="c", version=1)]
        assert call("items_bulk_update", body=body).updated == 1
        body = [models.ItemChangeRowRequest(id=made[0].id, tags=["t"])]
        assert call("items_bulk_partial_update", body=body).results[0].tags == ["t"]
        deleted = call("items_bulk_destroy", body=[made[1].id])
        _batches(call, models, deleted.batch)
        assert "Cap" in call("items_export")
        call("items_destroy", 204, **one)
        _collections(call, models)
        _tags(call, models)
        assert len(call("changes_list", page_size=1).results) == 1
        task = "heavy_computation"
        assert call("tasks_retrieve", name=task).may_run is True
        assert task in [found.name for found in call("tasks_list").results]
        body = models.HeavyComputationJobRequest(
            task=models.HeavyComputationJobTaskEnum(task),
            params=models.HeavyComputationParamsRequest(size=10),
        )
        job = call("jobs_create", 202, body=body)
        assert call("jobs_retrieve", id=job.id).state == models.JobState.QUEUED
        assert call("jobs_cancel", id=job.id).state == models.JobState.CANCELLED
        done = finished_job(admin)
        assert len(call("jobs_list").results) == 2
        assert call("jobs_result", id=done.pk) == {"message": "done"}
        file = call("jobs_file", id=done.pk, name="out.txt")
        assert file.payload.read() == b"x"
        assert '"state":"succeeded"' in call("jobs_events", id=done.pk)
        assert call("changes_events", since="now").startswith("retry:")
        # Without the site's own server it does not wait.
        call("heavy_computation", 503, size=10)
    assert used == set(operations)


def _collections(call: Any, models: Any) -> None:
    schema = {"properties": {"symbol": {"type": "string"}}}
    declared = models.CollectionsSchemaUpdateBody.from_dict(schema)
    one = {"key": "unit"}
    body = models.CollectionRequest(key="unit", name="Units")
    assert call("collections_create", 201, body=body).version == 1
    assert call("collections_schema_update", **one, body=declared)
    assert call("collections_schema_retrieve", **one).to_dict() == schema
    body = models.PatchedCollectionRequest(licence="CC0")
    assert call("collections_partial_update", **one, body=body).licence == "CC0"
    item = models.ItemRequest(collection="unit", code="m", name="Metre")
    assert call("items_create", 201, body=item).id == "unit.m"
    assert len(call("collections_list").results) == 2
    assert call("collections_retrieve", **one).name == "Units"
    assert call("collections_lookup", **one, code="m").label == "Metre"
    codes = {"codes": ["m", "x"]}
    body = models.LookupBatchRequest.from_dict(codes)
    found = call("collections_lookup_many", **one, body=body).results
    assert [result.found for result in found] == [True, False]
    assert call("collections_translate", **one, code="m", to="general").mappings == []
    body = models.TranslateBatchRequest.from_dict(codes | {"to": "general"})
    assert len(call("collections_translate_many", **one, body=body).results) == 2
    call("items_destroy", 204, id="unit.m")
    body = models.CollectionRequest(key="unit", name="Units of measure")
    assert call("collections_update", **one, body=body).licence == ""
    call("collections_destroy", 204, **one)


def _tags(call: Any, models: Any) -> None:
    body = models.ItemRequest(id="py.tagged", name="T", tags=["dark red", "red"])
    call("items_create", 201, body=body)
    listed = call("tags_list", search="dark").results
    assert [(tag.name, tag.item_count) for tag in listed] == [("dark red", 1)]
    body = models.PatchedTagRequest(name="crimson", description="RAL 3003")
    changed = call("tags_partial_update", name="dark red", body=body)
    assert call("tags_retrieve", name="crimson") == changed
    body = models.MergerRequest(into="red")
    assert call("tags_merge", name="crimson", body=body).name == "red"
    call("items_destroy", 204, id="py.tagged")
    call("tags_destroy", 204, name="red")


def _batches(call: Any, models: Any, batch: Any) -> None:
    assert call("batches_list", page_size=1).results[0].id == batch
    assert call("batches_retrieve", id=batch).deleted == 1
    assert len(call("batches_changes", id=batch).results) == 1
    body = models.UndoRequest(skip_conflicts=True)
    undone = call("batches_undo", id=batch, body=body)
    assert (undone.created, undone.conflicts) == (1, [])


def test_typescript_client_goes_through_every_resource(
    live_server, token, admin, tmp_path
):
    made = shutil.which("openapi-typescript")
    if not made or not shutil.which("tsc") or not shutil.which("node"):
        pytest.skip("needs Node with openapi-typescript, openapi-fetch and typescript")
    modules = Path(made).resolve().parents[2]
    (tmp_path / "node_modules").symlink_to(modules)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    shutil.copy(SCRIPT, tmp_path)
    run(made, SCHEMA, "-o", "schema.ts", folder=tmp_path)
    options = "--strict --noUncheckedIndexedAccess --skipLibCheck --target es2022"
    options += " --module nodenext --lib es2022,dom"
    run("tsc", *options.split(), "client.ts", folder=tmp_path)
    done = finished_job(admin)
    run("node", "client.js", live_server.url, token, str(done.pk), folder=tmp_path)
