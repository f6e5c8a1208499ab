"""The API conforms to its OpenAPI schema, whatever it is sent."""

import itertools
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from typing import Any

import pytest
import schemathesis
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from compute import completion, files, jobs, queue
from compute.models import Job
from compute.outcomes import Succeeded
from compute.registry import get_task
from resilient_site.models import ApiToken
from resilient_site.ratelimit.middleware import RateLimitMiddleware
from resilient_site.wsgi import application
from tests.factories import make_items

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


def finished_job(owner: Any) -> Job:
    params = {"size": 10}
    job = jobs.submit(task=get_task("heavy_computation"), params=params, owner=owner)
    (claim,) = queue.claim("worker", 1)
    with files.create(Job.objects.get(), "out.txt", "text/plain") as file:
        file.write(b"x")
    completion.finish(claim, Succeeded({"message": "done"}))
    return job


@pytest.fixture(scope="module")
def stored(django_db_setup: None, django_db_blocker: Any) -> Iterator[tuple[str, Job]]:
    """Token of an administrator, and a job. Committed: the change feed wants that."""
    with django_db_blocker.unblock():
        admin = User.objects.create_superuser("ada")
        make_items(5, tags=["t"])
        yield ApiToken.objects.create(admin)[1], finished_job(admin)
        call_command("flush", interactive=False, verbosity=0)


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
    there = {"id": "item-00001", "name": "heavy_computation"}
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
