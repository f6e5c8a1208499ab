"""Many clients at once, on a running site: they wait, and none is rejected."""

from collections import Counter

import pytest

from tests.load import load_generator
from tests.load.request_template import RequestTemplate
from tests.running import Site

pytestmark = pytest.mark.once

CLIENTS = 64


def test_anonymous_clients_in_a_closed_loop_are_never_rejected(tmp_path):
    # A busy machine may answer few; what counts is that no queue is cut short.
    settings = {"RATE_LIMITS": "off", "ADMISSION_PATIENCE_ANONYMOUS_S": "20"}
    site = Site(tmp_path / "site", **settings, DEADLINE_READ_S="60").start_web()
    try:
        search = RequestTemplate(site.port, "/api/v1/items?search=nothing{count}")
        seen = load_generator.in_closed_loop(search, CLIENTS, 2.0)
    finally:
        site.stop()
    assert len(seen) >= CLIENTS
    assert Counter(one.status for one in seen).keys() == {200}
