import os

from tests.load.django_peer.settings import *  # noqa: F403
from tests.load.django_peer.settings import REST_FRAMEWORK

ROOT_URLCONF = "tests.drill.plain.urls"
# As django-redis's README has it.
CACHES = {
    "default": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": os.environ["REDIS_URL"],
        "OPTIONS": {"CLIENT_CLASS": "django_redis.client.DefaultClient"},
    }
}
# As the quickstart of Django REST framework has it.
REST_FRAMEWORK |= {
    "DEFAULT_PAGINATION_CLASS": "rest_framework.pagination.PageNumberPagination",
    "PAGE_SIZE": 10,
}
