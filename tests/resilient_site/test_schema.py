"""The API does what its OpenAPI schema says, and never fails on what it is sent."""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from resilient_site.models import ApiToken
from resilient_site.wsgi import application
from tests.factories import make_items

PROMISES = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXAMPLES = 60

schema = schemathesis.openapi.from_wsgi("/api/v1/schema/", application)
operations = [found.ok() for found in schema.get_all_operations()]


# Real requests close the connection that a test's transaction would need.
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("mode", GenerationMode, ids=lambda mode: mode.value)
@pytest.mark.parametrize("operation", operations, ids=lambda found: found.label)
def test_every_answer_is_one_that_the_schema_allows(
    operation: Any, mode: GenerationMode, editor: Any
) -> None:
    """Whatever is sent: what the schema asks for, and what it does not."""
    make_items(5, tags=["t"])
    _, token = ApiToken.objects.create(editor)
    headers = {"Authorization": f"Token {token}"}
    number = iter(range(10_000))

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        # Half of the calls are to an item that is there.
        if "id" in (case.path_parameters or {}) and next(number) % 2:
            case.path_parameters["id"] = "item-00001"
        case.call_and_validate(headers=headers, checks=PROMISES)

    send()


def test_the_schema_names_all_addresses_of_the_contract() -> None:
    assert {operation.label.rstrip("/") for operation in operations} == {
        "GET /api/v1/items",
        "POST /api/v1/items",
        "GET /api/v1/items/{id}",
        "PUT /api/v1/items/{id}",
        "PATCH /api/v1/items/{id}",
        "DELETE /api/v1/items/{id}",
        "POST /api/v1/items/bulk",
        "GET /api/v1/items/export",
        "GET /api/v1/items/{id}/history",
        "GET /api/v1/changes",
    }
    assert schema.raw_schema["openapi"] == "3.1.0"
