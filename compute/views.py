"""Pages of jobs: thin callers of the same functions as REST."""

import re
from collections.abc import Callable
from functools import wraps
from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.template.loader import select_template
from django.utils.cache import patch_vary_headers
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe
from django_htmx.http import HttpResponseClientRefresh

from compute import duplicate_pairs, jobs
from compute.downloads import download
from compute.forms import TaskForm, display_params
from compute.jobs import JobNotFound, QueueFull, TooManyJobs
from compute.list_query import select_jobs
from compute.models import Job
from compute.registry import Task, get_task, list_tasks_for, tasks
from compute.templatetags.jobtext import duration
from items.catalogue import ItemNotFound
from resilient_site.accounts.actor import Actor
from resilient_site.api.idempotency import KeyReused
from resilient_site.api.keyset import paginate
from resilient_site.api.pagination import parse_small_number
from resilient_site.edge.policy import policy
from resilient_site.errors import Conflict, Invalid, NotAllowed, SiteError
from resilient_site.pages import HtmxRequest, form_methods, require_permissions

PAGE_ROWS = 50
PARTS_SHOWN = 100
MERGING = ["items.add_item", "items.change_item", "items.delete_item"]


def private_page[V: Callable[..., HttpResponseBase]](view: V) -> V:
    """Require a user, and cache nothing; a request of htmx reloads the page instead."""
    protected = login_required(never_cache(view))

    @wraps(view)
    def wrapper(request: HtmxRequest, *args: Any, **options: Any) -> HttpResponseBase:
        if request.htmx and not request.user.is_authenticated:
            return HttpResponseClientRefresh()
        return protected(request, *args, **options)

    return wrapper  # type: ignore[return-value]


@private_page
@require_safe
def job_list(request: HtmxRequest) -> HttpResponse:
    page = paginate(
        select_jobs(request.GET, request.user).select_related("owner"),
        ordering="-id",
        cursor=request.GET.get("cursor"),
        size=PAGE_ROWS,
    )
    context = {
        "page": page,
        "rows": [(job, display_params(job)) for job in page.rows],
        "has_unfinished": any(not job.is_finished for job in page.rows),
        "states": Job.State.choices,
        "tasks": sorted((task.title, task.name) for task in tasks.values()),
        "chosen": {name: request.GET.get(name, "") for name in ("state", "task")},
    }
    return _render(request, "compute/list.html", context, parts=["results"])


@private_page
@require_safe
def task_list(request: HttpRequest) -> HttpResponse:
    return render(
        request, "compute/tasks.html", {"tasks": list_tasks_for(request.user)}
    )


# A parameter may be a file.
@policy(form_limit="IMPORT_MAX_BYTES", write_rate="heavy")
@private_page
@form_methods
def job_new(request: HttpRequest, name: str) -> HttpResponse:
    task = get_task(name)
    if not task.may_run(request.user):
        raise NotAllowed
    rejection: SiteError | None = None
    form = _form(request, task)
    if form.is_valid():
        try:
            return redirect(_submit(request, task, form.cleaned_data))
        except (QueueFull, TooManyJobs) as error:
            rejection = error
    context = {
        "task": task,
        "form": form,
        "rejection": rejection,
        "key": uuid4(),
        "max_bytes": settings.IMPORT_MAX_BYTES,
    }
    status = rejection.status if rejection else 422 if form.errors else 200
    response = render(request, "compute/new.html", context, status=status)
    if rejection:
        response["Retry-After"] = str(rejection.retry_after_s)
    return response


@private_page
@require_safe
def job_detail(request: HtmxRequest, pk: UUID) -> HttpResponse:
    return _render_job(request, jobs.get_job(pk, request.user))


@private_page
@require_POST
def job_cancel(request: HtmxRequest, pk: UUID) -> HttpResponse:
    job = jobs.get_job_to_cancel(pk, request.user)
    try:
        job = jobs.cancel(job)
    except Conflict as conflict:
        job.refresh_from_db()
        if not request.htmx:
            messages.warning(request, str(conflict))
    return _render_job(request, job) if request.htmx else redirect(job)


@policy(write_rate="heavy")
@private_page
@require_POST
def job_again(request: HttpRequest, pk: UUID) -> HttpResponse:
    job = jobs.get_job(pk, request.user)
    try:
        job = jobs.run_again(
            job,
            owner=request.user,  # type: ignore[arg-type]
            idempotency_key=_key_of_form(request),
        )
    except (QueueFull, TooManyJobs) as error:
        wait = duration(error.retry_after_s)
        messages.error(request, f"{error.detail} Try again in about {wait}.")
    return redirect(job)


@require_permissions(*MERGING)
@require_POST
def job_merge(request: HtmxRequest, pk: UUID) -> HttpResponse:
    """Merge a pair of items that the job has found."""
    job = jobs.get_job(pk, request.user)
    number = parse_small_number(request.POST.get("pair", "")) or 0
    keep = request.POST.get("keep", "")
    try:
        kept = duplicate_pairs.merge(
            job, number, keep=keep, actor=Actor.from_request(request)
        )
    except (ItemNotFound, Invalid) as error:
        messages.error(request, _merge_error(error))
    else:
        messages.success(request, f"The two items were merged into “{kept.name}”.")
    page = (number - 1) // duplicate_pairs.PAIRS_ON_PAGE + 1
    return redirect(f"{job.get_absolute_url()}?page={page}#pair-{number}")


@policy(is_heavy=True)
@login_required
@require_safe
def job_file(request: HttpRequest, pk: UUID, name: str) -> HttpResponseBase:
    job = jobs.get_job(pk, request.user)
    return download(request, get_object_or_404(job.result_files(), name=name))


def _merge_error(error: SiteError) -> str:
    if isinstance(error, ItemNotFound):
        return "One of the two items has been deleted."
    reasons = [text for texts in (error.errors or {}).values() for text in texts]
    return " ".join(["The items cannot be merged.", *reasons])


def _form(request: HttpRequest, task: Task) -> TaskForm:
    """Return the submitted form, or a new one with values of the address or of a job.

    That job is named by `like`; what the address has beside it is in place of its own.
    """
    if request.method == "POST":
        return TaskForm(task, request.POST, request.FILES)
    given = request.GET.dict()
    try:
        earlier = jobs.get_job(UUID(given.pop("like", "")), request.user)
    except (ValueError, JobNotFound):
        return TaskForm(task, initial=given)
    values = earlier.params if earlier.task == task.name else {}
    return TaskForm(task, initial=values | given)


def _submit(request: HttpRequest, task: Task, params: dict[str, Any]) -> Job:
    """Queue the job, once for each rendered form."""
    try:
        return jobs.submit(
            task=task,
            params=params,
            owner=request.user,
            idempotency_key=_key_of_form(request),
        )
    except KeyReused:
        # The form was changed after going back in the browser: that is another job.
        return jobs.submit(task=task, params=params, owner=request.user)


def _key_of_form(request: HttpRequest) -> str:
    key = request.POST.get("idempotency-key", "")
    return key if re.fullmatch(r"[0-9a-f-]{36}", key) else ""


def _render_job(request: HtmxRequest, job: Job) -> HttpResponse:
    return _render(
        request, "compute/detail.html", _context(request, job), ["job", "parts"]
    )


def _context(request: HttpRequest, job: Job) -> dict[str, Any]:
    task = job.spec
    context = {
        "job": job,
        "params": display_params(job),
        "may_cancel": jobs.may_cancel(job, request.user),
        "may_run_again": task is not None and task.may_run(request.user),
        "key": uuid4(),
        "shows_parts": task is not None
        and task.has_parts
        and job.state != Job.State.SUCCEEDED,
    }
    if context["shows_parts"]:
        parts = job.parts.defer("result", "params").order_by("part")
        context["parts"] = parts[:PARTS_SHOWN]
        context["parts_number"] = parts.count()
    if job.state == Job.State.QUEUED:
        context["ahead"] = ahead = jobs.count_ahead(job)
        context["wait_s"] = jobs.estimate_duration_s(ahead + 1)
    if job.state == Job.State.SUCCEEDED:
        names = [f"compute/results/{job.task}.html", "compute/results/generic.html"]
        context["files"] = job.result_files()
        context["result_template"] = select_template(names).template
    return context


def _render(
    request: HtmxRequest, template: str, context: dict[str, Any], parts: list[str]
) -> HttpResponse:
    """Render the page, or the partial that htmx requests."""
    target = request.htmx.target if request.htmx else None
    part = f"#{target}" if target in parts else ""
    response = render(request, template + part, context)
    patch_vary_headers(response, ["HX-Request", "HX-Target"])
    return response
