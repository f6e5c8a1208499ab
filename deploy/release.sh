#!/bin/sh
# Restarts the web units, one after the other, on the release that `current` links to:
#   sh deploy/release.sh resilient-site-web@1 resilient-site-web@2
# nginx sends a unit no requests meanwhile (`down`), so none is lost. A unit that does not
# answer afterwards stays out of nginx, and the ones after it keep the old release.
set -eu

UPSTREAM=${UPSTREAM:-/etc/nginx/machine/upstream.conf}
# For requests that nginx has taken and not passed on yet. gunicorn finishes the others.
DRAIN_S=${DRAIN_S:-2}
WAIT_S=${WAIT_S:-60}

fail() {
    echo "$*" >&2
    exit 1
}

put_back() { # address
    sed -i "/^server $1 /s/ down;/;/" "$UPSTREAM"
}

for unit in "$@"; do
    address=127.0.0.1:800${unit##*@}
    grep -q "^server $address " "$UPSTREAM" || fail "$unit: no $address in $UPSTREAM"
    put_back "$address"
    sed -i "/^server $address /s/;/ down;/" "$UPSTREAM"
    if ! grep '^server ' "$UPSTREAM" | grep -qv ' down;'; then
        put_back "$address"
        fail "$unit: no other unit takes its requests"
    fi
    echo "$unit: restarting"
    systemctl reload nginx
    sleep "$DRAIN_S"
    systemctl restart "$unit" || :
    left=$WAIT_S
    until curl --silent --fail --max-time 2 --output /dev/null "http://$address/livez"; do
        left=$((left - 1))
        [ "$left" -gt 0 ] ||
            fail "$unit: does not answer and stays out of nginx. See journalctl -u $unit"
        sleep 1
    done
    put_back "$address"
    systemctl reload nginx
    echo "$unit: serves"
done
