from django.apps import AppConfig


class ComputeConfig(AppConfig):
    name = "compute"
    verbose_name = "Jobs"

    def ready(self) -> None:
        from compute import doctor, health, metrics, queue, registry
        from resilient_site.operations import clean_up

        registry.discover()
        health.register_all()
        metrics.register_all()
        doctor.register_all()
        clean_up.register("old jobs", queue.forget_old)
        clean_up.register("files of tries that failed", queue.forget_leftovers)
