"""What a read shows of items: all of each, or some fields, or more of what it names."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from django.http import QueryDict

from items import fields
from items.integrity import POINTERS
from items.models import Item
from resilient_site.api.unknown_names import find_unknown
from resilient_site.errors import Invalid

PARAMETERS = ("fields", "expand")
NAMES = (*(field.name for field in fields.FIELDS), *fields.READ_ONLY)
EXPANDABLE = (*POINTERS, "links")
SUMMARY_COLUMNS = ("pk", *(field.column for field in fields.SUMMARY_FIELDS))

# An item as REST shows it.
type Shown = dict[str, Any]


@dataclass(frozen=True)
class Representation:
    """The parameters `fields` and `expand`; without names an item is shown as it is."""

    fields: frozenset[str]
    expand: frozenset[str]

    @classmethod
    def parse(cls, query: QueryDict, *, ignores_unknown: bool = False) -> Self:
        """Raise Invalid with the names that are not known, by parameter."""
        errors, named = {}, []
        for parameter, known in zip(PARAMETERS, (NAMES, EXPANDABLE), strict=True):
            names = _names(query.getlist(parameter))
            unknown = {} if ignores_unknown else find_unknown(names, known)
            if unknown:
                errors[parameter] = [f"“{n}”: {m}" for n, [m] in unknown.items()]
            named.append(frozenset(names) & {*known})
        if errors:
            raise Invalid(errors=errors)
        # Without its id, nobody could tell which item it is.
        return cls(named[0] and named[0] | {"id"}, named[1])

    @property
    def is_whole(self) -> bool:
        return not self.fields and not self.expand

    def of(self, rows: Sequence[Shown]) -> tuple[list[Shown], set[str]]:
        """Return what is shown of the rows, and the ids of items that are part of it.

        In place of the id of another item its summary is shown, which is bounded: up to
        500 links of each of 500 items are.
        """
        if self.is_whole:
            return list(rows), set()
        shown = [
            {n: v for n, v in row.items() if not self.fields or n in self.fields}
            for row in rows
        ]
        named = {str(target) for row in shown for target in self._targets(row)}
        found = Item.objects.only(*SUMMARY_COLUMNS).in_bulk(named) if named else {}
        summaries = {pk: item.summary() for pk, item in found.items()}
        for row in shown:
            self._expand(row, summaries)
        return shown, named

    def _targets(self, row: Shown) -> Iterator[int | str]:
        for name in self.expand & row.keys():
            if name == "links":
                yield from (link["target"] for link in row[name])
            elif row[name] is not None:
                yield row[name]

    def _expand(self, row: Shown, summaries: dict[str, Shown]) -> None:
        """An item that was deleted just now is left out: so was what refers to it."""
        for name in self.expand & row.keys():
            if name == "links":
                row[name] = [
                    link | {"target": summaries[str(link["target"])]}
                    for link in row[name]
                    if str(link["target"]) in summaries
                ]
            else:
                row[name] = summaries.get(str(row[name]))


def _names(values: Sequence[str]) -> list[str]:
    """Return the names in values such as `code,name`."""
    parts = (part.strip() for value in values for part in value.split(","))
    return [part for part in dict.fromkeys(parts) if part]
