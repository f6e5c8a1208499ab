"""When fresh responses are looked up in Redis."""

import pytest

from resilient_site.edge.cache.stale_responses import LookupRate

pytestmark = pytest.mark.once


def test_lookups_that_find_nothing_become_rare_and_come_back():
    rate = LookupRate()
    made = 0
    for _ in range(1_000):
        if rate.is_due():
            made += 1
            rate.record(is_found=False)
    assert made < 400
    for _ in range(10 * LookupRate.SAMPLE_EVERY):
        if rate.is_due():
            rate.record(is_found=True)
    assert all(rate.is_due() for _ in range(10))
