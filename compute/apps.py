from django.apps import AppConfig


class ComputeConfig(AppConfig):
    name = "compute"
    verbose_name = "Jobs"

    def ready(self) -> None:
        from compute import health, queue, registry
        from compute.models import JobFile
        from compute.tasks import preview_import
        from items.imports import previews
        from resilient_site.health import components
        from resilient_site.operations import clean_up, doctor
        from resilient_site.storage import files

        registry.discover_tasks()
        previews.register_job(preview_import.start)
        components.register(
            components.Component("compute", "Jobs", "component", health.check)
        )
        doctor.register("jobs", health.find_problems)
        clean_up.register("old jobs", queue.delete_old_jobs)
        clean_up.register("files of failed attempts", queue.delete_orphaned_files)
        files.register(JobFile)
