#!/bin/sh
# manage.py of the release that is current, with the site's environment and rights:
#   sh /opt/resilient-site/current/deploy/manage.sh migrate
set -eu
# As systemd takes it: no sign in a value means anything to a shell.
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
