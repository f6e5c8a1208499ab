from django.apps import AppConfig
from django.conf import settings


class SiteConfig(AppConfig):
    name = "resilient_site"
    verbose_name = "Access"

    def ready(self) -> None:
        from resilient_site import (
            cleaning,
            doctor,
            identities,  # noqa: F401 - listens to changes
        )
        from resilient_site.health import checks

        if settings.REDIS_URL:
            # Once, before this process forks: it takes long, and has threads wait.
            import resilient_site.resilience.connections  # noqa: F401
        from resilient_site.resilience import broadcast

        broadcast.begin()
        cleaning.register_all()
        doctor.register_all()
        checks.register_all()
