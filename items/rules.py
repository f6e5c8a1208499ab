"""Rules for the values of an item: the one set for REST, forms and imports.

Each `clean_*` function returns the value as it will be stored, or raises ValueError
with a sentence for the person who sent it. Cleaning is idempotent, so that an export
can be imported again. `items.fields` says which rule applies to which field.
"""

import re
from collections.abc import Iterable, Mapping

ID_MAX = 100
NAME_MAX = 200
DESCRIPTION_MAX = 10_000
TAG_MAX = 50
TAGS_MAX = 30

ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:+~@-]*$"
TAG_PATTERN = r"^[a-z0-9][a-z0-9._:+-]*$"

# The largest integer that every JSON reader keeps exact (RFC 8259, section 6).
INTEGER_MAX = 2**53 - 1

_is_id = re.compile(ID_PATTERN.removesuffix("$")).fullmatch
_is_tag = re.compile(TAG_PATTERN.removesuffix("$")).fullmatch
_has_controls = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]").search


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
    if not _is_id(value):
        raise ValueError(
            "May have letters A-Z, digits and . _ : + ~ @ - and must begin with a "
            "letter or a digit."
        )
    return value


def clean_line(value: object, *, max_length: int, required: bool) -> str:
    """Accept one line of printable text, without spaces around it."""
    line = _clean_unicode(value).strip()
    if required and not line:
        raise ValueError("Must not be empty.")
    if len(line) > max_length:
        raise ValueError(f"May have at most {max_length} characters.")
    if not line.isascii() and not any(map(str.isprintable, line.replace(" ", ""))):
        raise ValueError("Must have a character that can be seen.")
    if _has_controls(line):
        raise ValueError("Must be one line without control characters.")
    return line


def clean_text(value: object, *, max_length: int) -> str:
    """Accept text of any number of lines."""
    # Forms send line ends as CR LF (HTML, form submission); one kind is stored.
    text = _clean_unicode(value)
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if len(text) > max_length:
        raise ValueError(f"May have at most {max_length} characters.")
    return text


def clean_tags(value: object) -> list[str]:
    """Accept a list, or text separated by spaces or commas; return it sorted."""
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


def _clean_unicode(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("Must be text.")
    if "\0" in value:
        raise ValueError("Must not contain a null character.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError("Must be valid Unicode.") from error
    return value
