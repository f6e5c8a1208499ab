from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.db import connection, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Exists, F, JSONField, OuterRef, Prefetch, Q, Value
from django.db.models.functions import Length, Lower, Now
from django.db.models.lookups import LessThanOrEqual
from django.urls import reverse
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.http import http_date
from uuid_utils.compat import uuid7

from items import fields, rules
from items.changes.transactions import TransactionId, first_open_transaction
from items.collections.schema import AttributeSchema, compile_schema
from items.field_types import ItemField, public_id
from items.search import SORT_KEY_MAX, Code, HasNoMark, matching

EMPTY_OBJECT = Value({}, JSONField())
EMPTY_LIST = Value([], JSONField())
# Less than `rules` asks for, in what both databases understand.
STORED_ID_PATTERN = r"""^[^ "#%/<>?\[\\\]^`{|}]+$"""
STORED_TAG_PATTERN = r"""^[^ "]+( [^ "]+)*$"""


class Versioned:
    """What a conditional request compares (see `resilient_site.api.conditional`)."""

    version: Any
    updated_at: Any

    @property
    def revision(self) -> str:
        """The version and its time: after a restore another may have its number."""
        return f"{self.version}-{int(self.updated_at.timestamp() * 1_000_000):x}"

    @property
    def etag(self) -> str:
        """The entity tag of this revision (RFC 9110, section 8.8.3)."""
        return f'"{self.revision}"'

    @property
    def last_modified(self) -> str | None:
        """The value of Last-Modified; None in the second of the change itself.

        Another change may follow in that second: the date would stand for both states.
        """
        seconds = int(self.updated_at.timestamp())
        return http_date(seconds) if seconds < int(time.time()) else None


class Tag(Versioned, models.Model):
    """Words that group items; another name is an edit of each (`items.tags`)."""

    name = models.CharField(max_length=rules.TAG_MAX, unique=True)
    description = models.CharField(max_length=rules.TAG_DESCRIPTION_MAX, blank=True)
    # Defaults of the database, as imports and the release before name neither.
    version = models.PositiveIntegerField(default=1, db_default=1, editable=False)
    updated_at = models.DateTimeField(
        default=timezone.now, db_default=Now(), editable=False
    )

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(name__regex=STORED_TAG_PATTERN), name="tag_name_pattern"
            ),
        ]

    def __str__(self) -> str:
        return self.name


class Collection(Versioned, models.Model):
    """A code list: its items, and the schema of their attributes."""

    key = models.CharField(primary_key=True, max_length=rules.KEY_MAX)
    name = models.CharField(max_length=rules.NAME_MAX)
    description = models.TextField(blank=True)
    # JSON Schema, see items.collections.schema; and one that is to take its place,
    # while it is made sure that the items conform to it. Writes conform to both.
    schema = models.JSONField(default=dict, blank=True)
    next_schema = models.JSONField(null=True, editable=False)
    source = models.CharField(max_length=500, blank=True)
    licence = models.CharField(max_length=200, blank=True)
    version = models.PositiveIntegerField(default=1, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(key__regex=rules.KEY_PATTERN), name="collection_key_pattern"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    # Kept, as they are asked for at each item of a batch.
    @cached_property
    def attributes(self) -> AttributeSchema:
        return compile_schema(self.schema)

    @cached_property
    def next_attributes(self) -> AttributeSchema | None:
        return None if self.next_schema is None else compile_schema(self.next_schema)

    @cached_property
    def schemas(self) -> list[AttributeSchema]:
        """The schemas that a write has to conform to."""
        coming = self.next_attributes
        return [self.attributes, coming] if coming else [self.attributes]

    @cached_property
    def searchable(self) -> list[str]:
        """The names of the attributes that the search looks into, soon or already."""
        names = (name for schema in self.schemas for name in schema.searchable)
        return list(dict.fromkeys(names))


class ItemQuerySet(models.QuerySet["Item"]):
    def search(self, text: str) -> ItemQuerySet:
        """Filter by every word of `text`, in any searched field; or by id or code."""
        return matching(self, text)

    def tagged(self, names: Iterable[str]) -> ItemQuerySet:
        """Filter by all these tags, which are looked up at once.

        Their keys in the query let the planner know how frequent each of them is.
        """
        names = set(names)
        if not names:
            return self
        keys = list(Tag.objects.filter(name__in=names).values_list("pk", flat=True))
        if len(keys) < len(names):
            return self.none()
        rows = self
        for key in keys:
            links = ItemTag.objects.filter(item=OuterRef("pk"), tag=key)
            rows = rows.filter(Exists(links))
        return rows

    def with_codes(self, key: str, codes: Iterable[str]) -> ItemQuerySet:
        """Filter by collection and code, by the index of either kind of them."""
        column = "pk" if key == rules.GENERAL else "code"
        return self.filter(collection=key, **{f"{column}__in": list(codes)})

    def ids_by_place(
        self, places: Iterable[tuple[str, str]]
    ) -> dict[tuple[str, str], str]:
        """Return the ids of the items that have these codes, by collection and code."""
        codes: dict[str, list[str]] = {}
        for key, code in places:
            codes.setdefault(key, []).append(code)
        return {
            (key, code or pk): pk
            for key in codes
            for code, pk in self.with_codes(key, codes[key]).values_list("code", "pk")
        }

    def known_codes(self, key: str, codes: Iterable[str]) -> set[str]:
        """Return those of the codes that items of this collection have."""
        column = "pk" if key == rules.GENERAL else "code"
        return set(self.with_codes(key, codes).values_list(column, flat=True))

    def keep_codes(self, key: str, codes: Iterable[str]) -> set[str]:
        """Return the same, and let no one take them away until the transaction ends.

        Others may go on changing the items: the lock is that of a foreign key.
        """
        if connection.vendor != "postgresql":
            return self.known_codes(key, codes)
        column = "pk" if key == rules.GENERAL else "code"
        rows = self.with_codes(key, codes).order_by("pk").values_list(column)
        sql, params = rows.query.sql_with_params()
        with connection.cursor() as cursor:
            cursor.execute(f"{sql} FOR KEY SHARE", params)
            return {code for (code,) in cursor}

    def for_reading(self) -> ItemQuerySet:
        """Fetch what readers see: with the tags, without the search text."""
        tags = Prefetch("tags", to_attr="loaded_tags")
        return self.defer("search_text").prefetch_related(tags)


class CodePointField(models.CharField):  # type: ignore[type-arg]
    """Text that both databases order alike, by its code points."""

    def db_parameters(self, connection: BaseDatabaseWrapper) -> dict[str, str | None]:
        collation = "C" if connection.vendor == "postgresql" else None
        return super().db_parameters(connection) | {"collation": collation}


class Item(Versioned, models.Model):
    """One entry of the catalogue, written only through `items.catalogue`."""

    id = models.CharField(primary_key=True, max_length=rules.ID_MAX)
    # Defaults of the database let the release before this one go on writing, which
    # knows neither collections nor search columns.
    collection = models.ForeignKey(
        Collection,
        on_delete=models.DO_NOTHING,
        related_name="items",
        default=rules.GENERAL,
        db_default=rules.GENERAL,
        db_index=False,
    )
    code = models.CharField(max_length=rules.CODE_MAX, blank=True, db_default="")
    name = models.CharField(max_length=rules.NAME_MAX)
    description = models.TextField(blank=True)
    labels = models.JSONField(default=dict, db_default=EMPTY_OBJECT)
    aliases = models.JSONField(default=list, db_default=EMPTY_LIST)
    attributes = models.JSONField(default=dict, db_default=EMPTY_OBJECT)
    tags = models.ManyToManyField(Tag, through="ItemTag", related_name="items")
    status = models.CharField(
        max_length=10, default=rules.ACTIVE, db_default=rules.ACTIVE
    )
    valid_from = models.DateField(null=True, blank=True)
    valid_to = models.DateField(null=True, blank=True)
    # What is referred to cannot be deleted, see `items.integrity`; the database checks
    # it at the end of the transaction.
    parent = models.ForeignKey(
        "self",
        on_delete=models.DO_NOTHING,
        related_name="children",
        null=True,
        db_index=False,
    )
    replaced_by = models.ForeignKey(
        "self",
        on_delete=models.DO_NOTHING,
        related_name="replaces",
        null=True,
        db_index=False,
    )
    # Relations to other items, which ItemLink has in rows.
    links = models.JSONField(default=list, db_default=EMPTY_LIST)
    version = models.PositiveIntegerField(default=1)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(default=timezone.now, editable=False)
    # Of the searched fields, see items.search.
    search_text = models.TextField(editable=False)
    sort_key = CodePointField(max_length=SORT_KEY_MAX, editable=False, db_default="")

    objects = ItemQuerySet.as_manager()

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(id__regex=STORED_ID_PATTERN), name="item_id_pattern"
            ),
            models.UniqueConstraint(
                fields=["collection", "code"],
                condition=~Q(collection=rules.GENERAL),
                name="item_code_once",
            ),
            models.CheckConstraint(
                condition=~Q(collection=rules.GENERAL) | Q(code__in=["", F("id")]),
                name="item_code_in_general",
            ),
            models.CheckConstraint(
                condition=Q(status__in=rules.STATUSES), name="item_status"
            ),
            models.CheckConstraint(
                condition=Q(valid_from__isnull=True)
                | Q(valid_to__isnull=True)
                | Q(valid_from__lte=F("valid_to")),
                name="item_validity",
            ),
            models.CheckConstraint(condition=~Q(name=""), name="item_has_name"),
            models.CheckConstraint(
                condition=LessThanOrEqual(Length("name"), rules.NAME_MAX),
                name="item_name_length",
            ),
            models.CheckConstraint(
                condition=LessThanOrEqual(Length("description"), rules.DESCRIPTION_MAX),
                name="item_description_length",
            ),
            models.CheckConstraint(condition=Q(version__gte=1), name="item_version"),
        ]
        indexes = [
            models.Index(fields=["sort_key", "id"], name="item_by_sort_key"),
            models.Index(
                fields=["collection", "sort_key", "id"], name="item_by_collection"
            ),
            models.Index(Code("id"), name="item_by_code"),
            models.Index(Lower("code"), name="item_by_own_code"),
            models.Index(
                fields=["parent", "sort_key", "id"],
                condition=Q(parent__isnull=False),
                name="item_by_parent",
            ),
            models.Index(
                fields=["replaced_by"],
                condition=Q(replaced_by__isnull=False),
                name="item_by_successor",
            ),
            # Most items are active, which no index finds faster.
            models.Index(
                fields=["status", "sort_key", "id"],
                condition=~Q(status=rules.ACTIVE),
                name="item_by_status",
            ),
            models.Index(fields=["created_at", "id"], name="item_by_creation"),
            models.Index(fields=["updated_at", "id"], name="item_by_update"),
            # What an earlier release wrote, which is usually nothing.
            models.Index(
                fields=["id"],
                condition=Q(HasNoMark("search_text")),
                name="item_by_old_search",
            ),
            # And an index for the search: see the migrations.
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.id})"

    def get_absolute_url(self) -> str:
        return reverse("items:detail", args=[self.id])

    def tag_names(self) -> list[str]:
        tags = self.__dict__.get("loaded_tags")  # see set_loaded_tags
        return sorted(tag.name for tag in (self.tags.all() if tags is None else tags))

    def set_loaded_tags(self, tags: list[Tag]) -> None:
        """Save the query for tags that are known."""
        self.__dict__["loaded_tags"] = tags

    def state(self) -> fields.ItemData:
        """Return the values of the fields that people edit."""
        return {field.name: field.read(self) for field in fields.STATE_FIELDS}

    def summary(self) -> dict[str, Any]:
        """Return what REST shows of an item that another one refers to."""
        state = {f.name: f.public(f.read(self)) for f in fields.SUMMARY_FIELDS}
        return {"id": public_id(self.pk)} | state

    def as_json(self) -> dict[str, Any]:
        """Return the item as REST and NDJSON show it."""
        return {
            "id": public_id(self.pk),
            **{f.name: f.public(f.read(self)) for f in fields.STATE_FIELDS},
            **{name: getattr(self, name) for name in fields.READ_ONLY},
        }


class ItemTag(models.Model):
    item = models.ForeignKey(Item, on_delete=models.CASCADE, db_index=False)
    # A tag in use cannot be deleted without an entry in the change log.
    tag = models.ForeignKey(Tag, on_delete=models.PROTECT, db_index=False)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["item", "tag"], name="itemtag_once"),
        ]
        indexes = [models.Index(fields=["tag", "item"], name="itemtag_by_tag")]

    def __str__(self) -> str:
        return f"{self.item_id} has tag {self.tag_id}"


class ItemLink(models.Model):
    """A link of an item, to be found from its target."""

    item = models.ForeignKey(
        Item, on_delete=models.CASCADE, related_name="+", db_index=False
    )
    relation = models.CharField(max_length=12)
    target = models.ForeignKey(
        Item, on_delete=models.DO_NOTHING, related_name="+", db_index=False
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["item", "relation", "target"], name="itemlink_once"
            ),
        ]
        indexes = [
            models.Index(fields=["target", "relation"], name="itemlink_by_target"),
        ]

    def __str__(self) -> str:
        return f"{self.item_id} {self.relation} {self.target_id}"


class ItemChangeQuerySet(models.QuerySet["ItemChange"]):
    def settled(self) -> ItemChangeQuerySet:
        """Filter by what no later commit can precede, in the order of the feed.

        A transaction is numbered before it waits for an item that another one is
        changing, so versions of one item may come out of order.
        """
        rows = self.order_by("transaction", "id")
        horizon = first_open_transaction()
        return rows if horizon is None else rows.filter(transaction__lt=horizon)


class ItemChange(models.Model):
    """Entry of the change log: one edit of one item.

    Versions of an id continue after a deletion, so `(item_id, version)` identifies
    one state for ever. There is no foreign key: a history outlives its item.
    """

    class Action(models.TextChoices):
        CREATED = "created"
        UPDATED = "updated"
        DELETED = "deleted"
        # Its contents, and those of all changes before, were removed for good.
        PURGED = "purged"

    id = models.BigAutoField(primary_key=True)
    transaction = models.BigIntegerField(db_default=TransactionId(), editable=False)
    item_id = models.CharField(max_length=rules.ID_MAX)
    version = models.PositiveIntegerField()
    action = models.CharField(max_length=7, choices=Action)
    before = models.JSONField(null=True)
    after = models.JSONField(null=True)
    at = models.DateTimeField(default=timezone.now)
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        related_name="+",
        db_index=False,
    )
    # Survives the account; of a command it is the command's name.
    actor_name = models.CharField(max_length=150)
    # The site's own, and the one that the client offered, if any: a client can offer
    # the id of another's request. The default lets an earlier release write.
    request_id = models.CharField(max_length=64, blank=True)
    client_request_id = models.CharField(
        max_length=64, blank=True, default="", db_default=""
    )
    # The id of the ChangeBatch that it was made in, if any; no key, as a history
    # outlives its batch.
    batch = models.UUIDField(null=True, editable=False)

    objects = ItemChangeQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["item_id", "version"], name="itemchange_once_per_version"
            ),
            models.CheckConstraint(
                condition=Q(action="created", before__isnull=True)
                | Q(action="updated")
                | Q(action="deleted", after__isnull=True)
                | Q(action="purged", before__isnull=True, after__isnull=True),
                name="itemchange_states",
            ),
        ]
        indexes = [
            models.Index(fields=["transaction", "id"], name="itemchange_by_commit"),
            models.Index(
                fields=["id"], condition=Q(action="deleted"), name="itemchange_deletion"
            ),
            models.Index(
                fields=["batch", "id"],
                condition=Q(batch__isnull=False),
                name="itemchange_by_batch",
            ),
        ]
        permissions = [("purge_item", "Can remove the contents of items for good")]

    def __str__(self) -> str:
        return f"{self.item_id} v{self.version} {self.action} by {self.actor_name}"

    @property
    def is_purged(self) -> bool:
        """Whether its contents were removed for good."""
        return self.before is None and self.after is None

    @property
    def name(self) -> str:
        """The name of the item after the change, or before its deletion."""
        return str((self.after or self.before or {}).get("name", self.item_id))

    def differences(self) -> list[tuple[ItemField, Any, Any]]:
        """Return each field that the change touched, as shown before and after."""
        before, after = self.before or {}, self.after or {}
        return [
            (
                field,
                field.shown(before.get(field.name)),
                field.shown(after.get(field.name)),
            )
            for field in fields.STATE_FIELDS
            if (before.get(field.name) or field.empty())
            != (after.get(field.name) or field.empty())
        ]


class ChangeBatch(models.Model):
    """Changes of many items that were made together, and are undone together.

    The counts are those of its entries in the change log, and are written with them.
    """

    class Kind(models.TextChoices):
        IMPORT = "import"
        BULK = "bulk"
        JOB = "job"
        UNDO = "undo"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    kind = models.CharField(max_length=6, choices=Kind)
    # What it was, for people: the name of a file, or what a job did.
    title = models.CharField(max_length=255)
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        related_name="+",
        db_index=False,
    )
    actor_name = models.CharField(max_length=150)
    started_at = models.DateTimeField(default=timezone.now)
    # None: it goes on, or was interrupted.
    finished_at = models.DateTimeField(null=True)
    created = models.BigIntegerField(default=0)
    updated = models.BigIntegerField(default=0)
    deleted = models.BigIntegerField(default=0)
    # Of an undo: what it has undone, or a part of it.
    undoes = models.ForeignKey(
        "self", on_delete=models.SET_NULL, null=True, related_name="undone_by"
    )
    # Of an undo in portions: its changes with this id and higher ones are undone.
    position = models.BigIntegerField(null=True, editable=False)
    # Whether it has been undone, and that undo not been undone itself.
    undone = models.BooleanField(default=False, db_default=False, editable=False)

    class Meta:
        default_permissions = ()
        indexes = [models.Index(fields=["started_at", "id"], name="changebatch_latest")]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} {self.title} by {self.actor_name}"

    @property
    def changes(self) -> int:
        """How many entries of the change log it has."""
        return self.created + self.updated + self.deleted

    def changes_in_log(self) -> ItemChangeQuerySet:
        return ItemChange.objects.filter(batch=self.pk)


ERROR_MAX = 500


class ImportRun(models.Model):
    """Import of one file: its progress and its result.

    Position and counts are written in the transaction of their batch, so that an
    interrupted run continues exactly where it stopped.
    """

    class State(models.TextChoices):
        PREVIEWED = "previewed"
        RUNNING = "running"
        DONE = "done"
        # The file is damaged: what is before that place is in.
        FAILED = "failed"

    id = models.UUIDField(primary_key=True)
    source = models.CharField(max_length=255)
    path = models.CharField(max_length=1000)
    fingerprint = models.CharField(max_length=64)
    size = models.BigIntegerField(default=0)
    state = models.CharField(max_length=9, choices=State, default=State.RUNNING)
    offset = models.BigIntegerField(default=0)
    line = models.BigIntegerField(default=0)
    created = models.BigIntegerField(default=0)
    updated = models.BigIntegerField(default=0)
    unchanged = models.BigIntegerField(default=0)
    rejected = models.BigIntegerField(default=0)
    rejects_size = models.BigIntegerField(default=0)
    # Rejected rows of which it is not known which items they are of.
    unidentified = models.BigIntegerField(default=0, db_default=0)
    # Items of the collection that no row is of, and what became of them.
    missing = models.BigIntegerField(default=0, db_default=0)
    retired = models.BigIntegerField(default=0, db_default=0)
    deleted = models.BigIntegerField(default=0, db_default=0)
    # Where it is among these, see items.imports.missing; None: before them.
    sweep = models.JSONField(null=True)
    preview = models.JSONField(null=True)
    # Identifies the latest preview: an earlier one that still runs has another.
    preview_key = models.UUIDField(null=True, editable=False)
    # How the file is read: see items.imports.formats.FileFormat.
    format = models.JSONField(null=True)
    error = models.CharField(max_length=ERROR_MAX, blank=True, db_default="")
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, null=True, related_name="+"
    )
    started_at = models.DateTimeField(default=timezone.now)
    finished_at = models.DateTimeField(null=True)
    # None: begun by an earlier release, or not yet.
    batch = models.ForeignKey(
        ChangeBatch, on_delete=models.SET_NULL, null=True, related_name="+"
    )

    class Meta:
        indexes = [
            models.Index(
                fields=["fingerprint", "started_at"], name="importrun_of_file"
            ),
            models.Index(
                fields=["started_at"],
                condition=Q(preview__isnull=False),
                name="importrun_of_page",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.source}: {self.state} at line {self.line}"

    @property
    def percent(self) -> int:
        """How much of the file is imported; of a compressed one, by its preview."""
        return min(100, self.offset * 100 // self.size) if self.size else 0


class ImportFile(models.Model):
    """A file of an import, stored where every machine can read it."""

    class Kind(models.TextChoices):
        UPLOAD = "upload"
        # The same written out as lines: see `imports.uploads`.
        LINES = "lines"
        REJECTS = "rejects"

    run = models.ForeignKey(
        ImportRun, on_delete=models.CASCADE, related_name="files", db_index=False
    )
    kind = models.CharField(max_length=7, choices=Kind)
    size = models.BigIntegerField(default=0)
    # Files of interrupted requests stay incomplete, and are deleted with the run.
    complete = models.BooleanField(default=False)
    # Its name in the storage of files; "": the content is in the database.
    location = models.CharField(max_length=200, blank=True, default="", db_default="")

    class Meta:
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(
                fields=["run", "kind"],
                condition=Q(complete=True),
                name="importfile_once",
            ),
        ]
        indexes = [models.Index(fields=["run"], name="importfile_of_run")]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} of {self.run_id}"


class ImportFileChunk(models.Model):
    file = models.ForeignKey(
        ImportFile, on_delete=models.CASCADE, related_name="chunks", db_index=False
    )
    offset = models.BigIntegerField()
    data = models.BinaryField()

    class Meta:
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(
                fields=["file", "offset"], name="importfilechunk_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.file_id} from {self.offset}"


class PreviewRow(models.Model):
    """Row of the preview of an import: what would happen to one item, or a reject."""

    class Kind(models.TextChoices):
        NEW = "new"
        CHANGED = "changed"
        UNCHANGED = "unchanged"
        REJECTED = "rejected"
        MISSING = "missing"  # from the file

    run = models.ForeignKey(
        ImportRun, on_delete=models.CASCADE, related_name="rows", db_index=False
    )
    # The key of the preview: that of its run, unless it is still being made.
    preview = models.UUIDField()
    kind = models.CharField(max_length=9, choices=Kind)
    # From 1 on, of each kind.
    number = models.PositiveIntegerField()
    line = models.BigIntegerField(null=True)
    # As the file has it, if the row was rejected.
    item_id = models.CharField(max_length=rules.ID_MAX, blank=True)
    name = models.CharField(max_length=rules.NAME_MAX, blank=True)
    # Triples of field, old and new text.
    cells = models.JSONField(default=list)
    # Of a reject: why, and the row as it stands in the file.
    reason = models.TextField(blank=True)
    text = models.TextField(blank=True)

    class Meta:
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(
                fields=["run", "preview", "kind", "number"], name="previewrow_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} {self.number} of {self.run_id}"


class ImportMapping(models.Model):
    """What the columns of a collection's files are, as it was chosen last."""

    COLUMNS_MAX = 500

    collection = models.OneToOneField(
        Collection,
        on_delete=models.CASCADE,
        primary_key=True,
        related_name="+",
        db_constraint=False,  # the release before deletes collections without it
    )
    # Column of a file, in lower case, to field; to nothing: it is left out.
    columns = models.JSONField(default=dict)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"Columns of files of {self.collection_id}"


class DeferredRow(models.Model):
    """Row of an import that refers to what comes later: see `imports.deferral`."""

    run = models.ForeignKey(
        ImportRun, on_delete=models.CASCADE, related_name="+", db_index=False
    )
    # The pass in which it is tried next.
    attempt = models.PositiveSmallIntegerField(default=1)
    line = models.BigIntegerField()
    item_id = models.CharField(max_length=rules.ID_MAX)
    # The collection and code of the item: see `integrity.place_name`.
    place = models.CharField(max_length=rules.KEY_MAX + 1 + rules.CODE_MAX)
    # As JSON: its fields, cleaned, and the row as it stands in the file.
    data = models.TextField()
    source = models.TextField()
    # Whether the item has all of it but its references.
    is_partial = models.BooleanField(default=False)

    class Meta:
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(
                fields=["run", "item_id"], name="deferredrow_once_per_item"
            ),
        ]
        indexes = [
            models.Index(fields=["run", "attempt", "line"], name="deferredrow_by_pass"),
            models.Index(fields=["run", "place"], name="deferredrow_by_place"),
        ]

    def __str__(self) -> str:
        return f"Line {self.line} of {self.run_id}"


class EventRelay(models.Model):
    """State of the publishing of events: position in the change log, and the lease.

    There is one row. The position is written when the broker has confirmed everything
    up to it. The relay that holds the lease has to renew it, or another one takes over.
    """

    ONLY = 1

    id = models.SmallIntegerField(primary_key=True, default=ONLY)
    transaction = models.BigIntegerField(default=0)
    change = models.BigIntegerField(default=0)
    # Ids of changes after the position that are published already.
    ahead = models.JSONField(default=list)
    holder = models.CharField(max_length=100, blank=True)
    held_until = models.DateTimeField(null=True)
    # Why the broker did not take the last events; empty if it did.
    trouble = models.CharField(max_length=200, blank=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"Published up to change {self.change}"

    @property
    def position(self) -> tuple[int, int]:
        return self.transaction, self.change
