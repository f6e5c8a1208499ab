from django.apps import AppConfig


class SiteConfig(AppConfig):
    name = "resilient_site"
    verbose_name = "Access"
