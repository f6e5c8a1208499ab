"""Redis holds what may be lost; without it the pages are the same."""

import pytest
from django.core.cache import caches
from django.test import override_settings

from items.models import Tag
from items.tags import popular_tags
from resilient_site.settings import redis_cache
from tests.factories import make_item

pytestmark = pytest.mark.django_db


def cached_in(server):
    """Settings as they are with REDIS_URL, which is read when the site starts."""
    return override_settings(CACHES={"default": redis_cache(server.url())})


def test_tag_counts_are_kept_in_redis(redis_server, django_assert_num_queries):
    make_item(tags=["metal"])
    with cached_in(redis_server):
        caches["default"].clear()
        assert popular_tags() == [("metal", 1)]
        with django_assert_num_queries(0):
            assert [tuple(pair) for pair in popular_tags()] == [("metal", 1)]


@pytest.mark.parametrize("fault", ["kill", "pause"])
def test_without_redis_the_list_is_the_same(redis_own, client, fault):
    make_item(name="Needle", tags=["metal"])
    with cached_in(redis_own):
        assert client.get("/items/").status_code == 200
        getattr(redis_own, fault)()
        response = client.get("/items/")
    assert response.status_code == 200
    assert b"Needle" in response.content
    assert b"metal" in response.content
    assert Tag.objects.exists()
