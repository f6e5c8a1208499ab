from django.apps import AppConfig


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
        from resilient_site.resilience import broadcast

        broadcast.begin()
        cleaning.register_all()
        doctor.register_all()
        checks.register_all()
