"""Admin of jobs: to inspect, cancel and retry them.

Nothing is edited here. Files may be large, so no page and no deletion reads them.
"""

import uuid
from datetime import timedelta
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.db.models.functions import Now
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from compute import jobs
from compute.models import Job
from compute.registry import tasks
from compute.templatetags.jobtext import duration, pretty_json
from resilient_site.admin import MAX_NAMED_OBJECTS, ReadOnlyAdmin
from resilient_site.errors import Conflict

STUCK_AFTER = timedelta(minutes=10)
PARTS_SHOWN = 100


class TaskFilter(admin.SimpleListFilter):
    title = "task"
    parameter_name = "task"

    def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, str]]:
        return sorted((name, task.title) for name, task in tasks.items())

    def queryset(self, request: Any, queryset: Any) -> Any:
        return queryset.filter(task=self.value()) if self.value() else queryset


class StuckFilter(admin.SimpleListFilter):
    title = "stuck"
    parameter_name = "stuck"

    def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, str]]:
        return [
            ("lost", "Running, lease expired"),
            ("waiting", "Queued for 10 minutes"),
        ]

    def queryset(self, request: Any, queryset: Any) -> Any:
        match self.value():
            case "lost":
                return queryset.abandoned()
            case "waiting":
                return queryset.filter(
                    queued_at__lt=Now() - STUCK_AFTER, state=Job.State.QUEUED
                )
            case _:
                return queryset


@admin.register(Job)
class JobAdmin(ReadOnlyAdmin):
    list_display = ("title", "state", "owner", "attempts", "created_at", "run_duration")
    list_filter = ("state", TaskFilter, StuckFilter)
    list_select_related = ("owner",)
    ordering = ("-id",)
    sortable_by = ()
    search_fields = ("id",)  # shows the box; get_search_results searches
    search_help_text = "The full id of a job, or the start of its owner's name"
    actions = ("cancel", "retry")
    fields = (
        "id", "task", "owner", "state", "progress", "parameters", "error", "output",
        "files", "parts", "attempts", "failures", "created_at", "queued_at",
        "run_after", "started_at", "finished_at", "run_duration", "worker",
        "lease_until", "cancel_requested", "handed_over_at", "epoch", "request_id",
    )  # fmt: skip
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[Job]:
        rows = Job.objects.filter(parent=None)
        match = request.resolver_match
        is_list = match is not None and match.url_name == "compute_job_changelist"
        return rows.defer("result", "params") if is_list else rows

    def get_search_results(
        self, request: HttpRequest, queryset: Any, search_term: str
    ) -> tuple[Any, bool]:
        term = search_term.strip()
        try:
            found = queryset.filter(pk=uuid.UUID(term))
        except ValueError:
            found = queryset.filter(owner__username__istartswith=term)
        return (found if term else queryset), False

    def view_on_site(self, job: Job) -> str:
        return job.get_absolute_url()

    # --- fields

    @admin.display(description="duration")
    def run_duration(self, job: Job) -> str:
        return duration(job.run_time) or "-"

    @admin.display(description="progress")
    def progress(self, job: Job) -> str:
        return f"{job.percent} % {job.message}"

    @admin.display(description="parameters")
    def parameters(self, job: Job) -> SafeString:
        return format_html("<pre>{}</pre>", pretty_json(job.params))

    @admin.display(description="error")
    def error(self, job: Job) -> str:
        return f"{job.error_code}: {job.error_detail}" if job.error_code else "-"

    @admin.display(description="result")
    def output(self, job: Job) -> SafeString | str:
        if job.result is None:
            return "-"
        return format_html("<pre>{}</pre>", pretty_json(job.result)[:10_000])

    @admin.display(description="files")
    def files(self, job: Job) -> SafeString | str:
        shown = set(job.result_files().values_list("pk", flat=True))
        lines = (
            (self._file_link(job, file.name, file.pk in shown),
             f"{file.kind}, {file.content_type}, {file.size:,} bytes")
            for file in job.files.order_by("kind", "name", "epoch")
        )  # fmt: skip
        return format_html_join(SafeString("<br>"), "{} ({})", lines) or "-"

    def _file_link(self, job: Job, name: str, is_result: bool) -> SafeString | str:
        if not is_result:
            return name
        url = reverse("compute:file", args=[job.pk, name])
        return format_html('<a href="{}">{}</a>', url, name)

    @admin.display(description="parts")
    def parts(self, job: Job) -> SafeString | str:
        rows = job.parts.defer("result", "params").order_by("part")
        lines = [
            (part.part, part.state, f"{part.percent} %", part.error_detail)
            for part in rows[:PARTS_SHOWN]
        ]
        shown = format_html_join(SafeString("<br>"), "{}: {}, {} {}", lines)
        if len(lines) < PARTS_SHOWN:
            return shown or "-"
        return format_html("{}<br>… {} in all", shown, rows.count())

    # --- actions

    @admin.action(description="Cancel selected jobs", permissions=["operate"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        done, ended = 0, 0
        for job in queryset:
            try:
                jobs.cancel(job)
            except Conflict:
                ended += 1
            else:
                done += 1
        self._report(request, "Jobs cancelled", done, "had already finished", ended)

    @admin.action(description="Retry selected jobs", permissions=["operate"])
    def retry(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        outcomes = [jobs.retry(job) for job in queryset]
        others = "had neither failed nor been cancelled"
        done = sum(outcomes)
        self._report(request, "Jobs to retry", done, others, len(outcomes) - done)

    def _report(
        self, request: HttpRequest, what: str, done: int, others: str, left: int
    ) -> None:
        text = f"{what}: {done}." + (f" {left} {others}." if left else "")
        level = messages.WARNING if left else messages.SUCCESS
        self.message_user(request, text, level)

    def has_operate_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("compute.change_job")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        allowed = request.user.has_perm("compute.delete_job")
        return allowed and (obj is None or obj.is_finished)

    def get_deleted_objects(
        self, objs: Any, request: HttpRequest
    ) -> tuple[list[str], dict[str, int], set[str], list[str]]:
        """List some names without collecting; unfinished jobs prevent a deletion."""
        named = [str(job) for job in objs[:MAX_NAMED_OBJECTS]]
        running = [str(job) for job in objs if not job.is_finished]
        lacking = set() if self.has_delete_permission(request) else {"job"}
        return named, {"jobs": len(objs)}, lacking, running

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        queryset.exclude(state__in=Job.UNFINISHED).delete()
