#!/bin/sh
# Makes .venv, or brings it up to date, from a lock file with hashes:
#   sh deploy/bootstrap.sh requirements.txt        (or LOCK=requirements.txt)
# PYTHON=/path/to/python3 is tried first.
set -eu
CDPATH='' cd -- "$(dirname -- "$0")/.."

lock=${1:-${LOCK:-requirements.txt}}
# Without this, uv knows only its own certificates, not those of a company's proxy.
export UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-true}"
venv=.venv
python=$venv/bin/python
unfinished=$venv/.unfinished

say() { printf '%s\n' "$*"; }

give_up() {
    rm -rf "$venv"
    say "$*" >&2
    exit 1
}

# A candidate is run, not just looked for: a pyenv shim exists and still exits 127.
# Prints the interpreter outside any virtual environment, as .venv itself may be
# the active one and is about to be removed.
probe='
import sys
if sys.version_info < (3, 12) or sys.implementation.name != "cpython":
    sys.exit(1)
print(getattr(sys, "_base_executable", None) or sys.executable)
'
accept() {
    [ -f "$1" ] && [ -x "$1" ] && "$1" -c "$probe" 2>/dev/null </dev/null
}

accept_on_path() {
    name=$1
    old_ifs=$IFS
    IFS=:
    for dir in $PATH; do
        IFS=$old_ifs
        if accept "${dir:-.}/$name"; then return 0; fi
    done
    IFS=$old_ifs
    return 1
}

find_python() {
    if accept "${PYTHON:-}"; then return 0; fi
    for minor in 13 14 12; do
        if accept_on_path "python3.$minor"; then return 0; fi
        for file in \
            "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/3.$minor*/bin/python3.$minor \
            "${ASDF_DATA_DIR:-${HOME:-}/.asdf}"/installs/python/3.$minor*/bin/python3.$minor \
            "${HOME:-}"/.local/share/mise/installs/python/3.$minor*/bin/python3.$minor \
            /opt/homebrew/bin/python3.$minor \
            /usr/local/bin/python3.$minor; do
            if accept "$file"; then return 0; fi
        done
    done
    accept_on_path python3
}

find_uv() {
    old_ifs=$IFS
    IFS=:
    for dir in "$venv/bin" $PATH; do
        IFS=$old_ifs
        if [ -x "$dir/uv" ] && "$dir/uv" --version >/dev/null 2>&1; then
            say "$dir/uv"
            return 0
        fi
    done
    IFS=$old_ifs
    return 1
}

uv_venv() {
    "$uv" venv -q --allow-existing "$@" "$venv" >/dev/null 2>&1
}

make_venv() {
    base=$(find_python) || base=
    rm -rf "$venv"
    uv=$(find_uv) || uv=
    mkdir "$venv"
    : >"$unfinished"
    if [ -n "$uv" ]; then
        if [ -n "$base" ]; then
            uv_venv --python "$base" || :
        elif ! UV_PYTHON_DOWNLOADS=never uv_venv --python '>=3.12'; then
            say 'Fetching Python 3.13 with uv'
            uv_venv --python 3.13 || :
        fi
    fi
    if ! accept "$python" >/dev/null && [ -n "$base" ]; then
        # Copying pip into it takes as long as installing everything with uv.
        "$base" -m venv --without-pip "$venv" >/dev/null 2>&1 ||
            give_up "$base cannot make a virtual environment: install its venv module (Debian: apt-get install python3-venv), or uv."
    fi
    if ! accept "$python" >/dev/null; then
        [ -z "$uv" ] ||
            give_up 'No Python 3.12 or newer was found and uv could not fetch one: install one, or name it with PYTHON=/path/to/python3.'
        give_up 'No Python 3.12 or newer was found: install one, or uv, or name it with PYTHON=/path/to/python3.'
    fi
    say "Made $venv with $("$python" --version)"
}

# Installs into .venv with the pip of the given interpreter.
pip_install() {
    pip=$1
    shift
    "$pip" -m pip --python "$python" install -qq --no-input \
        --disable-pip-version-check --require-hashes "$@"
}

# Prints the first interpreter that has a pip for .venv: itself, or the one outside.
find_pip() {
    for pip in "$python" "$(accept "$python")"; do
        if "$pip" -m pip --python "$python" --version >/dev/null 2>&1; then
            say "$pip"
            return 0
        fi
    done
    "$python" -m ensurepip >/dev/null 2>&1 && say "$python"
}

# uv from the development lock, by its hash.
install_uv() {
    awk '/^uv==/ { on = 1; print; next } on && /^ / { print; next } { on = 0 }' \
        requirements-dev.txt >"$venv/.uv.txt" &&
        [ -s "$venv/.uv.txt" ] &&
        {
            pip_install "$(accept "$python")" --no-deps -r "$venv/.uv.txt" ||
                { pip=$(find_pip) && pip_install "$pip" --no-deps -r "$venv/.uv.txt"; }
        } >/dev/null 2>&1
}

if [ ! -f "$lock" ]; then
    say "No lock file $lock" >&2
    exit 1
fi

# The mark stays when a run is cut off at any point. What is in .venv then cannot
# be distinguished from a whole installation, so the next run starts over.
if [ -e "$unfinished" ] || ! accept "$python" >/dev/null; then
    make_venv
fi
: >"$unfinished"

say "Installing $lock"
if ! uv=$(find_uv) && install_uv; then uv=$venv/bin/uv; fi
if [ -z "$uv" ] ||
    ! "$uv" pip install -q --python "$python" --require-hashes -r "$lock"; then
    if ! pip=$(find_pip); then
        say "There is neither uv nor pip to install $lock: install one (Debian: apt-get install python3-pip)." >&2
        exit 1
    fi
    pip_install "$pip" -r "$lock"
fi
rm -f "$unfinished" "$venv/.uv.txt"
