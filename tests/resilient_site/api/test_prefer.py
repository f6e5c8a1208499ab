"""The request header Prefer (RFC 7240)."""

import pytest

from resilient_site.api.prefer import Preference, parse_prefer

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("header", "wait_s", "respond_async"),
    [
        ("", None, False),
        ("wait=0", 0, False),
        ("respond-async, wait=10", 10, True),
        ("Wait = 10 , RESPOND-ASYNC", 10, True),
        (r'wait="1\0"', 10, False),
        ("wait=10; foo=bar; x", 10, False),
        (", ,wait=10,,", 10, False),
        ('return=minimal, foo; some-parameter="a, wait=3; b", wait=5', 5, False),
        ("wait=5, wait=10", 5, False),
        ("wait=x, wait=10", None, False),
        ("waits=10, wait", None, False),
        ("wait=-1", None, False),
        ("wait=1.5", None, False),
        ("wait=\u00b2", None, False),
        ("=10, (wait)=3, respond-async", None, True),
        ('"wait=3", wait=4', 4, False),
        ("respond-async=no", None, False),
        ("wait=600", 60, False),
        ("wait=9999999999", 60, False),
        ("wait=" + "9" * 5000, 60, False),
    ],
)
def test_prefer_is_parsed(header, wait_s, respond_async):
    assert parse_prefer(header, 60) == Preference(wait_s, respond_async)


def test_preference_applied_names_what_was_applied():
    preference = Preference(wait_s=10, respond_async=True)
    assert preference.applied == "respond-async, wait=10"
    assert Preference().applied == ""
