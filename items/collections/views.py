"""The pages of collections: thin callers of `items.collections.editing`."""

from typing import Any
from uuid import uuid4

import orjson
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_safe

from items.catalogue import ITEMS, collection_tag, expect_revision
from items.collections import editing
from items.collections.editing import (
    COLLECTIONS,
    CollectionInUse,
    SchemaBreaksItems,
    SchemaNeedsJob,
)
from items.collections.forms import CollectionForm
from items.collections.list_query import find_page
from items.collections.wording import describe
from items.models import Collection
from resilient_site.edge.policy import policy
from resilient_site.errors import AlreadyExists, Invalid, StaleVersion
from resilient_site.pages import HtmxRequest, form_methods, require_permissions
from resilient_site.resilience.cache_control import share_with_anonymous

PAGE_ROWS = 50
BROKEN_SHOWN = 100
# Of those that an attribute may refer to, as the form suggests them.
SUGGESTED = 1_000


@policy(shared=("cursor",))
@require_safe
def collection_list(request: HttpRequest) -> HttpResponse:
    page = find_page(request.GET.get("cursor"), PAGE_ROWS)
    response = render(request, "collections/list.html", {"page": page})
    share_with_anonymous(request, response, COLLECTIONS, ITEMS)
    return response


@policy(shared=())
@require_safe
def collection_detail(request: HttpRequest, key: str) -> HttpResponse:
    collection = editing.get_collection(key)
    context = {"collection": collection, "attributes": describe(collection)}
    response = render(request, "collections/detail.html", context)
    share_with_anonymous(request, response, collection_tag(key))
    return response


@require_permissions("items.add_collection")
@form_methods
def collection_new(request: HtmxRequest) -> HttpResponse:
    if "_row" in request.POST:
        return _render_rows(request, None)
    form = CollectionForm(request.POST if request.method == "POST" else None)
    if form.is_valid():
        try:
            collection = editing.create_collection(form.data_to_write)
        except (AlreadyExists, Invalid) as error:
            form.add_errors(error.errors or {})
        else:
            messages.success(request, f"“{collection.name}” was created.")
            return redirect("collections:detail", key=collection.key)
    return _render_form(request, form)


@require_permissions("items.change_collection")
@form_methods
def collection_edit(request: HtmxRequest, key: str) -> HttpResponse:
    collection = editing.get_collection(key)
    if "_row" in request.POST:
        return _render_rows(request, collection)
    posted = request.POST if request.method == "POST" else None
    form = CollectionForm(posted, instance=collection)
    found: dict[str, Any] = {}
    if form.is_valid():
        try:
            collection = _change(key, form.data_to_write, form)
        except Invalid as error:
            form.add_errors(error.errors or {})
        except StaleVersion:
            # Show the current one, and base the next save on its version.
            theirs = editing.get_collection(key)
            form.based_on(theirs)
            found = {"theirs": theirs, "attributes": describe(theirs)}
        except SchemaBreaksItems as error:
            shown = error.members["items"][:BROKEN_SHOWN]
            found = {"count": error.members["count"], "shown": len(shown)}
            found["broken"] = [
                (item["id"], name, " ".join(texts))
                for item in shown
                for name, texts in item["errors"]["attributes"].items()
            ]
        except SchemaNeedsJob:
            # All else is saved, and the job has to do with the schema alone.
            rest = {n: v for n, v in form.data_to_write.items() if n != "schema"}
            form.based_on(_change(key, rest, form))
            schema = orjson.dumps(form.data_to_write["schema"]).decode()
            found = {"schema": schema, "idempotency_key": uuid4()}
        else:
            messages.success(request, f"“{collection.name}” was saved.")
            return redirect("collections:detail", key=key)
    return _render_form(request, form, **found)


@require_permissions("items.delete_collection")
@form_methods
def collection_delete(request: HttpRequest, key: str) -> HttpResponse:
    collection, reason = editing.get_collection(key), ""
    try:
        if request.method == "POST":
            shown = expect_revision(request.POST.get("version", ""))
            editing.delete_collection(key, precondition=shown)
            messages.success(request, f"“{collection.name}” was deleted.")
            return redirect("collections:list")
        editing.expect_unused(collection)
    except StaleVersion:
        messages.warning(
            request, "It was changed meanwhile, so it was not deleted. Check it again."
        )
        return redirect("collections:delete", key=key)
    except CollectionInUse as error:
        reason = error.detail
    context = {"collection": collection, "reason": reason}
    status = 409 if request.method == "POST" else 200
    return render(request, "collections/delete.html", context, status=status)


def _change(key: str, changes: editing.Data, form: CollectionForm) -> Collection:
    return editing.change_collection(key, changes, precondition=form.precondition)


def _render_rows(request: HtmxRequest, collection: Collection | None) -> HttpResponse:
    """Show what was typed, with a row more or less, or in another order."""
    form = CollectionForm(instance=collection, typed=request.POST)
    part = "#attributes" if request.htmx else ""
    return _render(request, form, part)


def _render_form(
    request: HtmxRequest, form: CollectionForm, **found: Any
) -> HttpResponse:
    status = 409 if found else 422 if form.has_errors() else 200
    return _render(request, form, status=status, **found)


def _render(
    request: HtmxRequest,
    form: CollectionForm,
    part: str = "",
    status: int = 200,
    **found: Any,
) -> HttpResponse:
    names = Collection.objects.order_by("key").values_list("key", "name")
    context = {"form": form, "collection": form.instance, **found}
    context["suggestions"] = names[:SUGGESTED]
    context["items_at_once"] = editing.ITEMS_AT_ONCE
    return render(request, f"collections/form.html{part}", context, status=status)
