"""The API conforms to its OpenAPI schema, whatever it is sent."""

from typing import Any

import pytest
import schemathesis
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


@pytest.fixture
def unlimited(monkeypatch: pytest.MonkeyPatch) -> None:
    """A 429 always conforms, and would hide all other responses."""
    monkeypatch.setattr(RateLimitMiddleware, "_count", lambda *args: None)


# Real requests close the connection that a test's transaction would need.
@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("unlimited")
@pytest.mark.parametrize("mode", GenerationMode, ids=lambda mode: mode.value)
@pytest.mark.parametrize("operation", operations, ids=lambda found: found.label)
def test_every_response_conforms_to_the_schema(
    operation: Any, mode: GenerationMode, editor: Any
) -> None:
    """With requests that the schema allows, and with others."""
    make_items(5, tags=["t"])
    job = finished_job(editor)
    of_jobs = "/jobs/" in operation.path
    known_id = str(job.pk) if of_jobs else "item-00001"
    # A plain WSGI server cannot wait for the pool: that is a 503.
    waits = operation.path.startswith("/api/v1/heavy_computation")
    promises = PROMISES[1:] if waits else PROMISES
    known_name = "out.txt" if of_jobs else "heavy_computation"
    _, token = ApiToken.objects.create(editor)
    headers = {"Authorization": f"Token {token}"}
    number = iter(range(10_000))

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        # Half of the calls are to objects that exist.
        given = case.path_parameters or {}
        if next(number) % 2:
            there = {"id": known_id, "name": known_name}
            given.update((name, there[name]) for name in given)
        case.call_and_validate(headers=headers, checks=promises)

    try:
        send()
    except Unsatisfiable:
        if mode is not GenerationMode.NEGATIVE:
            raise
        pytest.skip("it accepts any input")
