"""Redaction finds secrets by their name and by their form."""

import pytest

from resilient_site.observability.redaction import redact

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("value", "redacted"),
    [
        ("Authorization: Token 0123456789abcdef", "Authorization: Token ***"),
        ("postgres://site:pw@db/site", "postgres://***@db/site"),
        ("amqp://site:p@ss@db/x for a@b", "amqp://***@db/x for a@b"),
        ("GET /x?a=1&api_key=abc&b=2", "GET /x?a=1&api_key=***&b=2"),
        ("{'password': 'abc', 'n': 1}", "{'password': '***', 'n': 1}"),
        ("{'password': \"it's two words\"}", "{'password': \"***\"}"),
        ("sessionid=abc; other=1", "sessionid=***; other=1"),
        (f"It was {'a1' * 32}.", "It was ***."),
        ({"SECRET_KEY": "x", "deep": [{"token": 1}]},
         {"SECRET_KEY": "***", "deep": [{"token": "***"}]}),
        ({"n": 1, "ratio": 0.5, "none": None}, {"n": 1, "ratio": 0.5, "none": None}),
        ("Circuit breaker for the cache opened after 3 timeouts.", ) * 2,
    ],
)  # fmt: skip
def test_redact_replaces_secrets_alone(value, redacted):
    assert redact(value) == redacted
