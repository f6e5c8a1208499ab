"""The filters of the list page: its controls, and what is chosen already.

A control has the value that its parameter has, if it is one. What no control has
becomes a hidden input, so that the form sends every filter again.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple

from django.http import QueryDict

from items import filters, rules
from items.facets import Facets
from items.filters import ATTRIBUTE
from items.list_query import popular_tags
from items.models import Collection

# Of collections, and of attributes with a control.
COLLECTIONS_MAX = 200
ATTRIBUTES_MAX = 12
LABELS = {
    "collection": "{}",
    "code": "Code: {}",
    "tag": "{}",
    "status": "Status: {}",
    "parent": "Directly below {}",
    "ancestor": "Below {}",
    "valid_on": "Valid on {}",
    "updated_since": "Changed since {}",
}
SIGNS = {"": ":", "in": ":", "gt": " >", "gte": " ≥", "lt": " <", "lte": " ≤"}
YES_NO = {"true": "Yes", "false": "No"}


class Choice(NamedTuple):
    value: str
    label: str
    number: int | None = None


class Control(NamedTuple):
    """A select, or an input, of which the choices are suggestions."""

    parameter: str
    label: str
    value: str
    # What stands for no value.
    blank: str = ""
    choices: Sequence[Choice] = ()
    kind: str = "select"

    @property
    def html_id(self) -> str:
        return f"filter-{self.parameter.replace('.', '-')}"


class Chosen(NamedTuple):
    """A filter of the list, and the query without it."""

    parameter: str
    value: str
    label: str
    without: str


class FilterControls:
    def __init__(self, given: QueryDict) -> None:
        keys = [key for key in given.getlist("collection") if key]
        one = Collection.objects.filter(pk=keys[0]).first() if len(keys) == 1 else None
        # The one collection that the list is limited to.
        self.collection = one
        self.query = self._without_leftovers(given)

    def _without_leftovers(self, given: QueryDict) -> QueryDict:
        """Return the query without empty values, and attributes of another collection.

        A form sends them that is filled without JavaScript, or as the collection
        changes.
        """
        kept = given.copy()
        for name in given:
            attribute = name.removeprefix(ATTRIBUTE).partition("__")[0]
            values = [value for value in given.getlist(name) if value]
            if name.startswith(ATTRIBUTE) and attribute not in self.attributes:
                values = []
            if values:
                kept.setlist(name, values)
            else:
                del kept[name]
        return kept

    @cached_property
    def attributes(self) -> Mapping[str, Any]:
        """What is declared of the attributes that the list can be filtered by."""
        return filters.filterable_of(self.collection) if self.collection else {}

    @cached_property
    def collections(self) -> dict[str, str]:
        """The names of collections by key."""
        rows = Collection.objects.order_by("name", "key").values_list("key", "name")
        names = dict(rows[:COLLECTIONS_MAX])
        if self.collection:
            names.setdefault(self.collection.key, self.collection.name)
        return names

    def chosen(self) -> list[Chosen]:
        attributes = [name for name in self.query if name.startswith(ATTRIBUTE)]
        return [
            Chosen(name, value, self._label(name, value), self._query_without(name, n))
            for name in (*LABELS, *attributes)
            for n, value in enumerate(self.query.getlist(name))
        ]

    def hidden(self, controls: list[Control]) -> list[tuple[str, str]]:
        """Return the parameters and values of filters that no control has."""
        held = {control.parameter for control in controls if control.value}
        return [
            (chosen.parameter, chosen.value)
            for chosen in self.chosen()
            if chosen.parameter not in held
        ]

    def controls(self, facets: Facets | None) -> list[Control]:
        """Return the controls, with the numbers of items where they are counted."""
        return [*self._controls(facets), *self._attribute_controls(facets)]

    def _controls(self, facets: Facets | None) -> Iterator[Control]:
        if len(self.collections) > 1:
            yield self._select("collection", "collection", self.collections, facets)
        statuses = {status: status.capitalize() for status in rules.STATUSES}
        yield self._select("status", "status", statuses, facets)
        yield Control("valid_on", "Valid on", self._value("valid_on"), kind="date")
        yield self._tags(facets)

    def _tags(self, facets: Facets | None) -> Control:
        chosen = self.query.getlist("tag")
        counts = facets.facets["tag"].values if facets else popular_tags()
        choices = [Choice(tag, tag, n) for tag, n in counts if tag not in chosen]
        # Each choice is one more.
        return Control("tag", "tag", "", "Add a tag" if chosen else "Any tag", choices)

    def _attribute_controls(self, facets: Facets | None) -> Iterator[Control]:
        for name, declared in islice(self.attributes.items(), ATTRIBUTES_MAX):
            parameter, title = f"{ATTRIBUTE}{name}", declared.get("title", name)
            values = {str(value): str(value) for value in declared.get("enum", ())}
            if declared["type"] == "boolean":
                values = YES_NO
            select = self._select(parameter, title, values, facets)
            if values:
                yield select._replace(blank=f"{title}: any")
                continue
            is_number = declared["type"] in ("integer", "number")
            kind = "number" if is_number else "text"
            kind = "date" if declared.get("format") == "date" else kind
            yield select._replace(blank=title, kind=kind)

    def _select(
        self,
        parameter: str,
        label: str,
        names: Mapping[str, str],
        facets: Facets | None,
    ) -> Control:
        given, value = self.query.getlist(parameter), self._value(parameter)
        facet = facets.facets.get(parameter) if facets else None
        if facet and not given and not facet.has_more:
            counts = {_as_text(value): count for value, count in facet.values}
            known = names or dict.fromkeys(counts)
            choices = [
                Choice(key, name or key, counts[key])
                for key, name in known.items()
                if key in counts
            ]
        else:
            choices = [Choice(*pair) for pair in ({value: value} | {**names}).items()]
        blank = f"Add a {label}" if len(given) > 1 else f"Any {label}"
        return Control(parameter, label, value, blank, [c for c in choices if c.value])

    def _value(self, parameter: str) -> str:
        values = self.query.getlist(parameter)
        return values[0] if len(values) == 1 else ""

    def _label(self, parameter: str, value: str) -> str:
        if parameter == "collection":
            return self.collections.get(value, value)
        if not parameter.startswith(ATTRIBUTE):
            return LABELS[parameter].format(value)
        name, _, lookup = parameter.removeprefix(ATTRIBUTE).partition("__")
        declared = self.attributes[name]
        title = declared.get("title", name)
        if lookup == "isnull":
            return f"{'Without' if value == 'true' else 'With'} {title}"
        shown = YES_NO.get(value, value) if declared["type"] == "boolean" else value
        return f"{title}{SIGNS.get(lookup, lookup)} {shown}"

    def _query_without(self, parameter: str, number: int) -> str:
        rest = self.query.copy()
        values = rest.getlist(parameter)
        rest.setlist(parameter, values[:number] + values[number + 1 :])
        if parameter == "collection":
            for name in [name for name in rest if name.startswith(ATTRIBUTE)]:
                del rest[name]
        rest.pop("cursor", None)
        return rest.urlencode()


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
