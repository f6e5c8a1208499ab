"""What an item may be: the one set of rules for REST, forms and imports.

Each `clean_*` function returns the value as it will be stored, or raises ValueError
with a sentence for the person who sent it. Cleaning what was cleaned changes
nothing, so that an export can be imported again.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, NotRequired, TypedDict, cast

ID_MAX = 100
NAME_MAX = 200
DESCRIPTION_MAX = 10_000
TAG_MAX = 50
TAGS_MAX = 30

ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:+~@-]*$"
TAG_PATTERN = r"^[a-z0-9][a-z0-9._:+-]*$"
# Addresses beside `items/{id}`.
RESERVED_IDS = ("bulk", "changes", "export", "import", "new")

# The largest integer that every JSON reader keeps exact (RFC 8259, section 6).
INTEGER_MAX = 2**53 - 1

_is_id = re.compile(ID_PATTERN.removesuffix("$")).fullmatch
_is_tag = re.compile(TAG_PATTERN.removesuffix("$")).fullmatch
_has_controls = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]").search
_is_integer = re.compile(r"0|[1-9][0-9]{0,15}").fullmatch


class ItemData(TypedDict):
    """An item as people write it; what is absent stays as it is."""

    id: NotRequired[str]
    name: NotRequired[str]
    description: NotRequired[str]
    tags: NotRequired[list[str]]


class Unclean(ValueError):
    """Some fields break the rules: field name to messages."""

    def __init__(self, errors: Mapping[str, list[str]]) -> None:
        self.errors = errors
        super().__init__("; ".join(f"{f}: {' '.join(m)}" for f, m in errors.items()))


def clean_id(value: object) -> str:
    """Accept text or a number; both `7` and `"7"` name the item "7"."""
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value <= INTEGER_MAX:
            raise ValueError(f"A number must lie between 0 and {INTEGER_MAX}.")
        value = str(value)
    if not isinstance(value, str):
        raise ValueError("Must be text or a whole number.")
    value = value.strip()
    if len(value) > ID_MAX:
        raise ValueError(f"May have at most {ID_MAX} characters.")
    if not is_id(value):
        raise ValueError(
            "May have letters A-Z, digits and . _ : + ~ @ - and must begin with a "
            "letter or a digit."
        )
    if value in RESERVED_IDS:
        raise ValueError(f"“{value}” is an address of the site. Choose another id.")
    return value


def is_id(text: str) -> bool:
    """Tell whether an item may have this id at all."""
    return len(text) <= ID_MAX and _is_id(text) is not None


def clean_name(value: object) -> str:
    name = _text(value).strip()
    if not name:
        raise ValueError("Must not be empty.")
    if len(name) > NAME_MAX:
        raise ValueError(f"May have at most {NAME_MAX} characters.")
    if not name.isascii() and not any(map(str.isprintable, name.replace(" ", ""))):
        raise ValueError("Must have a character that can be seen.")
    if _has_controls(name):
        raise ValueError("Must be one line without control characters.")
    return name


def clean_description(value: object) -> str:
    # Forms send line ends as CR LF (HTML, form submission); one kind is stored.
    description = _text(value)
    if "\r" in description:
        description = description.replace("\r\n", "\n").replace("\r", "\n")
    if len(description) > DESCRIPTION_MAX:
        raise ValueError(f"May have at most {DESCRIPTION_MAX} characters.")
    return description


def clean_tags(value: object) -> list[str]:
    """Accept a list, or text with spaces or commas between; sorted, without doubles."""
    if isinstance(value, str):
        value = value.replace(",", " ").split()
    if not isinstance(value, Iterable) or isinstance(value, Mapping | bytes):
        raise ValueError("Must be a list of tags.")
    tags = sorted({clean_tag(tag) for tag in value})
    if len(tags) > TAGS_MAX:
        raise ValueError(f"An item may have at most {TAGS_MAX} tags.")
    return tags


def clean_tag(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("A tag is text.")
    tag = value.strip().lower()
    if len(tag) > TAG_MAX:
        raise ValueError(f"A tag may have at most {TAG_MAX} characters.")
    if not _is_tag(tag):
        raise ValueError(
            f"“{tag}” is not a tag: letters a-z, digits and . _ : + - without spaces."
        )
    return tag


_cleaners = {
    "id": clean_id,
    "name": clean_name,
    "description": clean_description,
    "tags": clean_tags,
}


def clean(raw: Mapping[str, Any], *, partial: bool = False) -> ItemData:
    """Return the fields of `raw` cleaned; an empty or null id counts as absent.

    Raises Unclean with every field that breaks a rule, and for a missing name
    unless `partial`.
    """
    cleaned: dict[str, Any] = {}
    errors: dict[str, list[str]] = {}
    for field, cleaner in _cleaners.items():
        if field not in raw:
            continue
        value = raw[field]
        if field == "id" and (value is None or value == ""):
            continue
        try:
            cleaned[field] = cleaner(value)
        except ValueError as error:
            errors[field] = [str(error)]
    if not partial and "name" not in raw:
        errors["name"] = ["This field is required."]
    if errors:
        raise Unclean(errors)
    return cast(ItemData, cleaned)


def public_id(item_id: str) -> int | str:
    """Return the id as JSON shows it: a whole number stays a number."""
    if _is_integer(item_id) and int(item_id) <= INTEGER_MAX:
        return int(item_id)
    return item_id


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("Must be text.")
    if "\0" in value:
        raise ValueError("Must not contain a null character.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError("Must be valid Unicode.") from error
    return value


_ascii_words = {n: " " for n in range(128) if not chr(n).isalnum()} | {
    n: chr(n).lower() for n in range(128) if chr(n).isalnum()
}


def search_words(text: str) -> str:
    """Return the words of `text` in lower case, without accents or punctuation."""
    if text.isascii():
        return " ".join(text.translate(_ascii_words).split())
    # Compatibility caseless matching (Unicode 16, section 3.13, D146).
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFD", text).casefold())
    plain = unicodedata.normalize("NFKD", plain.casefold())
    kept = (
        letter if letter.isalnum() else " "
        for letter in plain
        if not unicodedata.combining(letter)
    )
    return " ".join("".join(kept).split())


def search_text(name: str, description: str) -> str:
    """Return what a search looks in; every word has a space before it."""
    return f" {search_words(name)} {search_words(description)}"
