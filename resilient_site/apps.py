from typing import TYPE_CHECKING

from django.apps import AppConfig
from django.conf import settings

if TYPE_CHECKING:
    from resilient_site.accounts.verified_tokens import VerifiedTokens


class SiteConfig(AppConfig):
    name = "resilient_site"
    verbose_name = "Access"

    verified_tokens: "VerifiedTokens"

    def ready(self) -> None:
        from resilient_site.accounts import invalidation  # noqa: F401 - signals
        from resilient_site.accounts.verified_tokens import VerifiedTokens
        from resilient_site.health import checks
        from resilient_site.observability import tracing
        from resilient_site.operations import clean_up, doctor

        if settings.REDIS_URL:
            # Once, before this process forks: it takes long, and has threads wait.
            import resilient_site.cache.backend  # noqa: F401

        self.verified_tokens = VerifiedTokens()
        tracing.instrument()
        clean_up.register_all()
        doctor.register_all()
        checks.register_all()
