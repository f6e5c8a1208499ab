"""Keep a copy of the catalogue in an SQLite file: keep_a_copy.py SITE FILE

SITE is the address of the site, such as http://127.0.0.1:8000. The program may be
stopped and started at any time: position and items are written in one transaction, so
that it resumes where it stopped. Of each item the highest version counts.
"""

import json
import sqlite3
import sys
import time
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

API = sys.argv[1].rstrip("/") + "/api/v1/"
NOT_STATE = {"id", "version", "created_at", "updated_at"}
COPY = sqlite3.connect(sys.argv[2], isolation_level=None)
COPY.executescript("""
    PRAGMA journal_mode = WAL;
    CREATE TABLE IF NOT EXISTS item (id TEXT PRIMARY KEY, version INTEGER, state TEXT);
    CREATE TABLE IF NOT EXISTS position (next TEXT);
""")


def get(address: str, **headers: str) -> Any:
    return urlopen(Request(address, headers=headers), timeout=90)


def put(item_id: object, version: int, state: dict[str, Any] | None) -> None:
    """Store the newer version; of a deleted item only its version."""
    COPY.execute(
        "INSERT INTO item VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE"
        " SET version = excluded.version, state = excluded.state"
        " WHERE excluded.version > version",
        (str(item_id), version, json.dumps(state) if state else None),
    )


def export() -> str:
    """Copy all items; return the position in the change feed before the copy."""
    position = json.load(get(API + "changes?since=now"))["next"]
    for line in get(API + "items/-/export?format=ndjson"):
        item = json.loads(line)
        state = {name: item[name] for name in item.keys() - NOT_STATE}
        put(item["id"], item["version"], state)
    return str(position)


def update() -> None:
    """Take a page of changes, or the whole catalogue at first, in one transaction."""
    row = COPY.execute("SELECT next FROM position").fetchone()
    page = json.load(get(row[0], Prefer="wait=30")) if row else None
    with COPY:
        COPY.execute("BEGIN")
        for change in page["results"] if page else []:
            put(change["item_id"], change["version"], change["after"])
        position = page["next"] if page else export()
        COPY.execute("DELETE FROM position")
        COPY.execute("INSERT INTO position VALUES (?)", [position])


def clear() -> None:
    with COPY:
        COPY.execute("BEGIN")
        COPY.execute("DELETE FROM item")
        COPY.execute("DELETE FROM position")


while True:
    try:
        update()
    except (OSError, HTTPException, ValueError) as error:
        print(error, file=sys.stderr)
        if isinstance(error, HTTPError) and error.code == 400:
            clear()  # the site was restored from an older dump
        time.sleep(1)
