"""REDIS_URL of Sentinels; tests/faults/test_two_machines.py runs real ones."""

import pytest
from django.core.exceptions import ImproperlyConfigured

from resilient_site import settings as as_started
from resilient_site.cache.redis_url import connect, parse_service

pytestmark = pytest.mark.once


def test_url_of_sentinels_names_hosts_service_and_logins():
    service = parse_service(
        "sentinel://site:a%2Fb@one,[::1]:5000/main/3?sentinel_password=c%26d"
    )
    assert service.sentinels == (("one", 26379), ("::1", 5000))
    assert (service.name, service.db) == ("main", 3)
    assert service.login == {"username": "site", "password": "a/b"}
    assert service.sentinel_login == {"password": "c&d"}
    assert parse_service("sentinel://one/main").db == 0


@pytest.mark.parametrize("url", ["redis://one:6379/1", "unix:///run/redis", ""])
def test_other_url_is_left_to_redis_py(url):
    assert parse_service(url) is None
    assert as_started.caches(url)["rates"]["LOCATION"] == (url or "rates")


@pytest.mark.parametrize(
    "url",
    [
        "sentinel://one", "sentinel://one/", "sentinel:///main", "sentinel://one,/main",
        "sentinel://one:x/main", "sentinel://one/main/x", "sentinel://one/main/0/1",
        "sentinel://one/main?ssl=1", "sentinel://one/main?x",
    ],
)  # fmt: skip
def test_malformed_url_is_reported_by_the_name_of_its_setting(url):
    with pytest.raises(ImproperlyConfigured, match="REDIS_URL"):
        parse_service(url)


def test_all_aliases_and_pubsub_ask_the_sentinels_for_the_primary(settings):
    settings.REDIS_URL = "sentinel://site:secret@one,two:5000/main/3"
    for cache in as_started.caches(settings.REDIS_URL).values():
        assert cache["LOCATION"] == "redis://main/3"
        assert cache["OPTIONS"]["SENTINELS"] == (("one", 26379), ("two", 5000))
        assert cache["OPTIONS"]["PASSWORD"] == "secret"
    pool = connect(1.0).connection_pool
    assert (pool.service_name, pool.is_master) == ("main", True)
    assert pool.connection_kwargs["username"] == "site"
