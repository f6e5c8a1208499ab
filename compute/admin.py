"""Admin of jobs: to inspect, cancel and retry them.

Nothing is edited here. Files may be large, so no page and no deletion reads them.
"""

import uuid
from datetime import timedelta
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from compute import jobs
from compute.models import Job
from compute.registry import tasks
from compute.templatetags.jobtext import duration
from resilient_site.admin import MAX_NAMED_OBJECTS, ReadOnlyAdmin
from resilient_site.errors import Conflict

STUCK_AFTER = timedelta(minutes=10)


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
                return queryset.overdue(STUCK_AFTER)
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
        "id", "task", "owner", "state", "fraction", "message", "params", "error_code",
        "error_detail", "result", "attempts", "failures", "created_at", "queued_at",
        "run_after", "started_at", "finished_at", "run_duration", "worker",
        "lease_until", "cancel_requested", "handed_over_at", "epoch", "request_id",
    )  # fmt: skip
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[Job]:
        # Large; read for the page of one job only.
        return Job.objects.filter(parent=None).defer("result", "params")

    def get_search_results(
        self, request: HttpRequest, queryset: Any, search_term: str
    ) -> tuple[Any, bool]:
        term = search_term.strip()
        try:
            found = queryset.filter(pk=uuid.UUID(term))
        except ValueError:
            found = queryset.filter(owner__username__istartswith=term)
        return (found if term else queryset), False

    @admin.display(description="duration")
    def run_duration(self, job: Job) -> str:
        return duration(job.run_time) or "-"

    # --- actions

    @admin.action(description="Cancel selected jobs", permissions=["operate"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        if not self.has_few(request, queryset):
            return
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
        if not self.has_few(request, queryset):
            return
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
        named, counts, _, _ = super().get_deleted_objects(objs, request)
        unfinished = Job.UNFINISHED
        if isinstance(objs, QuerySet):
            objs = objs.filter(state__in=unfinished)[:MAX_NAMED_OBJECTS]
        running = [str(job) for job in objs if job.state in unfinished]
        lacking = set() if self.has_delete_permission(request) else {"job"}
        return named, counts, lacking, running

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        queryset.exclude(state__in=Job.UNFINISHED).delete()
