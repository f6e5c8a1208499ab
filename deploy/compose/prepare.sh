#!/bin/sh
# Makes the database ready, each time that the site is brought up. On request the sample
# catalogue (LOAD_SAMPLE=1), and the administrator `admin` (ADMIN_PASSWORD) while there
# is no user at all.
set -eu

python manage.py migrate
if [ "${LOAD_SAMPLE:-0}" = 1 ]; then
    python manage.py load_sample
fi
if [ -n "${ADMIN_PASSWORD:-}" ]; then
    python manage.py shell --verbosity 0 --command '
from os import environ
from django.contrib.auth.models import User
if not User.objects.exists():
    User.objects.create_superuser("admin", password=environ["ADMIN_PASSWORD"])
    print("Created the administrator admin.")'
fi
