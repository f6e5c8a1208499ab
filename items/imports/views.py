"""The pages of imports: upload, preview, progress and result."""

from django.conf import settings
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST, require_safe

from items import fields
from items.imports import exporting, importing, uploads
from items.imports.formats import Unreadable
from items.imports.forms import ImportOptionsForm, UploadForm
from items.models import ImportRun
from resilient_site.accounts.actor import Actor
from resilient_site.api.downloads import stream_file
from resilient_site.edge.policy import policy
from resilient_site.errors import NotFound
from resilient_site.pages import HtmxRequest, form_methods, require_permissions
from resilient_site.resilience import chunks

EDITING = ("items.add_item", "items.change_item")


@policy(is_heavy=True, form_limit="IMPORT_MAX_BYTES")
@require_permissions(*EDITING)
@form_methods
def import_new(request: HttpRequest) -> HttpResponse:
    sent = (request.POST, request.FILES) if request.method == "POST" else ()
    form = UploadForm(*sent)
    if request.method == "POST" and form.is_valid():
        try:
            run = uploads.receive(
                form.cleaned_data["file"], actor=Actor.from_request(request)
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
    run = _own_run(request, pk)
    if request.method == "POST" and run.state not in importing.FINISHED:
        run = uploads.proceed(run, actor=Actor.from_request(request))
    if request.method == "POST" and not request.htmx:
        return redirect("items:import-run", pk=run.pk)
    return _render_run(request, run, ImportOptionsForm(run))


@policy(is_heavy=True)
@require_permissions(*EDITING)
@require_POST
def import_options(request: HtmxRequest, pk: str) -> HttpResponse:
    """Preview the file again with the options that were chosen."""
    run = _own_run(request, pk)
    form = ImportOptionsForm(run, request.POST)
    if run.state == ImportRun.State.PREVIEWED:
        if not form.is_valid():
            return _render_run(request, run, form, status=422)
        try:
            uploads.choose(run, form.chosen())
        except Unreadable as error:
            form.add_error(None, error.detail)
            return _render_run(request, run, form, status=422)
    return redirect("items:import-run", pk=run.pk)


def _render_run(
    request: HtmxRequest, run: ImportRun, form: ImportOptionsForm, status: int = 200
) -> HttpResponse:
    context = {
        "run": run,
        "form": form,
        "fields": fields.FIELDS,
        "format": importing.format_of(run),
        "imported": importing.describe_imported(run),
    }
    template = "items/import_run.html" + ("#run" if request.htmx else "")
    return render(request, template, context, status=status)


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
        chunks.read(file),
        content_type=exporting.FORMATS[extension].content_type,
        filename=f"{run.source}.rejects.{extension}",
    )


def _own_run(request: HttpRequest, pk: str) -> ImportRun:
    return get_object_or_404(ImportRun, pk=pk, actor=request.user)
