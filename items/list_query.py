"""Which items, in which order: the query string that every list understands."""

from dataclasses import dataclass
from typing import Self

from django.http import QueryDict

from items import rules
from items.models import Item, ItemQuerySet
from items.search import is_rare
from resilient_site.api.keyset import Page, paginate
from resilient_site.errors import Invalid

ORDERINGS = (
    "name", "-name", "id", "-id", "updated_at", "-updated_at", "created_at",
    "-created_at",
)  # fmt: skip
SEARCH_MAX = 200
WORDS_MAX = 16


@dataclass(frozen=True)
class Selection:
    """`search`, any number of `tag`, and `ordering` of a query string."""

    search: str = ""
    tags: tuple[str, ...] = ()
    ordering: str = "name"

    @classmethod
    def parse(cls, query: QueryDict) -> Self:
        """Raise Invalid with what is wrong, by parameter."""
        errors: dict[str, list[str]] = {}
        search = query.get("search", "").strip()
        if len(search) > SEARCH_MAX or "\0" in search:
            errors["search"] = [f"Must be text of at most {SEARCH_MAX} characters."]
        elif len(rules.search_words(search).split()) > WORDS_MAX:
            errors["search"] = [f"May have at most {WORDS_MAX} words."]
        try:
            tags = rules.clean_tags([tag for tag in query.getlist("tag") if tag])
        except ValueError as error:
            errors["tag"], tags = [str(error)], []
        ordering = query.get("ordering") or cls.ordering
        if ordering not in ORDERINGS:
            errors["ordering"] = [f"Must be one of {', '.join(ORDERINGS)}."]
        if errors:
            raise Invalid(errors=errors)
        return cls(search, tuple(tags), ordering)

    def items(self) -> ItemQuerySet:
        return Item.objects.search(self.search).tagged(self.tags).for_reading()

    def page(self, *, cursor: str | None, size: int) -> Page[Item]:
        """Raise Invalid if the cursor belongs to another ordering."""
        items = self.items()
        return paginate(
            items,
            ordering=self.ordering,
            cursor=cursor,
            size=size,
            sort=bool(self.search or self.tags) and is_rare(items),
        )
