"""The evaluator of conditional requests, and what reads make of it."""

import pytest

from resilient_site.api.conditional import evaluate
from resilient_site.errors import Invalid, PreconditionFailed, StaleVersion

pytestmark = pytest.mark.once

BEFORE, MODIFIED, AFTER = (
    f"Sat, 01 Jan 2000 00:00:0{second} GMT" for second in (0, 1, 2)
)
PROCEED, NOT_MODIFIED = False, True


def outcome(method, headers, etag: str | None = '"a"', last_modified=MODIFIED, **more):
    try:
        return evaluate(method, headers, etag=etag, last_modified=last_modified, **more)
    except (Invalid, PreconditionFailed) as error:
        return type(error)


@pytest.mark.parametrize("method", ["GET", "PUT"])
@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('"a"', PROCEED),
        ('"b", "a"', PROCEED),
        (', "b" ,, "a",', PROCEED),
        ("*", PROCEED),
        ('"b"', StaleVersion),
        ('W/"a"', StaleVersion),  # the comparison is the strong one
        ("2", Invalid),
        ('"a', Invalid),
        ('"a", 2', Invalid),
        ('"a", *', Invalid),
        ("", Invalid),
    ],
)
def test_if_match_takes_only_the_current_strong_tag(method, header, expected):
    assert outcome(method, {"if-match": header}) is expected


@pytest.mark.parametrize(
    ("header", "matches"),
    [
        ('"a"', True), ('W/"a"', True), ('"b", W/"a"', True), ("*", True),
        ('"b"', False), ('W/"b"', False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("etag", ['"a"', 'W/"a"'])
def test_if_none_match_compares_weakly(header, matches, etag):
    headers = {"if-none-match": header}
    expected = NOT_MODIFIED if matches else PROCEED
    assert outcome("GET", headers, etag) is outcome("HEAD", headers, etag) is expected
    expected = PreconditionFailed if matches else PROCEED
    assert outcome("PUT", headers, etag) is expected


@pytest.mark.parametrize("header", ["a", '"a", 2', '"b", 2'])
def test_malformed_if_none_match_is_an_error_on_writes_only(header):
    assert outcome("GET", {"if-none-match": header}) is PROCEED
    assert outcome("PUT", {"if-none-match": header}) is Invalid


@pytest.mark.parametrize(
    ("method", "at", "expected"),
    [
        ("GET", AFTER, NOT_MODIFIED),
        ("HEAD", MODIFIED, NOT_MODIFIED),
        ("GET", BEFORE, PROCEED),
        ("PUT", AFTER, PROCEED),  # for reads alone
        ("GET", "yesterday", PROCEED),
    ],
)
def test_if_modified_since_holds_for_reads(method, at, expected):
    assert outcome(method, {"if-modified-since": at}) is expected
    assert outcome(method, {"if-modified-since": at}, last_modified=None) is PROCEED


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "POST"])
@pytest.mark.parametrize(
    ("at", "expected"), [(BEFORE, StaleVersion), (MODIFIED, PROCEED), (AFTER, PROCEED)]
)
def test_if_unmodified_since_holds_for_reads_and_writes(method, at, expected):
    assert outcome(method, {"if-unmodified-since": at}) is expected
    assert outcome(method, {"if-unmodified-since": at}, last_modified=None) is PROCEED


@pytest.mark.parametrize("at", ["soon", "", "2020-01-01", "1577836800"])
def test_malformed_if_unmodified_since_is_an_error_on_writes_only(at):
    assert outcome("GET", {"if-unmodified-since": at}) is PROCEED
    assert outcome("PUT", {"if-unmodified-since": at}) is Invalid


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"if-none-match": "*"}, PROCEED),
        ({"if-match": "*"}, StaleVersion),
        ({"if-match": '"1"'}, StaleVersion),
        ({"if-match": "1"}, Invalid),
    ],
)
def test_what_is_to_be_created_matches_nothing(headers, expected):
    assert outcome("POST", headers, None, None, exists=False) is expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"if-match": '"a"', "if-unmodified-since": BEFORE}, PROCEED),
        ({"if-none-match": '"b"', "if-modified-since": AFTER}, PROCEED),
        ({"if-match": '"b"', "if-none-match": '"a"'}, StaleVersion),
        ({"if-match": '"a"', "if-none-match": '"a"'}, NOT_MODIFIED),
        ({"if-unmodified-since": AFTER, "if-modified-since": AFTER}, NOT_MODIFIED),
    ],
)
def test_entity_tags_precede_dates_and_matches_precede_non_matches(headers, expected):
    assert outcome("GET", headers) is expected


# --- in the middleware: Swagger's page has no entity tag of its own

PAGE = "/api/v1/docs/"


@pytest.mark.django_db
def test_page_is_304_with_its_headers_when_the_client_has_it(client):
    etag = client.get(PAGE)["ETag"]

    answer = client.get(PAGE, headers={"If-None-Match": etag})

    assert (answer.status_code, answer["ETag"], answer.content) == (304, etag, b"")
    assert "RateLimit" in answer
    assert "Content-Security-Policy" in answer
    assert "Content-Type" not in answer


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("path", "header", "status", "code"),
    [
        (PAGE, '"other"', 412, "stale_version"),
        (PAGE, "other", 400, "invalid"),
        ("/api/v1/items/none", '"1"', 404, "item_not_found"),  # an error as it is
    ],
)
def test_false_or_malformed_if_match_is_rejected(client, path, header, status, code):
    answer = client.get(path, headers={"If-Match": header})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
