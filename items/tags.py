"""The tags that lists offer as filters, with the number of their items."""

from django.core.cache import cache

from items.models import Tag

SHOWN = 60
# Counting a large catalogue takes longer than a page may; a minute late is no harm.
KEPT_S = 60


def popular_tags() -> list[tuple[str, int]]:
    """Return the most frequent tags and their counts, at most a minute old."""
    found: list[tuple[str, int]] | None = cache.get("items:popular-tags")
    if found is None:
        found = Tag.objects.popular(SHOWN)
        cache.set("items:popular-tags", found, KEPT_S)
    return found
