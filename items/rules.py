"""Rules for the values of an item: the one set for REST, forms and imports.

Each `clean_*` function returns the value as it will be stored, or raises ValueError
with a sentence for the person who sent it. Cleaning is idempotent, so that an export
can be imported again. `items.fields` says which rule applies to which field.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sized
from datetime import UTC, date, datetime
from typing import Any

import orjson

ID_MAX = 100
KEY_MAX = 50
CODE_MAX = 100
NAME_MAX = 200
DESCRIPTION_MAX = 10_000
TAG_MAX = 50
TAG_DESCRIPTION_MAX = 200
TAGS_MAX = 30
LABELS_MAX = 200
ALIASES_MAX = 100
LINKS_MAX = 500
ATTRIBUTES_MAX = 200
# Of one value, and of all of them as JSON.
ATTRIBUTE_MAX = 4_000
ATTRIBUTES_MAX_BYTES = 64 * 1024

# A path segment of a URL (RFC 3986, section 3.3: pchar, but no escapes), in which
# letters need not be ASCII. Which characters beyond ASCII, `clean_id` says.
ID_PATTERN = r"""^[^\x00-\x20"#%/<>?\[\\\]^`{|}\x7f]+$"""
KEY_PATTERN = r"^[a-z0-9]+([_-][a-z0-9]+)*$"
# Less than `clean_tag` asks for. In texts, quotes are around a tag with spaces.
TAG_PATTERN = r"""^[^\x00-\x1f"\x7f-\x9f]+$"""
# The beginning of BCP 47: language, script, region, variants.
LANGUAGE_PATTERN = r"^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$"
NAME_PATTERN = r"^[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*$"

# The collection of an item that names none: there the id is the code.
GENERAL = "general"
STATUSES = ("draft", "active", "deprecated", "retired")
ACTIVE, DRAFT, RETIRED = "active", "draft", "retired"
# Of codes that are valid within their days.
IN_USE = ("active", "deprecated")
# The mapping relations of SKOS (W3C, section 10).
RELATIONS = (
    "exactMatch", "closeMatch", "broadMatch", "narrowMatch", "relatedMatch",
)  # fmt: skip

# The largest integer that every JSON reader keeps exact (RFC 8259, section 6).
INTEGER_MAX = 2**53 - 1

_is_id = re.compile(ID_PATTERN.removesuffix("$")).fullmatch
_is_key = re.compile(KEY_PATTERN.removesuffix("$")).fullmatch
_is_language = re.compile(LANGUAGE_PATTERN.removesuffix("$")).fullmatch
_is_attribute_name = re.compile(NAME_PATTERN.removesuffix("$")).fullmatch
# Steps of a path (RFC 3986, section 5.2.4), and where the routes begin that are no ids.
_RESERVED_IDS = (".", "..", "-")
_split_tags = re.compile(r'"([^"]*)"|([^\s,]+)').findall
_needs_quotes = re.compile(r"[\s,]").search
# Zero-width, but part of how words are written, such as those of Persian.
_JOINERS = str.maketrans("", "", "\u200c\u200d")
_has_controls = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]").search


def clean_id(value: object) -> str:
    """Accept text or a number; both `7` and `"7"` name the item "7"."""
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value <= INTEGER_MAX:
            raise ValueError(f"A number must lie between 0 and {INTEGER_MAX}.")
        value = str(value)
    if not isinstance(value, str):
        raise ValueError("Must be text or a whole number.")
    value = unicodedata.normalize("NFC", value.strip())
    if len(value) > ID_MAX:
        raise ValueError(f"May have at most {ID_MAX} characters.")
    if not is_legal_id(value):
        raise ValueError(
            "May have letters, digits and - . _ ~ ! $ & ' ( ) * + , ; = : @ without "
            "spaces."
        )
    return value


def is_legal_id(value: str) -> bool:
    if value in _RESERVED_IDS or not _is_id(value) or len(value) > ID_MAX:
        return False
    return value.isascii() or all(
        letter.isascii() or unicodedata.category(letter)[0] in "LMN" for letter in value
    )


def clean_key(value: object) -> str:
    """Accept the key of a collection: a word of the URL."""
    if not isinstance(value, str):
        raise ValueError("Must be text.")
    key = value.strip()
    if len(key) > KEY_MAX:
        raise ValueError(f"May have at most {KEY_MAX} characters.")
    if not _is_key(key):
        raise ValueError("May have letters a-z and digits, with - or _ between them.")
    return key


def clean_choice(value: Any, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ValueError(f"Must be one of {', '.join(choices)}.")
    return str(value)


def clean_date(value: object) -> date | None:
    """Accept a day as ISO 8601 writes it (2026-12-31), or nothing."""
    if value is None or isinstance(value, date):
        return value
    if not isinstance(value, str):
        raise ValueError("Must be a date.")
    text = value.strip()
    if not text:
        return None
    try:
        if len(text) != len("2026-12-31"):
            raise ValueError
        return date.fromisoformat(text)
    except ValueError as error:
        raise ValueError("Must be a date, such as 2026-12-31.") from error


def clean_time(text: str) -> datetime:
    """Accept a time as RFC 3339 writes it, in UTC if it names no offset."""
    # In a query + stands for a space, and many clients send it as it is.
    text = text.strip().replace(" ", "+") if "T" in text else text
    try:
        at = datetime.fromisoformat(text)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        message = "Must be a time, such as 2026-12-31T23:59:59Z."
        raise ValueError(message) from error


def clean_json(value: object) -> Any:
    """Return what a text from a file or a form says as JSON; None if it is empty."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"Must be JSON: {error}.") from error


def clean_labels(value: object) -> dict[str, str]:
    """Accept names by language tag (RFC 5646); return them in the order of the tags."""
    value = {} if value is None else value
    if not isinstance(value, Mapping):
        raise ValueError("Must be an object of texts by language.")
    labels = {}
    for language, text in value.items():
        if not isinstance(language, str) or not _is_language(language):
            raise ValueError(
                f"“{language}” is not a language tag, such as de or pt-BR."
            )
        try:
            label = clean_line(text, max_length=NAME_MAX, required=False)
        except ValueError as error:
            raise ValueError(f"{language}: {error}") from error
        if label:
            labels[_language_tag(language)] = label
    if len(labels) > LABELS_MAX:
        raise ValueError(f"An item may have at most {LABELS_MAX} labels.")
    return dict(sorted(labels.items()))


def clean_language(value: object) -> str:
    """Accept a language tag; return it as labels have it."""
    if not isinstance(value, str) or not _is_language(value.strip()):
        raise ValueError("Must be a language tag, such as de or pt-BR.")
    return _language_tag(value.strip())


def clean_aliases(value: object) -> list[str]:
    """Accept other names, in their order, each once."""
    value = [] if value is None else value
    if not isinstance(value, list | tuple):
        raise ValueError("Must be a list of texts.")
    lines = (clean_line(text, max_length=NAME_MAX, required=True) for text in value)
    aliases = list(dict.fromkeys(lines))
    if len(aliases) > ALIASES_MAX:
        raise ValueError(f"An item may have at most {ALIASES_MAX} aliases.")
    return aliases


def clean_attributes(value: object) -> dict[str, Any]:
    """Accept values by name; return them in the order of the names, without nulls.

    Which ones an item may have is what the schema of its collection says.
    """
    value = {} if value is None else value
    if not isinstance(value, Mapping):
        raise ValueError("Must be an object of values by name.")
    _expect_few(value)
    attributes = {}
    for name in sorted(value, key=str):
        clean_attribute_name(name)
        try:
            content = clean_attribute(value[name])
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        if content is not None:
            attributes[name] = content
    if attributes:
        _expect_short(attributes)
    return attributes


def merge_attributes(
    kept: Mapping[str, Any], given: Mapping[str, Any], removed: Iterable[str]
) -> dict[str, Any]:
    """Return attributes with others set and removed; both are cleaned already."""
    attributes = {**kept, **given}
    for name in removed:
        attributes.pop(name, None)
    _expect_few(attributes)
    _expect_short(attributes)
    return dict(sorted(attributes.items()))


def _expect_few(attributes: Sized) -> None:
    if len(attributes) > ATTRIBUTES_MAX:
        raise ValueError(f"An item may have at most {ATTRIBUTES_MAX} attributes.")


def _expect_short(attributes: Mapping[str, Any]) -> None:
    if len(orjson.dumps(attributes)) > ATTRIBUTES_MAX_BYTES:
        raise ValueError(f"May have at most {ATTRIBUTES_MAX_BYTES:,} bytes as JSON.")


def clean_attribute_name(name: object) -> str:
    if not isinstance(name, str) or not _is_attribute_name(name):
        raise ValueError(
            f"“{name}” is not a name: letters A-Z and digits, with _ between them."
        )
    return name


def clean_attribute(value: object) -> Any:
    """Accept a value of an attribute: a scalar, a list of them, or None."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, list):
        return [_clean_scalar(one) for one in value]
    return _clean_scalar(value)


def _clean_scalar(value: object) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        if not -INTEGER_MAX <= value <= INTEGER_MAX:  # nor infinite, nor NaN
            raise ValueError(f"Must lie between -{INTEGER_MAX} and {INTEGER_MAX}.")
        is_whole = isinstance(value, float) and value.is_integer()
        return int(value) if is_whole else value
    return clean_text(value, max_length=ATTRIBUTE_MAX)


def clean_links(value: object) -> list[dict[str, str]]:
    """Accept `{relation, target}` objects; return each once, in a fixed order."""
    value = [] if value is None else value
    if not isinstance(value, list | tuple):
        raise ValueError("Must be a list of links.")
    links = set()
    for link in value:
        if not isinstance(link, Mapping) or link.keys() != {"relation", "target"}:
            raise ValueError("A link is an object with a relation and a target.")
        relation = clean_choice(link["relation"], RELATIONS)
        links.add((relation, clean_id(link["target"])))
    if len(links) > LINKS_MAX:
        raise ValueError(f"An item may have at most {LINKS_MAX} links.")
    return [{"relation": kind, "target": target} for kind, target in sorted(links)]


def _language_tag(tag: str) -> str:
    """Return the tag as RFC 5646, section 2.1.1, writes it: zh-Hant-TW."""
    language, *rest = tag.split("-")
    parts = [language.lower()]
    for part in rest:
        if len(parts[-1]) == 1:  # after x, all is lower case
            parts.append(part.lower())
        elif len(part) == 4 and part.isalpha():
            parts.append(part.title())
        else:
            parts.append(part.upper() if len(part) == 2 else part.lower())
    return "-".join(parts)


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
    """Accept a list, or text as `join_tags` writes it; return it sorted.

    In a text, spaces or commas separate tags but between double quotes.
    """
    if isinstance(value, str):
        value = [quoted or word for quoted, word in _split_tags(value)]
    if not isinstance(value, Iterable) or isinstance(value, Mapping | bytes):
        raise ValueError("Must be a list of tags.")
    tags = sorted({clean_tag(tag) for tag in value})
    if len(tags) > TAGS_MAX:
        raise ValueError(f"An item may have at most {TAGS_MAX} tags.")
    return tags


def clean_tag(value: object) -> str:
    """Accept words on one line; return them in lower case, with single spaces."""
    if not isinstance(value, str):
        raise ValueError("A tag is text.")
    tag = fold_tag(value)
    if len(tag) > TAG_MAX:
        raise ValueError(f"A tag may have at most {TAG_MAX} characters.")
    # A slash at an end would be taken for one of the URL's own.
    if (
        _has_controls(value.strip())
        or not tag.translate(_JOINERS).isprintable()
        or not any(map(str.isalnum, tag))
        or '"' in tag
        or tag != tag.strip("/")
    ):
        raise ValueError(
            f"“{tag}” is not a tag: it must have a letter or digit, and neither quotes "
            "nor what cannot be seen, nor a slash at an end."
        )
    return tag


def fold_tag(text: str) -> str:
    return unicodedata.normalize("NFC", " ".join(text.lower().split()))


def join_tags(tags: Iterable[str]) -> str:
    """Return tags as one text: those with spaces or commas between double quotes."""
    return " ".join(f'"{tag}"' if _needs_quotes(tag) else tag for tag in tags)


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
