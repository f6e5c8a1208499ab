"""Indexes of attributes: one for each that lists are filtered by, or writes look up.

They are made and dropped after a schema was changed, on PostgreSQL while others write.
`synchronize` compares what there is with what all schemas want, so that the next run
makes up for an interrupted one: `migrate`, any change of a schema, or a job of the task
`change_schema`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256

from django.db import connection
from django.db.models import F, Index, Q

from items.collections.attributes import AttributeValue
from items.models import Collection, Item
from resilient_site.operations import doctor
from resilient_site.postgres.direct import directly

# Of the names; the hash has the number of the definition, for when that changes.
PREFIX = "item_attr_"
DEFINITION = 1
# Of the lock that lets one process at a time make indexes.
LOCK = 0x6974656D61747472
LARGE_INDEX_S = 1_800

VALID = """
    SELECT relname, indisvalid AND indisready
    FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
    WHERE indrelid = 'items_item'::regclass AND starts_with(relname, %s)
"""
NAMES = "SELECT name, 1 FROM sqlite_master WHERE type = 'index' AND name GLOB %s"


def wanted() -> dict[str, tuple[str, str]]:
    """Return collection and attribute by the name of their index."""
    return {
        name_of(collection.key, name): (collection.key, name)
        for collection in Collection.objects.order_by("pk")
        for name in collection.attributes.filterable
        # That of an array would be of the array as a whole.
        if collection.attributes.properties[name]["type"] != "array"
    }


def name_of(key: str, attribute: str) -> str:
    digest = sha256(f"{DEFINITION} {key} {attribute}".encode()).hexdigest()
    return f"{PREFIX}{digest[:16]}"


def _index(key: str, attribute: str) -> Index:
    return Index(
        AttributeValue(attribute, "attributes"),
        F("sort_key"),
        F("id"),
        name=name_of(key, attribute),
        condition=Q(collection=key),
    )


def existing() -> dict[str, bool]:
    """Return the names of those that there are, and whether each is valid."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(VALID, [PREFIX])
        else:
            cursor.execute(NAMES, [f"{PREFIX}*"])
        return {name: bool(is_valid) for name, is_valid in cursor.fetchall()}


def synchronize(limit_s: float = LARGE_INDEX_S) -> int:
    """Make the indexes that are missing, drop what is not wanted; return how many.

    None while another process does so. `limit_s` is for each of them.
    """
    with directly(), _alone() as is_alone:
        if not is_alone:
            return 0
        want, have = wanted(), existing()
        unwanted = [name for name in have if name not in want or not have[name]]
        missing = [_index(*want[name]) for name in want if not have.get(name)]
        if unwanted or missing:
            with _statement_limit(limit_s):
                _change(unwanted, missing)
        return len(unwanted) + len(missing)


def _change(unwanted: list[str], missing: list[Index]) -> None:
    # CONCURRENTLY cannot run in a transaction, and lets others write meanwhile.
    is_postgresql = connection.vendor == "postgresql"
    is_concurrent = is_postgresql and not connection.in_atomic_block
    options = {"concurrently": True} if is_concurrent else {}
    with connection.schema_editor(atomic=False) as editor:
        for name in unwanted:
            concurrently = "CONCURRENTLY " if is_concurrent else ""
            editor.execute(f'DROP INDEX {concurrently}IF EXISTS "{name}"')
        for index in missing:
            editor.add_index(Item, index, **options)


@contextmanager
def _alone() -> Iterator[bool]:
    """Yield whether no other process makes indexes, until the end of the block."""
    if connection.vendor != "postgresql":
        yield True
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [LOCK])
        is_alone = bool(cursor.fetchone()[0])
        try:
            yield is_alone
        finally:
            if is_alone:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [LOCK])


@contextmanager
def _statement_limit(limit_s: float) -> Iterator[None]:
    if connection.vendor != "postgresql":
        yield
        return
    with connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        before = cursor.fetchone()[0]
        cursor.execute("SHOW lock_timeout")
        lock_before = cursor.fetchone()[0]
        set_both = "SELECT set_config('statement_timeout', %s, false), "
        set_both += "set_config('lock_timeout', %s, false)"
        limit = f"{limit_s * 1000:.0f}"
        cursor.execute(set_both, [limit, limit])
        try:
            yield
        finally:
            cursor.execute(set_both, [before, lock_before])


def examine() -> Iterator[doctor.Finding]:
    """Report missing and invalid indexes for `manage.py doctor`."""
    have = existing()
    lacking = {name: of for name, of in wanted().items() if not have.get(name)}
    for name, (key, attribute) in lacking.items():
        state = "invalid" if name in have else "missing"
        yield doctor.warning(
            f"The index of the attribute {attribute} of {key} is {state}.",
            "Run manage.py migrate, which makes it.",
        )
    if not lacking:
        yield doctor.ok("All indexes of attributes are valid.")
