#!/bin/sh
# Has the web processes make way for those of the release that `current` now links to,
# one unit after the other, and no request is lost:
#   sh deploy/release.sh resilient-site-web@1 resilient-site-web@2
# If the new ones of a unit do not start, its old ones go on and nothing else is done.
set -eu

WAIT_S=${WAIT_S:-60}

main_pid() { systemctl show --property=MainPID --value "$1"; }

for unit in "$@"; do
    old=$(main_pid "$unit")
    echo "$unit: starting new web processes beside those of $old"
    systemctl reload "$unit"
    left=$((WAIT_S * 5))
    # The new ones are the main ones as soon as one of them answers.
    while [ "$(main_pid "$unit")" = "$old" ]; do
        left=$((left - 1))
        if [ "$left" -le 0 ]; then
            echo "$unit: no new web process answers after $WAIT_S s; the old ones go on." \
                "Look at: journalctl -u $unit" >&2
            exit 1
        fi
        sleep 0.2
    done
    echo "$unit: $(main_pid "$unit") has taken over"
done
