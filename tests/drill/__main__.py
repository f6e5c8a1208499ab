import os

if __name__ == "__main__":
    # Processes that this one starts import this file, too, and need nothing of it.
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "resilient_site.settings")
    django.setup()
    from tests.drill.command import main

    raise SystemExit(main())
