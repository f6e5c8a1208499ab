"""What the columns of a file are: what the form offers and suggests, and remembers."""

import re
from collections.abc import Iterable, Mapping, Sequence

from django.conf.locale import LANG_INFO

from items import fields
from items.collections.schema import AttributeSchema, compile_schema
from items.imports import columns
from items.imports.columns import REJECT_COLUMNS
from items.models import Collection, ImportMapping, Item

# Languages that are always offered, beside those that the collection has.
LANGUAGES = ["ar", "de", "en", "es", "fr", "it", "ja", "nl", "pl", "pt", "ru", "zh"]
SAMPLE = 200
NO_SCHEMA = compile_schema({})
_LANGUAGE = re.compile(
    r"(?:label|name|title)s?[ ._:(-]+([a-z]{2,3}(?:-[a-z]{2,4})?)\)?"
)

type Choices = list[tuple[str, str | list[tuple[str, str]]]]


class ColumnTargets:
    """What a column can be for a collection; without one, fields and labels alone."""

    def __init__(self, key: str, header: Iterable[str] = ()) -> None:
        collection = Collection.objects.filter(pk=key).first() if key else None
        self.schema: AttributeSchema = (
            collection.attributes if collection else NO_SCHEMA
        )
        self.titles = {name: self.schema.title(name) for name in self.schema.properties}
        self._remembered = remembered(key)
        self._languages = dict.fromkeys(LANGUAGES)
        for labels in (
            Item.objects.filter(collection=key)
            .order_by("sort_key", "pk")
            .values_list("labels", flat=True)[: SAMPLE if key else 0]
        ):
            self._languages |= dict.fromkeys(labels)
        for name in header:
            field, _, member = self.suggest(name).partition(".")
            if field == "labels":
                self._languages[member] = None
            elif field == "attributes":
                self.titles.setdefault(member, member)

    def suggest(self, column: str) -> str:
        """Return what the column was, or what it probably is; empty: unknown."""
        name = column.strip()
        if name.lower() in self._remembered:
            return self._remembered[name.lower()]
        if found := columns.suggest(name, self.titles):
            return found
        language = _LANGUAGE.fullmatch(name.lower())
        code = language[1] if language else _BY_NAME.get(name.lower(), "")
        return columns.find_field(f"labels.{code}") or "" if code else ""

    def choices(self) -> Choices:
        labels = [
            (f"labels.{tag}", f"Label: {_language_name(tag)}")
            for tag in sorted(self._languages)
        ]
        attributes = [
            (f"attributes.{name}", title) for name, title in self.titles.items()
        ]
        others = [(name, name) for name in (*fields.READ_ONLY, *REJECT_COLUMNS)]
        groups: Choices = [
            ("Fields", [(field.name, field.label) for field in fields.FIELDS]),
            ("Attributes", attributes),
            ("Labels", labels),
            ("Of exports and rejected rows", others),
        ]
        return [(name, found) for name, found in groups if found]

    def label(self, target: str) -> str:
        """Return the name for people of a field or a member of one."""
        field, _, member = target.partition(".")
        if not member:
            return next((f.label for f in fields.FIELDS if f.name == field), field)
        if field == "labels":
            return f"Label: {_language_name(member)}"
        return self.titles.get(member, member)


def _language_name(tag: str) -> str:
    known = LANG_INFO.get(tag.lower(), {}).get("name")
    return f"{known} ({tag})" if known else tag


def remembered(key: str) -> Mapping[str, str]:
    """Return what columns of this collection's files were; by names in lower case."""
    found = ImportMapping.objects.filter(collection=key).first() if key else None
    return found.columns if found else {}


def remembered_columns(key: str, header: Sequence[str]) -> dict[str, str]:
    """Return what these columns were in an earlier file of the collection."""
    known = remembered(key)
    return {name: known[name.lower()] for name in header if name.lower() in known}


def remember(key: str, header: Sequence[str], chosen: Mapping[str, str]) -> None:
    """Keep what was chosen for columns whose names do not say it."""
    found = {name.strip().lower(): to for name, to in chosen.items() if name in header}
    if key and found:
        kept = list((found | {**remembered(key), **found}).items())
        ImportMapping.objects.update_or_create(
            collection_id=key,
            defaults={"columns": dict(kept[: ImportMapping.COLUMNS_MAX])},
        )


# Languages by their names, in English and in themselves.
_BY_NAME = {
    str(name).lower(): code
    for code, names in LANG_INFO.items()
    for name in (names.get("name"), names.get("name_local"))
    if name and "-" not in code
}
