"""REST views of jobs: thin callers of `compute.jobs`."""

from contextlib import suppress
from copy import copy
from typing import Any
from uuid import UUID

from django.http import HttpResponse, QueryDict
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404
from django.urls import reverse
from rest_framework.parsers import MultiPartParser
from rest_framework.permissions import AllowAny, IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from compute import api_schema as schema
from compute import job_events, jobs
from compute.downloads import download
from compute.list_query import select_jobs
from compute.models import Job
from compute.registry import get_task, tasks
from compute.serializers import JobSerializer, JobSummarySerializer, TaskSerializer
from resilient_site.api.idempotency import idempotent, read_key
from resilient_site.api.json_format import JSONParser
from resilient_site.api.keyset import paginate
from resilient_site.api.pagination import list_response, parse_page_size
from resilient_site.api.prefer import parse_prefer
from resilient_site.api.unknown_names import UnknownField, find_unknown
from resilient_site.api.views import StrictView, is_lenient
from resilient_site.edge.policy import policy
from resilient_site.edge.request import is_after_wait
from resilient_site.errors import (
    Conflict,
    Invalid,
    Overloaded,
    Unavailable,
    respond,
)
from resilient_site.ratelimit.middleware import client_address

WAIT_MAX_S = 60
DEMONSTRATION_WAIT_S = 30
# What a core computes in two seconds.
ANONYMOUS_SIZE_MAX = 800_000_000
# Parts of a form that are no parameters of the task.
NOT_PARAMETERS = ("task", "csrfmiddlewaretoken")
DEMONSTRATION_DONE = "Heavy computation finished"


class TaskViewSet(StrictView, ViewSet):
    """The tasks, of which jobs are runs."""

    @schema.task_listing
    def list(self, request: Request) -> Response:
        rows: Any = [tasks[name] for name in sorted(tasks) if tasks[name].is_listed]
        context = {"user": request.user}
        found = TaskSerializer(rows, many=True, context=context)
        return Response({"results": found.data})

    @schema.task_reading
    def retrieve(self, request: Request, name: str) -> Response:
        task = TaskSerializer(get_task(name), context={"user": request.user})
        return Response(task.data)


class JobViewSet(StrictView, ViewSet):
    """The user's own jobs; all jobs with the permission to view jobs."""

    permission_classes = [IsAuthenticated]
    parser_classes = [JSONParser, MultiPartParser]

    @schema.job_listing
    def list(self, request: Request) -> Response:
        page = paginate(
            select_jobs(request.query_params, request.user),
            ordering="-id",
            cursor=request.query_params.get("cursor"),
            size=parse_page_size(request.query_params),
        )
        found: Any = page.rows
        context = {"request": request}
        serializer = JobSummarySerializer(found, many=True, context=context)
        return list_response(request, page, serializer)

    # A parameter of a task may be a file. The job stores the Idempotency-Key itself: a
    # repeated request returns its current state.
    @policy(form_limit="IMPORT_MAX_BYTES", write_rate="heavy")
    @schema.job_submission
    def create(self, request: Request) -> Response:
        preference = parse_prefer(request.headers.get("Prefer", ""), WAIT_MAX_S)
        response = self._submission_response(job := _submit(request))
        response["Location"] = response.data["links"]["self"]
        if preference.applied:
            response["Preference-Applied"] = preference.applied
        if preference.wait_s and not job.is_finished:
            then = reverse("api:job-detail", args=[job.pk])
            job_events.wait(response, job, preference.wait_s, then)
        return response

    @schema.job_reading
    def retrieve(self, request: Request, id: UUID) -> Response:
        job = jobs.get_job(id, request.user)
        if is_after_wait(request):
            return self._submission_response(job)
        return self._job_response(job)

    @schema.job_events
    def events(self, request: Request, id: UUID) -> HttpResponse:
        last_event_id = request.headers.get("Last-Event-ID")
        return job_events.stream(jobs.get_job(id, request.user), last_event_id)

    @schema.job_cancellation
    @idempotent
    def cancel(self, request: Request, id: UUID) -> Response:
        job = jobs.cancel(jobs.get_job_to_cancel(id, request.user))
        return self._job_response(job, 200 if job.is_finished else 202)

    @policy(is_heavy=True)
    @schema.job_result
    def result(self, request: Request, id: UUID) -> Response:
        job = jobs.get_job(id, request.user)
        if not job.is_finished:
            raise Conflict(
                "The job has not finished yet.",
                code="not_finished",
                retry_after_s=jobs.estimate_wait_s(job),
            )
        if job.state != Job.State.SUCCEEDED:
            raise Conflict(job.error_detail or "The job was cancelled.", code=job.state)
        return Response(job.result)

    @policy(is_heavy=True)
    @schema.job_file
    def file(self, request: Request, id: UUID, name: str) -> HttpResponseBase:
        job = jobs.get_job(id, request.user)
        return download(request, get_object_or_404(job.result_files(), name=name))

    def _submission_response(self, job: Job) -> Response:
        if job.is_finished:
            return self._job_response(job)
        response = self._job_response(job, 202)
        response["Retry-After"] = str(jobs.estimate_wait_s(job))
        return response

    def _job_response(self, job: Job, status: int = 200) -> Response:
        serializer = JobSerializer(job, context={"request": self.request})
        response = Response(serializer.data, status)
        response["Cache-Control"] = "no-store"
        return response


class HeavyComputationView(StrictView):
    """The demonstration: computed by the pool, while no thread waits."""

    permission_classes = [AllowAny]

    @policy(is_heavy=True, read_rate="heavy")
    @schema.heavy_computation
    def get(self, request: Request) -> HttpResponse:
        if is_after_wait(request):
            job = Job.objects.get(pk=request.query_params["job"])
        else:
            job = _submit_demonstration(request)
        if job.state == Job.State.SUCCEEDED:
            headers = {"Cache-Control": "no-store"}
            return Response({"message": DEMONSTRATION_DONE}, headers=headers)
        if job.is_finished:
            raise Unavailable(job.error_detail or "The computation was cancelled.")
        if is_after_wait(request):
            with suppress(Conflict):  # it has just finished
                jobs.cancel(job)
        busy = Overloaded(
            "The computation did not finish in time.",
            retry_after_s=jobs.estimate_duration_s(1),
        )
        response = respond(request, busy)
        then = f"{request.path}?job={job.pk}"
        return job_events.wait(response, job, DEMONSTRATION_WAIT_S, then)


def _submit_demonstration(request: Request) -> Job:
    task = get_task("heavy_computation")
    params = task.params(data=request.query_params)
    params.is_valid(raise_exception=True)
    size, largest = params.validated_data["size"], ANONYMOUS_SIZE_MAX
    if size > largest and not request.user.is_authenticated:
        text = f"Ensure this value is at most {largest} if you are not signed in."
        raise Invalid(errors={"size": [text]})
    return jobs.submit(
        task=task,
        params=params.validated_data,
        owner=request.user,
        address=client_address(request._request),
    )


def _submit(request: Request) -> Job:
    name, data = _task_and_params(request)
    if name not in tasks:
        raise Invalid(errors={"task": ["There is no such task."]})
    # First: its parameters may say how many items there are.
    jobs.expect_allowed(tasks[name], request.user)
    params = tasks[name].params(data=data)
    unknown = {} if is_lenient(request) else find_unknown(data, params.fields)
    if not params.is_valid() or unknown:
        kind = UnknownField if unknown else Invalid
        raise kind(errors={"params": dict(params.errors) | unknown})
    return jobs.submit(
        task=tasks[name],
        params=params.validated_data,
        owner=request.user,
        idempotency_key=read_key(request) or "",
    )


def _task_and_params(request: Request) -> tuple[str, Any]:
    """Return task and parameters; in a form each part but `task` is a parameter."""
    body = request.data
    if isinstance(body, QueryDict):
        params = copy(body)  # QueryDict.copy() would copy the files, too
        for name in NOT_PARAMETERS:
            params.pop(name, None)
        return str(body.get("task", "")), params
    if not isinstance(body, dict):
        raise Invalid("The body must be a JSON object.")
    unknown = find_unknown(body, ("task", "params"))
    if unknown and not is_lenient(request):
        raise UnknownField(errors=unknown)
    params = body.get("params", {})
    if not isinstance(params, dict):
        raise Invalid(errors={"params": ["Must be an object."]})
    return str(body.get("task", "")), params
