"""Where this process, this machine and all machines keep copies."""

from django.conf import settings

from resilient_site.edge.distant import Distant
from resilient_site.edge.lastknown import LastKnown
from resilient_site.edge.readcache import ReadCache

copies = ReadCache(settings.READ_CACHE_BYTES)
last_known = LastKnown(
    settings.DATA_DIR / "last-known.sqlite3", settings.LAST_KNOWN_BYTES
)
distant = Distant(settings.LAST_KNOWN_REDIS_BYTES)
