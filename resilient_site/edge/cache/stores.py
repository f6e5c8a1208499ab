"""Where this process, this machine and all machines keep copies."""

from django.conf import settings

from resilient_site.edge.cache.disk_stale_store import LastKnown
from resilient_site.edge.cache.keys import ReadCache
from resilient_site.edge.cache.redis_stale_store import Distant

copies = ReadCache(settings.READ_CACHE_BYTES)
last_known = LastKnown(
    settings.DATA_DIR / "last-known.sqlite3", settings.LAST_KNOWN_BYTES
)
distant = Distant(settings.LAST_KNOWN_REDIS_BYTES)
