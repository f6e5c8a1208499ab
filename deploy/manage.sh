#!/bin/sh
# manage.py of the current release, with the site's environment and user:
#   sh /opt/resilient-site/current/deploy/manage.sh migrate
set -eu
# Read as systemd does: a shell would expand signs in values.
while IFS= read -r line || [ -n "$line" ]; do
    name=${line%%=*} value=${line#*=}
    case $value in
    \"*\" | \'*\') value=${value#?} value=${value%?} ;;
    esac
    case $line in
    [A-Z_]*=*) export "$name=$value" ;;
    esac
done </etc/resilient-site/environment
export PYTHONDONTWRITEBYTECODE=1
cd /opt/resilient-site/current
exec runuser -u resilient-site -- .venv/bin/python manage.py "$@"
