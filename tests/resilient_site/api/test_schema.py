"""The API conforms to its OpenAPI schema, whatever it is sent."""

import ast
import importlib
import itertools
import re
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from typing import Any
from uuid import UUID

import pytest
import schemathesis
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection
from django.urls import resolve
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from rest_framework import exceptions as drf_errors
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from compute.models import Job
from items import representation
from resilient_site import errors
from resilient_site.api.views import StrictView
from resilient_site.models import ApiToken
from resilient_site.ratelimit.middleware import RateLimitMiddleware
from resilient_site.wsgi import application
from tests.compute.factories import finished_job
from tests.factories import make_items
from tests.running import ROOT

pytestmark = pytest.mark.once

PROMISES = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXAMPLES = 12

schema = schemathesis.openapi.from_wsgi("/api/v1/schema/", application)
operations = [found.ok() for found in schema.get_all_operations()]


@pytest.fixture(scope="module")
def stored(django_db_setup: None, django_db_blocker: Any) -> Iterator[tuple[str, Job]]:
    """Token of an administrator, and a job. Committed: the change feed wants that."""
    with django_db_blocker.unblock():
        admin = User.objects.create_superuser("ada")
        make_items(5, tags=["t"])
        yield ApiToken.objects.create(admin)[1], finished_job(admin)
        call_command("flush", interactive=False, verbosity=0)


# Members that a response may lack, by component.
ABSENT_FROM_SOME = {
    "Problem": {"errors", "violated-policies", "deleted_at"},
    "ItemList": {"total", "suggestions"},
    "ListedItem": {"highlight"},
    "ShownItemList": {"total", "suggestions"},
    "ItemView": {*representation.NAMES, "highlight"} - {"id"},
    "LookupResult": {
        "id", "label", "language", "status", "valid", "valid_on", "successor",
    },
    "Translation": {"id", "mappings"},
}  # fmt: skip


def test_schema_requires_what_every_response_has():
    for name, component in schema.raw_schema["components"]["schemas"].items():
        properties = {*component.get("properties", ())}
        absent = ABSENT_FROM_SOME.get(name, set())
        if not name.endswith("Request"):
            assert {*component.get("required", ())} == properties - absent, name


def test_schema_describes_the_site_and_every_operation():
    document = schema.raw_schema
    assert document["servers"]
    tags = {tag["name"] for tag in document["tags"] if tag["description"]}
    for path, path_item in document["paths"].items():
        assert not path.endswith("/")
        for operation in path_item.values():
            assert operation["summary"]
            assert operation["description"]
            assert {*operation["tags"]} <= tags
    # Names of modules are for those who work on the site.
    text = (ROOT / "resilient_site" / "openapi.yaml").read_text()
    assert not re.findall(r"\b(?:items|compute|resilient_site)\.[a-z_]{3,}", text)


def test_every_view_declares_its_parameters_and_rejects_others():
    views = {
        pattern.callback.cls
        for module in ("items.api_urls", "compute.api_urls")
        for pattern in importlib.import_module(module).urlpatterns
    }
    assert len(views) >= 5
    for view in views:
        assert issubclass(view, StrictView)
    for found in operations:
        view = resolve(found.path.format(id=UUID(int=0), name="x", key="x")).func
        actions = getattr(view, "actions", {found.method: found.method})
        handler = getattr(view.cls, actions[found.method])
        declared = {parameter.name for parameter in found.query}
        assert handler.query_parameters == declared, found.label


def test_schema_lists_all_codes_of_errors():
    """Also those that are given where an error is raised."""
    given = {error.default_code for error in drf_errors.APIException.__subclasses__()}
    given -= {"not_acceptable", "throttled"}  # no view raises these
    for package in ("resilient_site", "items", "compute"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                given |= codes_in(node)
    assert given <= {*errors.CODES}, "add it to errors.CODES, then: make schema"
    assert [*errors.CODES] == sorted({*errors.CODES})


def codes_in(node: ast.AST) -> set[str]:
    found: list[ast.expr | None] = []
    if isinstance(node, ast.ClassDef):
        for line in node.body:
            match line:
                case ast.Assign(targets=[ast.Name("code")], value=value):
                    found.append(value)
                case ast.AnnAssign(target=ast.Name("code"), value=value):
                    found.append(value)
    elif isinstance(node, ast.Call):
        found += [given.value for given in node.keywords if given.arg == "code"]
    return {value.value for value in found if isinstance(value, ast.Constant)}


@pytest.mark.django_db
@pytest.mark.parametrize("operation", operations, ids=lambda found: found.label)
def test_every_response_conforms_to_the_schema(
    operation: Any, stored: tuple[str, Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With requests that the schema allows, and with others."""
    # A 429 always conforms, and would hide all other responses.
    monkeypatch.setattr(RateLimitMiddleware, "_count", lambda *args: None)
    # The end of a request would close the connection with the test's transaction.
    monkeypatch.setattr(connection, "close_if_unusable_or_obsolete", lambda: None)
    token, job = stored
    there = {"id": "item-00001", "name": "heavy_computation", "key": "general"}
    if "/jobs/" in operation.path:
        there = {"id": str(job.pk), "name": "out.txt"}
    # A plain WSGI server cannot wait for the pool: that is a 503.
    waits = operation.path.startswith("/api/v1/heavy_computation")
    promises = PROMISES[1:] if waits else PROMISES

    for mode in GenerationMode:
        number = itertools.count()

        @settings(
            max_examples=EXAMPLES,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.as_strategy(generation_mode=mode))
        def send(case: Any) -> None:
            # Half of the calls are to objects that exist.
            given = case.path_parameters or {}
            if next(number) % 2:  # noqa: B023 - called within the loop
                given.update((name, there[name]) for name in given)
            headers = {"Authorization": f"Token {token}"}
            case.call_and_validate(headers=headers, checks=promises)

        accepts_any_input = mode is GenerationMode.NEGATIVE
        with suppress(Unsatisfiable) if accepts_any_input else nullcontext():
            send()
