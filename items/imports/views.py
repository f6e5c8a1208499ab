"""The pages of imports: upload, preview, progress and result."""

from typing import Any, NamedTuple

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST, require_safe
from django_htmx.http import HttpResponseClientRefresh

from items import fields
from items.imports import exporting, importing, previews, uploads
from items.imports.formats import Unreadable
from items.imports.forms import ImportOptionsForm, UploadForm
from items.imports.mapping import ColumnTargets
from items.models import Collection, ImportRun, PreviewRow
from resilient_site.accounts.actor import Actor
from resilient_site.api.downloads import stream_file
from resilient_site.api.keyset import paginate
from resilient_site.edge.policy import policy
from resilient_site.errors import NotAllowed, NotFound
from resilient_site.pages import HtmxRequest, form_methods, require_permissions
from resilient_site.storage import files

EDITING = ("items.add_item", "items.change_item")
PAGE_ROWS = 50
NOT_CONFIRMED = (
    "Nothing was imported: the preview is not complete, or has changed meanwhile. "
    "Check it, and import then."
)
CHOOSE_COLUMNS = "Choose below what each column is, or leave it out."


@policy(is_heavy=True, form_limit="IMPORT_MAX_BYTES")
@require_permissions(*EDITING)
@form_methods
def import_new(request: HttpRequest) -> HttpResponse:
    if request.method == "POST":
        form = UploadForm(request.POST, request.FILES)
    else:
        form = UploadForm(initial={"collection": request.GET.get("collection", "")})
    if form.is_valid():
        try:
            run = uploads.receive(
                form.cleaned_data["file"],
                collection=form.cleaned_data["collection"],
                actor=Actor.from_request(request),
            )
        except Unreadable as error:
            form.add_error("file", error.detail)
        else:
            return redirect("items:import-run", pk=run.pk)
    status = 422 if form.errors else 200
    context = {
        "form": form,
        "fields": fields.FIELDS,
        "max_bytes": settings.IMPORT_MAX_BYTES,
    }
    return render(request, "items/import.html", context, status=status)


@policy(is_heavy=True)
@require_permissions(*EDITING)
@form_methods
def import_run(request: HtmxRequest, pk: str) -> HttpResponse:
    """Show how far an import is; by POST, import the next slice of the file."""
    run = _own_run(request, pk)
    if request.method == "POST" and run.state not in importing.FINISHED:
        if _is_confirmed(request, run):
            run = uploads.proceed(run, actor=Actor.from_request(request))
        else:
            messages.warning(request, NOT_CONFIRMED)
            if request.htmx:
                return HttpResponseClientRefresh()
    if request.method == "POST" and not request.htmx:
        return redirect("items:import-run", pk=run.pk)
    return _render_run(request, run)


def _is_confirmed(request: HttpRequest, run: ImportRun) -> bool:
    """Return whether what is to happen to missing items was shown with its number.

    Raises NotAllowed for their deletion without the permission.
    """
    action = importing.format_of(run).missing_action
    if action == "delete" and not request.user.has_perm("items.delete_item"):
        raise NotAllowed
    if run.state != ImportRun.State.PREVIEWED or action == "keep":
        return True
    preview = run.preview or {}
    shown = request.POST.get("missing", "")
    return bool(preview.get("complete")) and shown == str(preview.get("missing"))


@policy(is_heavy=True)
@require_permissions(*EDITING)
@require_POST
def import_options(request: HtmxRequest, pk: str) -> HttpResponse:
    """Preview the file again with the options that were chosen."""
    run = _own_run(request, pk)
    if run.state == ImportRun.State.PREVIEWED:
        form = ImportOptionsForm(run, request.user, request.POST)
        if not form.is_valid():
            return _render_run(request, run, form, status=422)
        try:
            uploads.choose(run, form.chosen(), actor=Actor.from_request(request))
        except Unreadable as error:
            form.add_error(None, error.detail)
            return _render_run(request, run, form, status=422)
    return redirect("items:import-run", pk=run.pk)


def _render_run(
    request: HtmxRequest,
    run: ImportRun,
    form: ImportOptionsForm | None = None,
    status: int = 200,
) -> HttpResponse:
    found = importing.format_of(run)
    context = {
        "run": run,
        "format": found,
        "collection": Collection.objects.filter(pk=found.collection or None).first(),
        "imported": importing.describe_imported(run),
        "missing_kept": importing.missing_kept(run),
    }
    if run.state == ImportRun.State.PREVIEWED:
        context["form"] = form or ImportOptionsForm(run, request.user)
        context |= _preview_context(request, run)
    template = "items/import_run.html" + ("#run" if request.htmx else "")
    return render(request, template, context, status=status)


class Tab(NamedTuple):
    """Rows of the preview of one kind; the number is that of the whole file."""

    kind: str
    label: str
    number: int


def _preview_context(request: HttpRequest, run: ImportRun) -> dict[str, Any]:
    preview, found = run.preview or {}, importing.format_of(run)
    tabs = [
        Tab("new", "New", preview.get("created", 0)),
        Tab("changed", "Changed", preview.get("updated", 0)),
        Tab("unchanged", "Unchanged", preview.get("unchanged", 0)),
        Tab("rejected", "Rejected", preview.get("rejected", 0)),
    ]
    if found.missing_action != "keep":
        tabs.append(Tab("missing", "Not in the file", preview.get("missing", 0)))
    kinds = [tab.kind for tab in sorted(tabs, key=lambda tab: not tab.number)]
    shown = request.GET.get("show", "")
    shown = shown if shown in kinds else kinds[0]
    page = paginate(
        PreviewRow.objects.filter(run=run, kind=shown),
        ordering="number",
        cursor=request.GET.get("cursor"),
        size=PAGE_ROWS,
    )
    targets = ColumnTargets(found.collection)
    is_missing = (
        found.missing_action != "keep"
        and preview.get("missing")
        and not preview.get("missing_kept")
    )
    problem = preview.get("problem", "")
    if problem and preview.get("columns"):
        problem = f"{problem.partition('. ')[0].removesuffix('.')}. {CHOOSE_COLUMNS}"
    return {
        "preview": preview,
        "problem": problem,
        "tabs": tabs,
        "shown": next(tab for tab in tabs if tab.kind == shown),
        "page": page,
        "rows": [(row, _cells(row, targets)) for row in page.rows],
        "rows_max": previews.ROWS_MAX,
        # Of a compressed file more is read than it has.
        "read_percent": min(99, preview.get("bytes_read", 0) * 100 // max(run.size, 1)),
        "is_stalled": previews.is_stalled(run),
        "has_effect": preview.get("created") or preview.get("updated") or is_missing,
    }


def _cells(row: PreviewRow, targets: ColumnTargets) -> list[tuple[str, str, str]]:
    return [(targets.label(field), old, new) for field, old, new in row.cells]


@policy(is_heavy=True)
@require_permissions(*EDITING)
@require_safe
def import_rejects(request: HttpRequest, pk: str) -> StreamingHttpResponse:
    run = _own_run(request, pk)
    file = uploads.rejects_file(run)
    if file is None:
        raise NotFound("This import has no rejected rows.")
    extension = "ndjson" if importing.format_of(run).is_json else "csv"
    return stream_file(
        files.read(file),
        content_type=exporting.FORMATS[extension].content_type,
        filename=f"{run.source}.rejects.{extension}",
    )


def _own_run(request: HttpRequest, pk: str) -> ImportRun:
    return get_object_or_404(ImportRun, pk=pk, actor=request.user)
