"""OpenAPI descriptions of the REST operations of jobs."""

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import (
    OpenApiExample,
    OpenApiParameter,
    PolymorphicProxySerializer,
    inline_serializer,
)
from rest_framework import serializers

from compute.models import Job
from compute.registry import Task, tasks
from compute.serializers import (
    JobListSerializer,
    JobSerializer,
    TaskListSerializer,
    TaskSerializer,
)
from resilient_site.api.schema import (
    CURSOR,
    NOT_MODIFIED,
    PAGE_SIZE_PARAMETER,
    ProblemSerializer,
    events_of,
    header,
    operation,
)
from resilient_site.errors import PROBLEM_TYPE

ID = OpenApiParameter("id", OpenApiTypes.UUID, OpenApiParameter.PATH)
STATE = OpenApiParameter("state", OpenApiTypes.STR, enum=Job.State.values)
TASK = OpenApiParameter("task", OpenApiTypes.STR, description="Name of a task.")
PREFER = header(
    "Prefer",
    "`wait=N` waits up to N seconds for the job to finish (RFC 7240).",
)
LOCATION = header("Location", "The URL of the job.", response=[200, 202])
RETRY_AFTER = header(
    "Retry-After", "When to request the job again, in seconds.", response=[202]
)


def _submission(task: Task, *, as_form: bool) -> type[serializers.Serializer[Any]]:
    """Return a serializer of the request body for `task`."""
    name = "".join(word.capitalize() for word in task.name.split("_"))
    kind: Any = serializers.ChoiceField([task.name])
    if as_form:
        return type(f"{name}Form", (task.params,), {"task": kind})
    params = type(f"{name}Params", (task.params,), {})
    fields = {"task": kind, "params": params(required=False)}
    return type(f"{name}Job", (serializers.Serializer,), fields)


def _submissions(*, as_form: bool) -> PolymorphicProxySerializer:
    """Return the request bodies of a media type: forms for tasks that take a file."""
    return PolymorphicProxySerializer(
        component_name="JobForm" if as_form else "JobSubmission",
        serializers={
            name: _submission(task, as_form=as_form)
            for name, task in tasks.items()
            if task.is_listed
            and as_form
            == any(
                isinstance(field, serializers.FileField)
                for field in task.params().fields.values()
            )
        },
        resource_type_field_name="task",
    )


task_listing = operation(
    summary="List the tasks",
    description="What jobs can be submitted for, with the schema of the parameters.",
    responses=TaskListSerializer,
)
task_reading = operation(
    summary="Read a task",
    description="One task with the schema of its parameters.",
    parameters=[OpenApiParameter("name", OpenApiTypes.STR, OpenApiParameter.PATH)],
    responses=TaskSerializer,
)
job_listing = operation(
    summary="List jobs, newest first",
    description="Your own jobs, without their results.",
    parameters=[STATE, TASK, PAGE_SIZE_PARAMETER, CURSOR],
    responses={200: JobListSerializer, 304: NOT_MODIFIED},
)
job_submission = operation(
    summary="Submit a job",
    description=(
        "Files are sent as multipart/form-data: `task`, and each parameter as a part."
    ),
    parameters=[PREFER, LOCATION, RETRY_AFTER],
    examples=[
        OpenApiExample(
            "Find duplicates",
            {"task": "find_duplicates", "params": {"threshold": 0.9}},
            request_only=True,
            media_type="application/json",
        )
    ],
    request={
        "application/json": _submissions(as_form=False),
        "multipart/form-data": _submissions(as_form=True),
    },
    responses={200: JobSerializer, 202: JobSerializer},
)
job_reading = operation(
    summary="Read a job",
    description="State, progress, result and files of one job.",
    parameters=[ID],
    responses=JobSerializer,
)
job_events = operation(
    summary="Follow a job",
    operation_id="jobs_events",
    description=(
        "Server-sent events: one `job` with state and progress at every change. The "
        "stream ends with the job."
    ),
    parameters=[ID, header("Last-Event-ID", "As browsers send it.")],
    responses=events_of("The data are state and progress, as JSON.") | {204: None},
)
job_cancellation = operation(
    summary="Cancel a job",
    description=(
        "200 if it has ended by that, 202 while its process is being ended; 409 "
        "`already_finished` after its end."
    ),
    operation_id="jobs_cancel",
    parameters=[ID],
    request=None,
    responses={200: JobSerializer, 202: JobSerializer},
)
job_result = operation(
    summary="Read the result of a job",
    description="409 `not_finished` before the end of the job.",
    operation_id="jobs_result",
    parameters=[ID],
    responses={200: OpenApiTypes.ANY, (409, PROBLEM_TYPE): ProblemSerializer},
)
job_file = operation(
    summary="Download a file of the result",
    description="The whole file, or the part that `Range` names.",
    operation_id="jobs_file",
    parameters=[
        ID,
        OpenApiParameter("name", OpenApiTypes.STR, OpenApiParameter.PATH),
        header("Range", "One range of bytes, such as `bytes=0-999` (RFC 9110)."),
        header("If-Range", "The ETag of the file that the range is of."),
        header("ETag", "The version of the file.", response=[200, 206]),
        header("Content-Range", "Which bytes of how many.", response=[206]),
    ],
    responses={
        (200, "*/*"): OpenApiTypes.BINARY,
        (206, "*/*"): OpenApiTypes.BINARY,
        (416, PROBLEM_TYPE): ProblemSerializer,
    },
)
heavy_computation = operation(
    summary="Run the demonstration job and wait for it",
    description="Counts primes on the process pool: open to all, tightly limited.",
    operation_id="heavy_computation",
    tags=["jobs"],
    parameters=[
        OpenApiParameter(
            "size",
            OpenApiTypes.INT,
            description=(
                "Count the primes below it; at most 800,000,000 without signing in."
            ),
        )
    ],
    responses={200: inline_serializer("Message", {"message": serializers.CharField()})},
)
