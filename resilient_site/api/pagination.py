"""Query parameters of a paginated list: the page size."""

import re

from django.http import QueryDict

from resilient_site.errors import Invalid

PAGE_SIZE = 50
PAGE_SIZE_MAX = 500


def parse_small_number(text: str) -> int | None:
    """Return the number that `text` writes, if it is one of at most 9 digits."""
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None


def parse_page_size(query: QueryDict, default: int = PAGE_SIZE) -> int:
    """Return the requested page size; raise Invalid if it is out of bounds."""
    text = query.get("page_size") or str(default)
    size = parse_small_number(text)
    if size is not None and 1 <= size <= PAGE_SIZE_MAX:
        return size
    raise Invalid(
        errors={"page_size": [f"Must be a number from 1 to {PAGE_SIZE_MAX}."]}
    )
