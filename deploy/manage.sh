#!/bin/sh
# manage.py of the release that is current, with the site's environment and rights:
#   sh /opt/resilient-site/current/deploy/manage.sh migrate
set -eu
set -a
. /etc/resilient-site/environment
set +a
export PYTHONDONTWRITEBYTECODE=1
cd /opt/resilient-site/current
exec runuser -u resilient-site -- .venv/bin/python manage.py "$@"
