"""The site's own pages and calls, through the edge."""

import io
import json
from functools import partial
from urllib.parse import urlencode

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError
from django.test import Client

from items import catalogue
from items.bulk import writing
from items.bulk.writing import Rows
from items.changes import health
from items.imports import importing
from items.models import Item, ItemChange
from items.tags import editing
from resilient_site.edge import cors as cors_headers_module
from resilient_site.edge import policy, wsgi_bridge
from resilient_site.edge.admission import Rejected
from resilient_site.edge.cache import grouped_reads
from resilient_site.edge.cache.invalidation import invalidations
from resilient_site.edge.cache.store import ResponseStore, response_store
from resilient_site.health.monitor import health_monitor
from resilient_site.models import ApiToken
from resilient_site.operations import epoch
from tests.factories import TESTER, make_item
from tests.resilient_site.edge.clients import Answer, ask, elsewhere, get, run

pytestmark = [
    pytest.mark.once,
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("no_connection_stays"),
]
ITEM = "/api/v1/items/bolt"
SHARED = [
    ITEM, "/api/v1/items/", "/api/v1/items/?search=bra&page_size=5",
    "/api/v1/items/bolt/history", "/items/", "/items/?tag=metal", "/items/bolt/",
    "/items/-/changes/",
]  # fmt: skip


@pytest.fixture(autouse=True)
def item() -> Item:
    return make_item(id="bolt")


@pytest.fixture
def token(editor) -> str:
    return f"Token {ApiToken.objects.create(user=editor)[1]}"


@pytest.fixture
def session(editor) -> str:
    client = Client()
    client.force_login(editor)
    return f"sessionid={client.cookies['sessionid'].value}"


def revoke_all() -> None:
    for token in ApiToken.objects.all():
        token.delete()


@run
async def test_shared_response_is_fetched_once_and_after_a_change():
    for target in SHARED:
        first = await get(target)
        assert (first.status, "stored" in first.cached) == (200, True), target
        admitted = dict(wsgi_bridge.admission.admitted)
        for method in ("GET", "HEAD"):
            again = await get(target, method)
            assert (again.status, again.is_hit) == (200, True)
            assert again.headers["content-length"] == str(len(first.body))
        assert wsgi_bridge.admission.admitted == admitted  # a hit takes no thread

    await elsewhere(catalogue.update_item, "bolt", {"name": "New"}, actor=TESTER)
    for target in SHARED:
        answer = await get(target)
        assert not answer.is_hit
        assert b"New" in answer.body or "bra" in target


def import_row() -> None:
    run = importing.begin(source="test", path="-", actor=TESTER)
    file = io.BufferedReader(io.BytesIO(b"id,name\nbolt,Written\nnew,Written\n"))
    importing.proceed(run, file, actor=TESTER, rejects=lambda rejects, size: size)


def undo_change() -> None:
    catalogue.undo(ItemChange.objects.latest("id"), actor=TESTER)


LOOKUP = "/api/v1/collections/general/lookup"


async def look_up(*codes: str, authorization: str = "") -> Answer:
    body = json.dumps({"codes": codes}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    headers |= {"authorization": authorization} if authorization else {}
    sent = [(name.encode(), value.encode()) for name, value in headers.items()]
    return await ask(LOOKUP, "POST", sent, [body])


WRITES = {
    "create": partial(make_item, id="new", name="Written"),
    "bulk": partial(
        writing.write, Rows([{"id": "new", "name": "Written"}], writing.CREATE)
    ),
    "update": partial(catalogue.update_item, "bolt", {"name": "Written"}),
    "tag": partial(editing.change_tag, "metal", {"name": "brass"}),
    "merge": partial(catalogue.merge_items, keep="bolt", drop="old"),
    "delete": partial(catalogue.delete_item, "bolt"),
    "admin's delete": partial(catalogue.delete_items, ["bolt"]),
    "undo": undo_change,
    "import": import_row,
}


async def write(name: str) -> None:
    takes_actor = name not in ("create", "undo", "import")
    await elsewhere(WRITES[name], **({"actor": TESTER} if takes_actor else {}))


@run
async def test_lookup_by_token_is_a_cache_hit_once_the_token_is_verified(token):
    first = await look_up("bolt", authorization=token)
    assert (first.status, first.is_hit) == (200, False)
    assert (await look_up("bolt", authorization=token)).is_hit
    assert (await look_up("bolt")).is_hit
    assert (await get(f"{LOOKUP}?code=bolt")).is_hit
    assert (await look_up("bolt", authorization="Token unknown")).status == 401


@pytest.mark.parametrize(
    "name", ["create", "bulk", "update", "delete", "undo", "import"]
)
@run
async def test_every_way_to_write_is_seen_by_lookups_at_once(name):
    """By those of the item, and of a code that was unknown."""
    create = name in ("create", "bulk", "import")
    code = "new" if create else "bolt"
    target = f"{LOOKUP}?code={code}"
    before = await get(target)
    assert before.status == (404 if create else 200)
    assert (await get(target)).is_hit
    assert (await look_up(code)).is_hit
    await write(name)
    after, many = await get(target), await look_up(code)
    assert not after.is_hit
    gone = name in ("delete", "undo")
    assert after.status == (404 if gone else 200)
    [result] = many.json()["results"]
    assert result["found"] is not gone
    assert gone or result["label"] == after.json()["label"] == "Written"


TRANSLATION = "/api/v1/collections/general/translate?code=bolt&to=general"


def link_by_import(relation: str) -> None:
    run = importing.begin(source="test", path="-", actor=TESTER)
    links = json.dumps([{"relation": relation, "target": "bolt"}])
    row = json.dumps({"id": "nut", "links": json.loads(links)})
    file = io.BufferedReader(io.BytesIO(row.encode()))
    importing.proceed(run, file, actor=TESTER, rejects=lambda rejects, size: size)


def link(relation: str) -> None:
    links = [{"relation": relation, "target": "bolt"}]
    catalogue.update_item("nut", {"links": links}, actor=TESTER)


@pytest.mark.parametrize("relate", [link, link_by_import])
@run
async def test_link_is_seen_by_translations_of_its_target_at_once(relate):
    await elsewhere(make_item, id="nut", links=[])
    for relation in ("exactMatch", "broadMatch"):
        while not (await get(TRANSLATION)).is_hit:
            """The invalidation by the last change may come again, over Redis."""
        await elsewhere(relate, relation)
        answer = await get(TRANSLATION)
        [mapping] = answer.json()["mappings"]
        seen = relation.replace("broad", "narrow")  # from the other side
        assert (mapping["relation"], mapping["id"]) == (seen, "nut")


@run
async def test_change_of_an_item_with_any_letters_is_seen_at_once():
    await elsewhere(make_item, id="łódź")
    target = "/api/v1/items/%C5%82%C3%B3d%C5%BA"
    while not (await get(target)).is_hit:
        """The invalidation by its creation may come a second time, over Redis."""
    await elsewhere(catalogue.update_item, "łódź", {"name": "New"}, actor=TESTER)
    assert (await get(target)).json()["name"] == "New"


@pytest.fixture
def other_item() -> Item:
    return make_item(id="old", tags=["other"])


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.usefixtures("other_item")
@run
async def test_every_way_to_write_is_seen_at_once(name):
    """By all who have read the item and the lists before."""
    targets = [
        *("/api/v1/items/", "/items/", "/items/-/changes/"),
        *((ITEM, "/items/bolt/") if name not in ("create", "bulk", "undo") else ()),
    ]
    for target in targets:
        await get(target)
        assert (await get(target)).is_hit
    await write(name)
    for target in targets:
        answer = await get(target)
        assert not answer.is_hit, target
        if name in ("create", "bulk", "update", "import"):
            assert b"Written" in answer.body


@pytest.mark.parametrize("state", ["fresh", "overload", "outage"])
@run
async def test_unsafe_method_is_not_answered_by_a_copy(
    token, session, monkeypatch, state
):
    """Whatever tier has one, and whoever asks."""
    clients = [{}, {"Authorization": token}, {"Cookie": session}]
    for target in (ITEM, "/items/bolt/"):
        for who in clients:
            await get(target, **who)
        assert (await get(target)).is_hit
    if state != "fresh":
        response_store.flush().result()
        invalidations.record([catalogue.item_tag("bolt")])
    if state == "overload":
        monkeypatch.setattr(wsgi_bridge.admission, "check", reject)
    if state == "outage":
        monkeypatch.setattr(wsgi_bridge.django, "resolve_request", no_database)
        monkeypatch.setattr(grouped_reads, "may_read", no_database)
    for target in (ITEM, "/items/bolt/"):
        for who in clients:
            if state != "fresh":
                assert (await get(target, **who)).is_hit
            for method in ("POST", "PUT", "PATCH", "QUERY", "DELETE"):
                answer = await get(target, method, **who)
                assert (answer.cached, answer.status >= 500) == ("", state != "fresh")
    exists = await elsewhere(Item.objects.filter(pk="bolt").exists)
    assert exists == (state != "fresh")


@pytest.mark.parametrize("first", ["anonymous", "token", "session"])
@run
async def test_no_client_is_given_the_copy_of_another_kind(token, session, first):
    """A page names who is signed in, the history who wrote, and neither to others."""
    clients = {
        "anonymous": {},
        "token": {"Authorization": token},
        "session": {"Cookie": session},
    }
    order = [first, *clients] * 2
    for target, shown, to in (
        (f"{ITEM}/history", b"tester", {"token", "session"}),
        ("/api/v1/changes", b"tester", {"token", "session"}),
        ("/items/", b"edith", {"session"}),
        ("/items/bolt/", b"edith", {"session"}),
    ):
        for name in order:
            answer = await get(target, **clients[name])
            assert (answer.status, shown in answer.body) == (200, name in to), name


@run
async def test_unknown_parameter_is_no_cache_hit_on_rest_but_is_on_pages():
    for target, status in (("/api/v1/items", 400), ("/items/", 200), (ITEM, 400)):
        assert (await get(target)).status == 200
        assert (await get(target)).is_hit
        answer = await get(f"{target}?tags=metal")
        assert (answer.status, answer.is_hit) == (status, status == 200)
        lenient = await get(f"{target}?tags=metal", Prefer="handling=lenient")
        assert lenient.status == 200


@run
async def test_head_of_an_export_runs_no_export():
    for _ in range(2 * wsgi_bridge.admission.heavy_max):
        answer = await get("/api/v1/items/-/export", "HEAD")
        assert (answer.status, answer.body) == (200, b"")
    assert b"bolt" in (await get("/api/v1/items/-/export")).body


@run
async def test_client_that_writes_reads_its_own_write(token):
    for n in range(5):
        body = json.dumps({"name": f"Bolt {n}"}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"authorization", token.encode()),
        ]
        written = await ask(ITEM, "PATCH", headers, [body])
        assert written.status == 200
        for reader in ({"Authorization": token}, {}):
            assert (await get(ITEM, **reader)).json()["name"] == f"Bolt {n}"


@pytest.mark.parametrize("scheme", ["Token", "Bearer"])
@run
async def test_verified_token_gets_cache_hits_until_it_is_revoked(token, scheme):
    token = token.replace("Token", scheme)
    first = await get(ITEM, Authorization=token)
    again = await get(ITEM, Authorization=token)
    assert (first.is_hit, again.is_hit, first.body == again.body) == (False, True, True)
    assert (await get(ITEM)).is_hit
    # The list shows an editor more, and is private.
    for _ in range(2):
        assert not (await get("/api/v1/items/", Authorization=token)).is_hit
    assert not (await get(ITEM, Authorization="Token unknown")).is_hit
    await elsewhere(revoke_all)
    refused = await get(ITEM, Authorization=token)
    assert (refused.status, refused.is_hit) == (401, False)


@run
async def test_person_of_any_name_signs_in():
    await elsewhere(User.objects.create_user, "\u0141ukasz", password="p")
    csrf = "x" * 32
    form = {"username": "\u0141ukasz", "password": "p", "csrfmiddlewaretoken": csrf}
    body = urlencode(form).encode()
    headers = [
        (b"content-type", b"application/x-www-form-urlencoded"),
        (b"content-length", b"%d" % len(body)),
        (b"cookie", f"csrftoken={csrf}".encode()),
    ]
    answer = await ask("/account/sign-in/", "POST", headers, [body])
    assert answer.status == 302
    cookies = [value for name, value in answer.raw_headers if name == b"set-cookie"]
    assert any(value.startswith(b"device=") for value in cookies)


def no_database(*args: object, **kwargs: object) -> None:
    raise OperationalError("The server is down.")


@pytest.mark.parametrize("is_editor", [True, False])
@run
async def test_stale_page_is_sent_without_the_database(session, monkeypatch, is_editor):
    who = {"Cookie": f"{session}; csrftoken={'x' * 32}"} if is_editor else {}

    before = await get("/items/", **who)
    assert (b"edith" in before.body, before.status) == (is_editor, 200)
    response_store.flush().result()
    invalidations.record([catalogue.ITEMS])
    monkeypatch.setattr("items.views.ListQuery.parse", no_database)
    answer = await get("/items/", **who)
    assert (answer.status, answer.is_hit) == (200, True)
    assert (b"edith" in answer.body) == is_editor
    assert b'class="notice degraded"' in answer.body
    assert "set-cookie" not in answer.headers
    assert (await get("/items/?tag=never", **who)).status == 503
    # Other clients, signed in or not, see no difference.
    other = await get("/items/", Cookie="sessionid=other")
    assert b"edith" not in other.body


@run
async def test_private_site_sends_nobody_what_was_public(
    settings, monkeypatch, session, token
):
    for target in SHARED:
        assert "stored" in (await get(target)).cached
    response_store.flush().result()
    settings.PUBLIC_READ = False
    policy.policy_at.cache_clear()  # as in a process that starts
    for target in SHARED:
        answer = await get(target)
        assert answer.status == (401 if "/api/" in target else 302), target
        who = {"Authorization": token} if "/api/" in target else {"Cookie": session}
        own = await get(target, **who)
        assert (own.status, own.is_hit) == (200, False)
        assert "private" in own.headers["cache-control"]
    fragment = await get("/items/?search=bra", **{"HX-Request": "true"})
    assert (fragment.headers["hx-refresh"], fragment.body) == ("true", b"")
    response_store.flush().result()

    # Not as a stale response either, but to those who have read it themselves.
    monkeypatch.setattr(wsgi_bridge.admission, "check", reject)
    assert {(await get(target)).status for target in SHARED} == {503}
    for who in ({"Cookie": session}, {"Authorization": token}):
        target = ITEM if "Authorization" in who else "/items/bolt/"
        own = await get(target, **who)
        assert (own.status, b"Brass bolt" in own.body) == (200, True)


@run
async def test_purged_contents_are_in_no_cached_response(session, monkeypatch):
    # As a machine that hears nothing of the purge, with what it has in memory and on
    # disk; only the database tells it.
    who = {"Cookie": session}
    own = ["/items/", "/items/bolt/"]
    for target in SHARED:
        await get(target)
    for target in own:
        assert (await get(target, **who)).status == 200
    response_store.flush().result()
    follow = response_store.follow_epoch
    monkeypatch.setattr(health_monitor, "on_epoch", follow)
    await elsewhere(health.check)
    with monkeypatch.context() as deaf:
        deaf.setattr(epoch, "_void_caches", lambda: None)
        deaf.setattr(catalogue, "invalidate", lambda *tags: None)
        await elsewhere(catalogue.purge_items, ["bolt"], actor=TESTER)
    restarted = ResponseStore(response_store.folder, 0, 0, 2**20)
    monkeypatch.setattr(wsgi_bridge.admission, "check", reject)
    assert (await get(ITEM)).status == 200
    await elsewhere(health.check)
    assert not len(response_store.memory)
    assert restarted.disk_usage()[0] == 0
    assert {(await get(target)).status for target in SHARED} == {503}
    assert {(await get(target, **who)).status for target in own} == {503}


ORIGIN = "https://app.example"
ALLOWED = "access-control-allow-origin"


@pytest.fixture
def cors(settings, monkeypatch) -> None:
    """Pages of one other site may call the API."""
    settings.CORS_ALLOWED_ORIGINS = [ORIGIN]
    middleware = ["corsheaders.middleware.CorsMiddleware", *settings.MIDDLEWARE]
    settings.MIDDLEWARE = middleware
    monkeypatch.setattr(wsgi_bridge, "django", wsgi_bridge.Django())
    cors_headers_module._headers_for.cache_clear()
    yield
    cors_headers_module._headers_for.cache_clear()


@pytest.mark.usefixtures("cors")
@run
async def test_every_rest_response_has_the_cors_headers_of_its_origin(
    token, monkeypatch
):
    def check(answer: Answer, status: int, origin: str | None) -> None:
        assert answer.status == status
        names = [name for name, _ in answer.raw_headers]
        assert names.count(b"access-control-allow-origin") == int(origin == ORIGIN)
        assert answer.headers.get(ALLOWED) == (ORIGIN if origin == ORIGIN else None)
        assert "origin" in answer.headers["vary"].lower()
        if origin == ORIGIN:
            assert "etag" in answer.headers["access-control-expose-headers"]

    hits = 0
    for origin in (ORIGIN, "https://other.example", None, ORIGIN):
        who = {"Origin": origin} if origin else {}
        item = await get(ITEM, **who)
        check(item, 200, origin)
        hits += item.is_hit
        etag = item.headers["etag"]
        check(await get(ITEM, **who, **{"If-None-Match": etag}), 304, origin)
        check(await get(ITEM, **who, Authorization=token), 200, origin)
        check(await get("/api/v1/items/", **who, Authorization=token), 200, origin)
        check(await get("/api/v1/items/none", **who), 404, origin)
        check(await get("/api/v1/items/?q=x", **who), 400, origin)
        check(await get(ITEM, "PATCH", **who), 401, origin)
    assert hits == 3  # one copy serves all origins
    page = await get("/items/", Origin=ORIGIN)
    assert ALLOWED not in page.headers

    # Stale, and an error of the edge.
    await get("/api/v1/items/", Origin=ORIGIN)
    invalidations.record([catalogue.ITEMS])
    monkeypatch.setattr("items.api.ListQuery.parse", no_database)
    stale = await get("/api/v1/items/", Origin=ORIGIN)
    assert "origin-failed" in stale.cached
    check(stale, 200, ORIGIN)
    monkeypatch.setattr(wsgi_bridge.admission, "check", reject)
    check(await get("/api/v1/tasks", Origin=ORIGIN), 503, ORIGIN)


def reject(*args: object) -> None:
    raise Rejected


@pytest.mark.usefixtures("cors")
@run
async def test_preflight_allows_the_headers_of_the_api():
    wanted = {"Access-Control-Request-Method": "PATCH"}
    answer = await get(ITEM, "OPTIONS", Origin=ORIGIN, **wanted)
    assert (answer.status, answer.headers[ALLOWED]) == (200, ORIGIN)
    assert "PATCH" in answer.headers["access-control-allow-methods"]
    allowed = answer.headers["access-control-allow-headers"].split(", ")
    assert {"authorization", "idempotency-key", "if-match", "prefer"} <= {*allowed}
    assert "access-control-allow-credentials" not in answer.headers
    other = await get(ITEM, "OPTIONS", Origin="https://other.example", **wanted)
    assert ALLOWED not in other.headers


@run
async def test_no_origin_is_allowed_without_the_setting():
    for answer in (await get(ITEM, Origin=ORIGIN), await get(ITEM, Origin=ORIGIN)):
        assert (answer.status, ALLOWED in answer.headers) == (200, False)
        assert "origin" not in answer.headers.get("vary", "").lower()
