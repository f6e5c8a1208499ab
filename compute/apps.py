from django.apps import AppConfig


class ComputeConfig(AppConfig):
    name = "compute"
    verbose_name = "Jobs"

    def ready(self) -> None:
        from compute import health, metrics, registry

        registry.discover()
        health.register_all()
        metrics.register_all()
