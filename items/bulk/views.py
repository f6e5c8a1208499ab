"""The pages of batches of changes, and of their undo."""

from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_safe

from items.bulk import undo
from items.bulk.batches import BATCHES, number_of_items
from items.bulk.undo import Plan
from items.bulk.undo_conflicts import CONFLICTS_SHOWN, BatchChangedSince, describe
from items.catalogue import ITEMS
from items.models import ChangeBatch
from resilient_site.accounts.actor import Actor
from resilient_site.api.keyset import paginate
from resilient_site.edge.policy import policy
from resilient_site.pages import form_methods, require_permissions
from resilient_site.resilience.cache_control import share_with_anonymous

PAGE_ROWS = 50


@policy(shared=("kind", "cursor"))
@require_safe
def batch_list(request: HttpRequest) -> HttpResponse:
    batches = ChangeBatch.objects.all()
    kind = request.GET.get("kind", "")
    if kind in ChangeBatch.Kind.values:
        batches = batches.filter(kind=kind)
    page = paginate(
        batches,
        ordering="-started_at",
        cursor=request.GET.get("cursor"),
        size=PAGE_ROWS,
    )
    context = {"page": page, "kind": kind, "kinds": ChangeBatch.Kind.choices}
    response = render(request, "items/batches.html", context)
    share_with_anonymous(request, response, ITEMS, BATCHES)
    return response


@policy(shared=("cursor",))
@require_safe
def batch_detail(request: HttpRequest, pk: UUID) -> HttpResponse:
    batch = undo.get_batch(pk)
    page = paginate(
        batch.changes_in_log(),
        ordering="-id",
        cursor=request.GET.get("cursor"),
        size=PAGE_ROWS,
    )
    context = {
        "batch": batch,
        "page": page,
        "undos": batch.undone_by.order_by("started_at"),
        "needs_job": undo.needs_job(batch),
    }
    response = render(request, "items/batch.html", context)
    share_with_anonymous(request, response, ITEMS, BATCHES)
    return response


@policy(is_heavy=True)
@require_permissions(*undo.PERMISSIONS)
@form_methods
def batch_undo(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Show what an undo would do, and what is in the way; then undo it."""
    batch = undo.get_batch(pk)
    if undo.needs_job(batch):
        return redirect("items:batch", pk=pk)
    if request.method != "POST":
        return _confirm(request, batch, undo.plan(batch))
    try:
        undone, conflicts = undo.undo_batch(
            pk,
            actor=Actor.from_request(request),
            skip_conflicts="skip_conflicts" in request.POST,
        )
    except BatchChangedSince as error:
        planned = undo.plan(batch)._replace(conflicts=error.found)
        return _confirm(request, batch, planned, status=409)
    if undone is None:
        messages.info(request, "There was nothing to undo.")
        return redirect("items:batch", pk=pk)
    done = number_of_items(undone.changes)
    left = f"; {number_of_items(len(conflicts))} left alone" if conflicts else ""
    messages.success(request, f"“{batch.title}” was undone: {done}{left}.")
    return redirect("items:batch", pk=undone.pk)


def _confirm(
    request: HttpRequest, batch: ChangeBatch, planned: Plan, status: int = 200
) -> HttpResponse:
    context = {
        "batch": batch,
        "plan": planned,
        "has_any": planned.restored or planned.created or planned.deleted,
        "conflicts": describe(planned.conflicts, CONFLICTS_SHOWN),
    }
    return render(request, "items/batch_undo.html", context, status=status)
