#!/bin/sh
# Installs what is missing of the named Debian packages, where that can be done
# without asking anybody:  sh deploy/system_packages.sh chromium redis-server
# Elsewhere it says what to run and succeeds: tests skip what they lack, saying so.
set -eu
# Servers live in sbin, which an ordinary user's PATH leaves out.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export PATH

present() {
    case $1 in
    chromium) names='chromium chromium-browser google-chrome' ;;
    redis-server) names='redis-server valkey-server' ;;
    *) names=$1 ;;
    esac
    for name in $names; do
        if command -v "$name" >/dev/null 2>&1; then return 0; fi
    done
    return 1
}

missing=
for package in "$@"; do
    if ! present "$package"; then missing="$missing $package"; fi
done
[ -n "$missing" ] || exit 0

by_hand() {
    echo "Not installed:$missing. For the tests that use them:" \
        "sudo apt-get install --no-install-recommends$missing" >&2
    exit 0
}

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    by_hand
fi

log=$(mktemp)
policy=/usr/sbin/policy-rc.d
made_policy=
clean_up() {
    rm -f "$log"
    if [ -n "$made_policy" ]; then rm -f "$policy"; fi
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' HUP TERM

# Debian starts a service as it installs it, on its usual port, with no password.
if [ ! -e "$policy" ] && [ -d "${policy%/*}" ]; then
    made_policy=yes
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

apt() {
    DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120 \
        -o Acquire::Retries=3 "$@" >>"$log" 2>&1 </dev/null
}

install_missing() {
    # shellcheck disable=SC2086 # one word for each package
    # One broken extra source must not keep the others from being used.
    apt update || :
    apt install -y --no-install-recommends $missing
}

# Nor are they to start with the machine: the tests start their own.
enabled() {
    for unit in nginx.service redis-server.service rabbitmq-server.service epmd.service \
        epmd.socket pgbouncer.service prometheus.service; do
        if systemctl is-enabled --quiet "$unit" 2>/dev/null; then echo "$unit"; fi
    done
}
enabled_before=$(enabled)

echo "Installing with apt-get:$missing"
if ! install_missing; then
    sleep 3
    if ! install_missing; then
        tail -n 20 "$log" >&2
        by_hand
    fi
fi
for unit in $(enabled); do
    case $enabled_before in
    *"$unit"*) ;;
    *) systemctl disable --quiet "$unit" >>"$log" 2>&1 || : ;;
    esac
done
