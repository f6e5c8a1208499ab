"""Pages and sessions during an outage of Redis."""

import pytest
from django.conf import settings as site
from django.contrib.sessions.models import Session
from django.core.cache import caches
from django.test import Client, override_settings

from items.list_query import popular_tags
from items.models import Tag
from resilient_site import settings as as_started
from tests.factories import make_item
from tests.resilient_site.cache.test_backend import recover

pytestmark = [
    pytest.mark.once, pytest.mark.django_db, pytest.mark.usefixtures("breaker"),
]  # fmt: skip


def cached_in(server, db=0):
    """Settings as they are with REDIS_URL, which is read when the site starts."""
    return override_settings(CACHES=as_started.caches(server.url(db)))


@pytest.fixture
def patient(settings):
    """Have Redis be given more time than a busy machine takes.

    In a database of its own: connections are kept by URL, with their timeouts.
    """
    settings.CACHE_TIMEOUT_MS = 10_000
    return 7


def test_tag_counts_are_stored_in_redis(
    redis_server, patient, django_assert_num_queries
):
    make_item(tags=["metal"])
    with cached_in(redis_server, patient):
        caches["default"].clear()
        assert [tuple(pair) for pair in popular_tags()] == [("metal", 1)]
        with django_assert_num_queries(0):
            assert popular_tags() == [["metal", 1]]


def test_list_is_the_same_during_an_outage(redis_own, client):
    make_item(name="Needle", tags=["metal"])
    with cached_in(redis_own):
        assert client.get("/items/").status_code == 200
        redis_own.pause()
        response = client.get("/items/")
    assert response.status_code == 200
    assert b"Needle" in response.content
    assert b"metal" in response.content
    assert Tag.objects.exists()


def is_signed_in(client):
    return client.get("/account/tokens/").status_code == 200


def test_session_is_read_from_redis(redis_server, patient, editor_client):
    with cached_in(redis_server, patient):
        caches["sessions"].clear()
        assert is_signed_in(editor_client)
        Session.objects.all().delete()
        assert is_signed_in(editor_client)


def test_session_survives_an_outage_and_if_ended_in_it_does_not_come_back(
    redis_own, editor_client
):
    with cached_in(redis_own):
        assert is_signed_in(editor_client)
        stolen = Client()
        stolen.cookies[site.SESSION_COOKIE_NAME] = editor_client.session.session_key
        assert is_signed_in(stolen)
        redis_own.pause()
        assert is_signed_in(editor_client)
        assert editor_client.post("/account/sign-out/").status_code == 302
        assert not is_signed_in(stolen)
        redis_own.resume()
        recover(caches["sessions"])
        assert not is_signed_in(stolen)


def test_sessions_are_not_stored_in_process_memory(editor_client):
    assert is_signed_in(editor_client)
    # As another process does it.
    Session.objects.all().delete()
    assert not is_signed_in(editor_client)
