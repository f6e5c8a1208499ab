"""The request header Prefer (RFC 7240)."""

import time

import pytest

from resilient_site.api.prefer import SECONDS_MAX, Preference, parse_prefer

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("header", "wait_s", "respond_async"),
    [
        ("", None, False),
        ("wait=10", 10, False),
        ("wait=0", 0, False),
        ("respond-async, wait=10", 10, True),
        ("wait=10,respond-async", 10, True),
        ("Wait = 10 , RESPOND-ASYNC", 10, True),
        ('wait="10"', 10, False),
        (r'wait="1\0"', 10, False),
        ("wait=10; foo=bar; x", 10, False),
        (", ,wait=10,,", 10, False),
        ("\twait\t=\t10\t", 10, False),
        ('return=minimal, foo; some-parameter="a, wait=3; b", wait=5', 5, False),
        ("handling=lenient", None, False),
        ("wait=5, wait=10", 5, False),
        ("wait=x, wait=10", None, False),
        ("waits=10, wait", None, False),
        ("wait=", None, False),
        ('wait=""', None, False),
        ("wait=-1", None, False),
        ("wait=+1", None, False),
        ("wait=1.5", None, False),
        ("wait=1 0", None, False),
        ("wait=\u00b2", None, False),
        ("wait=\u0661", None, False),
        ("=10, (wait)=3, respond-async", None, True),
        ('"wait=3", wait=4', 4, False),
        ('wait="4', None, False),
        ('foo="bar, wait=4', None, False),
        ("respond-async=", None, True),
        ("respond-async=no", None, False),
        ("wait=00000000007", 7, False),
        ("wait=00", 0, False),
        ("wait=" + "9" * 5000, SECONDS_MAX, False),
    ],
)
def test_prefer_is_parsed(header, wait_s, respond_async):
    assert parse_prefer(header) == Preference(wait_s, respond_async)


@pytest.mark.parametrize(
    "piece", [r"\"", '"', "a,", ",", "a=", '"a', ";", " ", "\\", "wait=1;"]
)
def test_long_header_is_parsed_in_linear_time(piece):
    for header in (piece * 30_000, '"' + piece * 30_000, "a=" + piece * 30_000 + "é"):
        began = time.process_time()
        parse_prefer(header)
        assert time.process_time() - began < 5


def test_wait_is_capped():
    assert parse_prefer("wait=600").at_most(60).wait_s == 60
    assert parse_prefer("wait=6").at_most(60).wait_s == 6
    assert parse_prefer("respond-async").at_most(60).wait_s is None


@pytest.mark.parametrize(
    ("preference", "applied"),
    [
        (Preference(), ""),
        (Preference(wait_s=0), "wait=0"),
        (Preference(respond_async=True), "respond-async"),
        (Preference(wait_s=10, respond_async=True), "respond-async, wait=10"),
    ],
    ids=["none", "wait", "async", "both"],
)
def test_preference_applied_names_what_was_applied(preference, applied):
    assert preference.applied == applied
    assert parse_prefer(applied) == preference
