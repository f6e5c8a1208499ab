from django.apps import AppConfig
from django.conf import settings


class SiteConfig(AppConfig):
    name = "resilient_site"
    verbose_name = "Access"

    def ready(self) -> None:
        from resilient_site.accounts import invalidation  # noqa: F401 - signals
        from resilient_site.health import checks
        from resilient_site.observability import tracing
        from resilient_site.operations import clean_up, doctor

        if settings.REDIS_URL:
            # Once, before this process forks: it takes long, and has threads wait.
            import resilient_site.cache.backend  # noqa: F401

        tracing.instrument()
        clean_up.register_all()
        doctor.register_all()
        checks.register_all()
