"""The query string of every list of items: which items, in which order."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from django.core.cache import cache
from django.db.models import Count
from django.http import QueryDict

from items import filters, relations, rules
from items.fields import FILTERS
from items.filters import Condition
from items.models import Item, ItemQuerySet, ItemTag, Tag
from items.search import REST, by_relevance, can_be_ranked, is_rare, search_words, tiers
from resilient_site.api.keyset import Page, decode_cursor, make_page, paginate, read
from resilient_site.errors import Invalid

# Those that an index supports. A search without one is ordered by relevance.
ORDERINGS = (
    "name", "-name", "id", "-id", "updated_at", "-updated_at", "created_at",
    "-created_at",
)  # fmt: skip
RELEVANCE = "relevance"
SEARCH_MAX = 200
WORDS_MAX = 16
COUNTED_MAX = 10_000
# The parameters of a list, for pages and for REST.
PARAMETERS = (
    "search", *FILTERS, *filters.FILTERS, filters.ANY_ATTRIBUTE, "ordering", "cursor",
)  # fmt: skip

MAX_POPULAR_TAGS = 60
# Counting a large catalogue takes longer than a page may; a minute of delay is fine.
POPULAR_TAGS_TTL_S = 60


@dataclass(frozen=True)
class ListQuery:
    """`search`, the filters and `ordering` of a query string."""

    search: str
    filters: Mapping[str, tuple[str, ...]]
    conditions: tuple[Condition, ...]
    ordering: str
    # Where these are all that the items are filtered by.
    ancestors: tuple[str, ...] = ()

    @classmethod
    def parse(cls, query: QueryDict) -> Self:
        """Raise Invalid with what is wrong, by parameter."""
        errors: dict[str, list[str]] = {}
        search = query.get("search", "").strip()
        if len(search) > SEARCH_MAX or "\0" in search:
            errors["search"] = [f"Must be text of at most {SEARCH_MAX} characters."]
        elif len(search_words(search).split()) > WORDS_MAX:
            errors["search"] = [f"May have at most {WORDS_MAX} words."]
        by_field = {}
        for name, item_field in FILTERS.items():
            try:
                by_field[name] = item_field.parse_filter(query.getlist(name))
            except ValueError as error:
                errors[name] = [str(error)]
        conditions, wrong = filters.parse(query, by_field.get("collection", ()))
        errors |= wrong
        ordering = query.get("ordering") or (RELEVANCE if search else "name")
        if ordering not in (*ORDERINGS, *([RELEVANCE] if search else [])):
            errors["ordering"] = [f"Must be one of {', '.join(ORDERINGS)}."]
        if errors:
            raise Invalid(errors=errors)
        is_alone = len(conditions) == 1 and not search and not any(by_field.values())
        above = filter(None, query.getlist("ancestor") if is_alone else ())
        ancestors = tuple(rules.clean_id(one) for one in above)
        return cls(search, by_field, conditions, ordering, ancestors)

    @property
    def is_filtered(self) -> bool:
        """Return whether it selects by more than the search."""
        return bool(self.conditions) or any(self.filters.values())

    def items(self) -> ItemQuerySet:
        rows = Item.objects.search(self.search).for_reading()
        for name, values in self.filters.items():
            rows = FILTERS[name].filter(rows, values)
        for apply in self.conditions:
            rows = apply(rows)
        return rows

    def total(self) -> int:
        """Return how many items there are, up to COUNTED_MAX."""
        return self.items().order_by()[:COUNTED_MAX].count()

    def page(self, *, cursor: str | None, size: int) -> Page[Item]:
        """Raise Invalid if the cursor belongs to another ordering."""
        items = self.items()
        if self.ordering == RELEVANCE:
            return self._page_by_relevance(items, cursor, size)
        if self.ancestors and "name" in self.ordering:
            items = self._first_below(items, cursor, size)
        return paginate(
            items,
            ordering=self.ordering.replace("name", "sort_key"),
            cursor=cursor,
            size=size,
            sort=self._may_be_rare() and is_rare(items),
        )

    def _first_below(
        self, items: ItemQuerySet, cursor: str | None, size: int
    ) -> ItemQuerySet:
        ordering = self.ordering.replace("name", "sort_key")
        at = decode_cursor(cursor, items, ordering)
        ids = relations.first_below(
            self.ancestors,
            after=at.values if at else None,
            descending=ordering.startswith("-") != (at is not None and at.backwards),
            limit=size + 1,
        )
        return Item.objects.for_reading().filter(pk__in=ids) if ids else items.none()

    def _may_be_rare(self) -> bool:
        """Return whether the items are filtered by what no index has by name."""
        filtered = {name for name, values in self.filters.items() if values}
        if len(self.filters["collection"]) == 1 and "name" in self.ordering:
            filtered.remove("collection")
        return bool(self.search or filtered or self.conditions)

    def _page_by_relevance(
        self, items: ItemQuerySet, cursor: str | None, size: int
    ) -> Page[Item]:
        """Rank all items; or, of many, those that an index finds before the rest.

        A cursor among the rest, or among the ranks that the rest is divided in, stays
        with its way, whatever the planner says by then.
        """
        ranked, ordering = by_relevance(items, self.search), "rank,sort_key"
        at = decode_cursor(cursor, ranked, ordering)
        rank = at.values[0] if at else 0
        is_in_full = rank < REST if rank > 1 else can_be_ranked(items, self.search)
        if is_in_full:
            return paginate(ranked, ordering=ordering, cursor=cursor, size=size)
        backwards = at is not None and at.backwards
        found: list[Item] = []
        by_rank = tiers(items, self.search)
        for tier in sorted(by_rank, reverse=backwards):
            if at and (tier > rank if backwards else tier < rank):
                continue
            found += read(
                by_rank[tier],
                ["sort_key", "id"],
                after=at.values[1:] if at and tier == rank else None,
                descending=backwards,
                limit=size + 1 - len(found),
            )
            if len(found) > size:
                break
        return make_page(found, ordering=ordering, at=at, size=size)


def popular_tags() -> list[tuple[str, int]]:
    """Return the most frequent tags and their counts, at most a minute old."""
    found: list[tuple[str, int]] | None = cache.get_or_set(
        "items:popular-tags", count_tags, POPULAR_TAGS_TTL_S
    )
    return found or []


def count_tags() -> list[tuple[str, int]]:
    """Return the most frequent tags with the number of their items."""
    counted = ItemTag.objects.values_list("tag").annotate(items=Count("*"))
    numbers = dict(counted.order_by("-items", "tag")[:MAX_POPULAR_TAGS])
    names = Tag.objects.in_bulk(list(numbers))
    return [(names[pk].name, n) for pk, n in numbers.items() if pk in names]
