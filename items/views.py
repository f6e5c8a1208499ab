"""The pages of the catalogue."""

from collections.abc import Callable
from contextlib import suppress
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import (
    HttpRequest,
    HttpResponse,
    QueryDict,
)
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.cache import patch_vary_headers
from django.utils.http import urlencode
from django.views.decorators.http import require_POST, require_safe

from items import catalogue, facets, fields, reading
from items.catalogue import ItemExists
from items.collections.editing import COLLECTIONS
from items.filter_controls import FilterControls
from items.forms import ItemPageForm, RetireForm
from items.highlighting import Highlighter
from items.integrity import ItemReferenced
from items.list_query import PARAMETERS, ListQuery
from items.models import Item, ItemChange
from items.presentation import ItemPage, Relations, name_batches, references_of
from items.suggestions import suggest
from resilient_site.accounts.actor import Actor
from resilient_site.api.keyset import paginate
from resilient_site.edge.policy import policy
from resilient_site.errors import Invalid, StaleVersion
from resilient_site.pages import HtmxRequest, form_methods, require_permissions
from resilient_site.resilience.cache_control import share_with_anonymous

PAGE_ROWS = 50
HISTORY_ROWS = 20
SUGGESTIONS = 10
EDITING = ("items.add_item", "items.change_item")


@policy(shared=PARAMETERS, shared_headers=("HX-Request", "HX-Target"))
@require_safe
def item_list(request: HtmxRequest) -> HttpResponse:
    controls = FilterControls(request.GET)
    if controls.query != request.GET:
        return redirect(f"{request.path}?{controls.query.urlencode()}")
    query, cursor = ListQuery.parse(request.GET), request.GET.get("cursor")
    page = query.page(cursor=cursor, size=PAGE_ROWS)
    chosen = controls.chosen()
    # Where nothing is chosen yet, what there is of each value is of little use.
    is_chosen = query.search or chosen
    counted = facets.count_few(query, controls.attributes) if is_chosen else None
    shown = controls.controls(counted)
    context = {
        "page": page,
        "query": query,
        "collection": controls.collection,
        "controls": shown,
        "chosen": chosen,
        "is_chosen": is_chosen,
        "counted": counted,
        "hidden": controls.hidden(shown),
        "highlighter": Highlighter(query.search),
        "suggestions": [] if page.rows or cursor else suggest(query),
    }
    part = "#results" if request.htmx and request.htmx.target == "results" else ""
    response = render(request, f"items/list.html{part}", context)
    # "Back" must not show the fragment, cached by the browser, as the page.
    patch_vary_headers(response, ["HX-Request", "HX-Target"])
    share_with_anonymous(request, response, catalogue.ITEMS, COLLECTIONS)
    return response


@policy(shared=("cursor",))
@require_safe
def item_detail(request: HttpRequest, id: str) -> HttpResponse:
    item = reading.find_item_with_collection(id)
    history = paginate(
        ItemChange.objects.filter(item_id=id),
        ordering="-version",
        cursor=request.GET.get("cursor"),
        size=HISTORY_ROWS,
    )
    if item is None and not history.rows:
        raise catalogue.ItemNotFound
    name_batches(history.rows)
    # 410, not 404: the history of a deleted item stays, and can be undone.
    status = 200 if item else 410
    state = item.state() if item else history.rows[0].before
    shown = ItemPage(fields.empty_state() | state, item) if state else None
    context = {
        "item": item,
        "item_id": id,
        "history": history,
        "state": state,
        "shown": shown,
    }
    response = render(request, "items/detail.html", context, status=status)
    if item and shown:
        share_with_anonymous(request, response, catalogue.item_tag(id), *shown.tags)
    return response


@policy(shared=())
@require_safe
def item_relations(request: HttpRequest, id: str) -> HttpResponse:
    item = catalogue.get_item(id)
    context = {"item": item, "relations": Relations(item)}
    response = render(request, "items/relations.html", context)
    share_with_anonymous(request, response, catalogue.ITEMS)
    return response


@require_permissions("items.change_item")
@require_safe
def change_all(request: HttpRequest) -> HttpResponse:
    """Open the form of the task that changes many items, with those of a list."""
    number = ListQuery.parse(request.GET).items().order_by().count()
    query = request.GET.copy()
    for name in ("ordering", "cursor"):
        query.pop(name, None)
    form = urlencode({"filter": query.urlencode(), "number": number or ""})
    return redirect(f"{reverse('compute:new', args=['change_items'])}?{form}")


@login_required
@require_safe
def suggestion_list(request: HttpRequest) -> HttpResponse:
    """Show options for what is typed into an input that refers to another item."""
    query = QueryDict(mutable=True)
    typed = request.GET.get(request.GET.get("input", ""), "")
    query["search"] = typed
    if key := request.GET.get("collection"):
        query["collection"] = key
    items: list[Item] = []
    # What cannot be searched for is no fault of who is still typing it.
    with suppress(Invalid):
        if typed.strip():
            found = ListQuery.parse(query).page(cursor=None, size=SUGGESTIONS)
            items = list(found.rows)
    context = {"items": items, "is_code": "by_code" in request.GET}
    return render(request, "items/_suggestions.html", context)


@require_permissions("items.add_item")
@form_methods
def item_new(request: HttpRequest) -> HttpResponse:
    form = ItemPageForm(_posted(request), key=request.GET.get("collection", ""))
    if request.method == "POST" and form.is_valid():
        try:
            item = catalogue.create_item(
                form.data_to_write(), actor=Actor.from_request(request)
            )
        except ItemExists:
            form.add_error("id", ItemExists.detail)
        else:
            messages.success(request, f"“{item.name}” was created.")
            return redirect(item)
    return _render_form(request, form, None)


@require_permissions("items.change_item")
@form_methods
def item_edit(request: HttpRequest, id: str) -> HttpResponse:
    return _edit(request, id, ItemPageForm, "items/form.html", "was saved")


@require_permissions("items.change_item")
@form_methods
def item_retire(request: HttpRequest, id: str) -> HttpResponse:
    return _edit(request, id, RetireForm, "items/retire.html", "was retired")


def _edit(
    request: HttpRequest,
    id: str,
    form_class: type[ItemPageForm],
    template: str,
    done: str,
) -> HttpResponse:
    item = catalogue.get_item(id)
    form = form_class(_posted(request), instance=item)
    theirs = None
    if request.method == "POST" and form.is_valid():
        try:
            item = catalogue.update_item(
                id,
                form.data_to_write(),
                actor=Actor.from_request(request),
                precondition=form.precondition,
            )
        except StaleVersion:
            # Show the current item, and base the next save on its version.
            item = theirs = catalogue.get_item(id)
            data = request.POST.copy()
            data["version"] = item.revision
            form.data = data
        else:
            messages.success(request, f"“{item.name}” {done}.")
            return redirect(item)
    return _render_form(request, form, item, theirs, template)


@require_permissions("items.delete_item")
@form_methods
def item_delete(request: HttpRequest, id: str) -> HttpResponse:
    item = catalogue.get_item(id)
    if request.method != "POST":
        return _render_delete(request, item)
    try:
        catalogue.delete_item(
            id,
            actor=Actor.from_request(request),
            precondition=catalogue.expect_revision(request.POST.get("version", "")),
        )
    except StaleVersion:
        messages.warning(
            request,
            "The item was changed meanwhile, so it was not deleted. Check it again.",
        )
        return redirect("items:delete", id=id)
    except ItemReferenced:
        return _render_delete(request, item, status=409)
    messages.success(request, f"“{item.name}” was deleted.")
    return redirect("items:detail", id=id)


def _render_delete(request: HttpRequest, item: Item, status: int = 200) -> HttpResponse:
    references, has_more = references_of(item)
    context = {"item": item, "references": references, "has_more": has_more}
    return render(request, "items/delete.html", context, status=status)


# Undoing a change creates, changes or deletes the item.
@require_permissions(*EDITING, "items.delete_item")
@require_POST
def change_undo(request: HttpRequest, id: str, change_id: int) -> HttpResponse:
    change = get_object_or_404(ItemChange, pk=change_id, item_id=id)
    item = catalogue.undo(change, actor=Actor.from_request(request))
    if item:
        messages.success(
            request, f"“{item.name}” was restored to the state before that change."
        )
    else:
        messages.success(request, f"“{change.name}” was deleted.")
    return redirect("items:detail", id=id)


@policy(shared=("cursor",))
@require_safe
def change_list(request: HttpRequest) -> HttpResponse:
    page = paginate(
        ItemChange.objects.all(),
        ordering="-id",
        cursor=request.GET.get("cursor"),
        size=PAGE_ROWS,
    )
    name_batches(page.rows)
    response = render(request, "items/changes.html", {"page": page})
    share_with_anonymous(request, response, catalogue.ITEMS)
    return response


def moved(name: str) -> Callable[..., HttpResponse]:
    """Return a view for the address that a page had before.

    An item may have that address: it comes first.
    """

    def view(request: HttpRequest, **arguments: UUID) -> HttpResponse:
        is_item = not arguments and ItemChange.objects.filter(item_id=name).exists()
        if is_item and request.method in ("GET", "HEAD"):
            return item_detail(request, id=name)
        page = reverse(f"items:{name}", kwargs=arguments)
        query = request.META["QUERY_STRING"]
        return redirect(f"{page}?{query}" if query else page, preserve_request=True)

    return view


def _posted(request: HttpRequest) -> QueryDict | None:
    """Return the submitted data; None for an empty form."""
    return request.POST if request.method == "POST" else None


def _render_form(
    request: HttpRequest,
    form: ItemPageForm,
    item: Item | None,
    theirs: Item | None = None,
    template: str = "items/form.html",
) -> HttpResponse:
    status = 409 if theirs else 422 if form.errors else 200
    compared = list(form.compare(theirs)) if theirs else []
    context = {"form": form, "item": item, "theirs": theirs, "compared": compared}
    return render(request, template, context, status=status)
