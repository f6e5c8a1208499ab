"""Client of the site that goes on while the site is down: copy this one file.

    python resilient_client.py SITE FILE follow
    python resilient_client.py SITE FILE lookup COLLECTION CODE [LANGUAGE [DAY]]
    python resilient_client.py SITE FILE translate COLLECTION CODE TO
    python resilient_client.py SITE FILE write METHOD PATH [JSON]
    python resilient_client.py SITE FILE writes

SITE is its address, such as http://127.0.0.1:8000; FILE an SQLite file with a copy of
the catalogue and a queue of writes. `follow` keeps the copy equal and sends the queue.
`lookup` and `translate` are answered from the copy, as the site answers a batch.
`write` queues a request, such as `write POST items '{"id": "a", "name": "A"}'`, and
sends what is queued if the site is there. Writes are sent in their order, each is
carried out once, and one that is rejected is kept with its problem: see `writes`.

An API token is in the environment variable TOKEN; in COLLECTION the key of the one
collection that is copied, empty for all. Any of it may be killed and started again,
and several processes may use one file.
"""

import json
import os
import random
import re
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
import unicodedata
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qs, urlencode, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

TABLES = """
    CREATE TABLE IF NOT EXISTS item (
        id TEXT PRIMARY KEY, version INTEGER, collection TEXT, code TEXT, state TEXT);
    CREATE INDEX IF NOT EXISTS item_by_code ON item (collection, code);
    CREATE TABLE IF NOT EXISTS link (item TEXT, relation TEXT, target TEXT);
    CREATE INDEX IF NOT EXISTS link_of_item ON link (item);
    CREATE INDEX IF NOT EXISTS link_by_target ON link (target);
    CREATE TABLE IF NOT EXISTS position (next TEXT);
    CREATE TABLE IF NOT EXISTS write (
        number INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT, method TEXT, path TEXT,
        body TEXT, status INTEGER, answer TEXT);
"""
RELATIONS = ["exactMatch", "closeMatch", "broadMatch", "narrowMatch", "relatedMatch"]
INVERSE = {"broadMatch": "narrowMatch", "narrowMatch": "broadMatch"}
# What is worth another attempt: of 4xx, these alone.
TEMPORARY = {408, 425, 429}
IN_USE = "idempotency_key_in_use"
ATTEMPTS_WAIT_S = 60.0
QUEUE_POLL_S = 0.5

type Json = dict[str, Any]


class Unavailable(Exception):
    """The site is down, or too busy: `after_s` is how long it asks for, if it does."""

    def __init__(self, reason: object, after_s: float = 0) -> None:
        super().__init__(str(reason))
        self.after_s = after_s


class Rejected(Exception):
    """The site does not accept the request: `problem` is why (RFC 9457)."""

    def __init__(self, status: int, problem: Json) -> None:
        super().__init__(f"{status}: {problem.get('detail', '')}")
        self.status, self.problem = status, problem


class Backoff:
    """Waits that become longer with each failure, at random (full jitter)."""

    def __init__(self) -> None:
        self.failures = 0

    def wait(self, error: Unavailable) -> None:
        longest = min(ATTEMPTS_WAIT_S, 0.5 * 2**self.failures)
        self.failures = min(self.failures + 1, 10)
        time.sleep(error.after_s + random.uniform(0, longest))


class Client:
    def __init__(
        self, site: str, file: str, *, token: str = "", collection: str = ""
    ) -> None:
        self.api = site.rstrip("/") + "/api/v1/"
        self.file, self.token, self.collection = file, token, collection
        with self._open() as copy:
            copy.executescript(f"PRAGMA journal_mode = WAL; {TABLES}")

    # --- reads, from the copy alone

    def lookup(
        self, collection: str, code: str, language: str = "", valid_on: str = ""
    ) -> Json:
        """Return what the code means on that day; today (UTC) unless given."""
        day = valid_on or datetime.now(UTC).date().isoformat()
        with self._open() as copy:
            row = _by_code(copy, collection, code)
            if row is None:
                return {"code": code, "found": False}
            chain = _chain(copy, row)
        label, in_language = _label(row, language)
        last = chain[-1]
        successor = {"id": _public(last["id"]), "code": last["code"]}
        successor["label"] = _label(last, language)[0]
        is_in_use = row["status"] in ("active", "deprecated")
        end = row["valid_to"] or (date.max if is_in_use else date.min).isoformat()
        is_inside = (row["valid_from"] or date.min.isoformat()) <= day <= end
        return {
            "code": code,
            "found": True,
            "id": _public(row["id"]),
            "label": label,
            "language": in_language,
            "status": row["status"],
            "valid": row["status"] != "draft" and is_inside,
            "valid_on": day,
            "successor": successor if len(chain) > 1 else None,
        }

    def translate(self, collection: str, code: str, to: str) -> Json:
        """Return the items of the collection `to` that the code is linked with."""
        with self._open() as copy:
            row = _by_code(copy, collection, code)
            if row is None:
                return {"code": code, "found": False}
            links = copy.execute(
                "SELECT relation, target, 0 FROM link WHERE item = ?1"
                " UNION ALL SELECT relation, item, 1 FROM link WHERE target = ?1",
                [row["id"]],
            ).fetchall()
            found = {}
            for relation, other, is_from_there in links:
                relation = (
                    INVERSE.get(relation, relation) if is_from_there else relation
                )
                item = _by_id(copy, other)
                if item and item["collection"] == to:
                    found[relation, other] = item
        order = sorted(found, key=lambda k: (RELATIONS.index(k[0]), found[k]["code"]))
        mappings = [
            {
                "relation": relation,
                "id": _public(other),
                "code": found[relation, other]["code"],
                "collection": to,
                "label": found[relation, other]["name"],
            }
            for relation, other in order
        ]
        identity = {"code": code, "found": True, "id": _public(row["id"])}
        return identity | {"mappings": mappings}

    # --- the copy

    def follow(self) -> None:
        """Keep the copy equal and send what is queued, for ever."""
        threading.Thread(target=self._send_for_ever, daemon=True).start()
        backoff, starts_over = Backoff(), False
        while True:
            try:
                self.update(starts_over=starts_over)
                backoff, starts_over = Backoff(), False
            except Unavailable as error:
                print(error, file=sys.stderr)
                backoff.wait(error)
            except Rejected as error:
                print(error, file=sys.stderr)
                # The position holds no more: an older backup was restored.
                starts_over |= "since" in error.problem.get("errors", {})
                backoff.wait(Unavailable(error))

    def update(self, *, starts_over: bool = False, wait_s: int = 30) -> None:
        """Take a page of changes, or all items if there is no copy yet.

        It is stored in one transaction. Raises Unavailable and Rejected.
        """
        with self._open() as copy:
            row = copy.execute("SELECT next FROM position").fetchone()
        of = parse_qs(urlsplit(row[0]).query).get("collection", [""]) if row else None
        if starts_over or of != [self.collection]:  # or a copy of other items
            self._start_over()
            return
        page = self._get(row[0], Prefer=f"wait={wait_s}")
        with self._open() as copy:
            for change in page["results"]:
                self._put(copy, change["item_id"], change["version"], change["after"])
            _set_position(copy, page["next"])

    def _start_over(self) -> None:
        """Take the export in place of all there is, and the position before it."""
        of = {"collection": self.collection} if self.collection else {}
        query = urlencode({"since": "now"} | of)
        position = self._get(f"changes?{query}")["next"]
        query = urlencode({"format": "ndjson"} | of)
        with tempfile.TemporaryFile() as export, self._open() as copy:
            try:
                shutil.copyfileobj(
                    self._request("GET", f"items/-/export?{query}"), export
                )
            except (OSError, HTTPException) as error:
                raise Unavailable(error) from error
            export.seek(0)
            copy.execute("BEGIN IMMEDIATE")
            copy.execute("DELETE FROM item")
            copy.execute("DELETE FROM link")
            for line in export:
                item = json.loads(line)
                self._put(copy, item["id"], item["version"], item)
            _set_position(copy, position)

    def _put(
        self, copy: sqlite3.Connection, item: object, version: int, state: Json | None
    ) -> None:
        """Store the newer version; of an item that is not here any more only that."""
        pk = str(item)
        if state and self.collection not in ("", state["collection"]):
            state = None  # it was moved to another one
        key, code = (state["collection"], state["code"]) if state else (None, None)
        stored = copy.execute(
            "INSERT INTO item VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
            " version = excluded.version, collection = excluded.collection,"
            " code = excluded.code, state = excluded.state"
            " WHERE excluded.version > version",
            (pk, version, key, code, json.dumps(state) if state else None),
        )
        if stored.rowcount:
            links = state["links"] if state else []
            copy.execute("DELETE FROM link WHERE item = ?", [pk])
            copy.executemany(
                "INSERT INTO link VALUES (?, ?, ?)",
                [(pk, link["relation"], str(link["target"])) for link in links],
            )

    # --- the queue of writes

    def write(self, method: str, path: str, body: Any = None) -> int:
        """Queue a request, such as POST items; return its number."""
        text = None if body is None else json.dumps(body)
        with self._open() as copy:
            added = copy.execute(
                "INSERT INTO write (key, method, path, body) VALUES (?, ?, ?, ?)",
                (str(uuid.uuid4()), method, path, text),
            )
        return int(added.lastrowid or 0)

    def send(self) -> int:
        """Send what is queued, in order; return how many have an answer now.

        Raises Unavailable; what was not answered stays queued, and is sent again with
        its key, within 24 hours.
        """
        sent = 0
        while (row := self._next()) is not None:
            number, key, method, path, body = row
            headers = {"Content-Type": "application/json", "Idempotency-Key": key}
            try:
                response = self._request(method, path, body, **headers)
                status, answer = response.status, response.read().decode()
            except Rejected as error:
                status, answer = error.status, json.dumps(error.problem)
            except (OSError, HTTPException) as error:
                raise Unavailable(error) from error
            with self._open() as copy:
                copy.execute(
                    "UPDATE write SET status = ?, answer = ? WHERE number = ?",
                    (status, answer, number),
                )
            sent += 1
        return sent

    def writes(self) -> Iterator[Json]:
        """Yield all writes: `status` is None while one is queued."""
        with self._open() as copy:
            rows = copy.execute(
                "SELECT number, method, path, status, answer FROM write ORDER BY number"
            ).fetchall()
        for *values, answer in rows:
            shown = dict(
                zip(("number", "method", "path", "status"), values, strict=True)
            )
            yield shown | {"answer": json.loads(answer) if answer else None}

    def _next(self) -> tuple[int, str, str, str, str | None] | None:
        with self._open() as copy:
            found: tuple[int, str, str, str, str | None] | None = copy.execute(
                "SELECT number, key, method, path, body FROM write"
                " WHERE status IS NULL ORDER BY number LIMIT 1"
            ).fetchone()
        return found

    def _send_for_ever(self) -> None:
        backoff = Backoff()
        while True:
            try:
                self.send()
                backoff = Backoff()
                time.sleep(QUEUE_POLL_S)
            except Unavailable as error:
                print(error, file=sys.stderr)
                backoff.wait(error)

    # --- the site and the file

    def _get(self, path: str, **headers: str) -> Json:
        try:
            page: Json = json.load(self._request("GET", path, **headers))
        except (OSError, HTTPException, ValueError) as error:
            raise Unavailable(error) from error
        return page

    def _request(
        self, method: str, path: str, body: str | None = None, **headers: str
    ) -> HTTPResponse:
        """Return the response; raises Unavailable and Rejected."""
        headers = {name.replace("_", "-"): text for name, text in headers.items()}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        url = path if "://" in path else self.api + path
        data = None if body is None else body.encode()
        try:
            response: HTTPResponse = _opener.open(
                Request(url, data, headers, method=method), timeout=90
            )
        except HTTPError as error:
            raise _failure(error) from error
        except (OSError, HTTPException) as error:
            raise Unavailable(error) from error
        return response

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Open the file for one transaction: there may be other processes."""
        copy = sqlite3.connect(self.file, timeout=60)
        try:
            with copy:
                yield copy
        finally:
            copy.close()


class _NoRedirects(HTTPRedirectHandler):
    """Followed, a POST would become a GET, and the token go to another site."""

    def redirect_request(self, *args: Any) -> None:
        return None


_opener = build_opener(_NoRedirects)


def _failure(error: HTTPError) -> Unavailable | Rejected:
    try:
        problem = json.load(error)
    except (OSError, HTTPException, ValueError):
        problem = {}
    if not isinstance(problem, dict):
        problem = {}
    is_final = 400 <= error.code < 500 and error.code not in TEMPORARY
    if is_final and problem.get("code") != IN_USE:
        return Rejected(error.code, problem)
    after = error.headers.get("Retry-After", "")
    return Unavailable(error, float(after) if after.isdecimal() else 0)


def _set_position(copy: sqlite3.Connection, position: str) -> None:
    copy.execute("DELETE FROM position")
    copy.execute("INSERT INTO position VALUES (?)", [position])


def _by_id(copy: sqlite3.Connection, pk: str) -> Json | None:
    row = copy.execute("SELECT state FROM item WHERE id = ?", [pk]).fetchone()
    return json.loads(row[0]) | {"id": pk} if row and row[0] else None


def _by_code(copy: sqlite3.Connection, collection: str, code: str) -> Json | None:
    cleaned = unicodedata.normalize("NFC", code).strip()
    found = copy.execute(
        "SELECT id FROM item WHERE collection = ? AND code = ?", [collection, cleaned]
    ).fetchone()
    return _by_id(copy, found[0]) if found else None


def _chain(copy: sqlite3.Connection, row: Json) -> list[Json]:
    """Return the item and its successors, to the last one."""
    chain = {row["id"]: row}
    while row["replaced_by"] is not None and str(row["replaced_by"]) not in chain:
        after = _by_id(copy, str(row["replaced_by"]))
        if after is None:
            break
        chain[after["id"]] = row = after
    return list(chain.values())


def _label(row: Json, language: str) -> tuple[str, str | None]:
    """Return the label in this language and its tag (RFC 4647, lookup), or the name."""
    labels = {tag.lower(): (text, tag) for tag, text in row["labels"].items()}
    parts = language.strip().lower().split("-")
    while parts:
        if found := labels.get("-".join(parts)):
            return found
        parts.pop()
        if parts and len(parts[-1]) == 1:  # begins an extension, and is no language
            parts.pop()
    return row["name"], None


def _public(pk: str) -> int | str:
    """Return an id as JSON shows it: a whole number is a number."""
    is_number = re.fullmatch(r"0|[1-9][0-9]{0,15}", pk) and int(pk) < 2**53
    return int(pk) if is_number else pk


def main(site: str, file: str, command: str, *given: str) -> None:
    token, key = os.environ.get("TOKEN", ""), os.environ.get("COLLECTION", "")
    client = Client(site, file, token=token, collection=key)
    match command, given:
        case "follow", []:
            client.follow()
        case "lookup", [collection, code, *more] if len(more) <= 2:
            print(json.dumps(client.lookup(collection, code, *more)))
        case "translate", [collection, code, to]:
            print(json.dumps(client.translate(collection, code, to)))
        case "write", [method, path, *body] if len(body) <= 1:
            try:
                number = client.write(method, path, *map(json.loads, body))
            except ValueError as error:
                sys.exit(f"The body is not JSON: {error}")
            try:
                client.send()
            except Unavailable as error:
                print(f"Write {number} is queued. {error}", file=sys.stderr)
            else:
                _print_writes(client, number)
        case "writes", []:
            _print_writes(client)
        case _:
            sys.exit(__doc__)


def _print_writes(client: Client, number: int | None = None) -> None:
    for write in client.writes():
        if number in (None, write["number"]):
            print(json.dumps(write))


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
