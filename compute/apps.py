from django.apps import AppConfig


class ComputeConfig(AppConfig):
    name = "compute"
    verbose_name = "Jobs"

    def ready(self) -> None:
        from compute import doctor, health, metrics, queue, registry
        from resilient_site.operations import clean_up

        registry.discover_tasks()
        health.register_all()
        metrics.register_all()
        doctor.register_all()
        clean_up.register("old jobs", queue.delete_old_jobs)
        clean_up.register("files of failed attempts", queue.delete_orphaned_files)
