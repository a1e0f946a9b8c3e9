# Shared by the scripts beside this file; sourced, never run.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
clients=$venv/clients
cd "$root" || exit

say() { printf '%s\n' "$*" >&2; }

die() {
    say "error: $*"
    exit 1
}

# Install Debian packages, by sudo where needed.
apt_install() {
    local -a as_root=()
    command -v apt-get >/dev/null || die "missing: $*; this is no Debian, install them by hand"
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || die "missing: $*; run as root: apt-get install $*"
        as_root=(sudo)
    fi
    say "installing $*"
    "${as_root[@]}" apt-get update -qq >&2
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "$@" >&2 ||
        die "apt-get could not install: $*"
}

# need_commands COMMAND=PACKAGE[,PACKAGE] ...: install the packages of missing commands.
need_commands() {
    local pair
    local -a packages=() wanted=()
    for pair in "$@"; do
        if ! PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%=*}" >/dev/null; then
            IFS=, read -r -a wanted <<<"${pair#*=}"
            packages+=("${wanted[@]}")
        fi
    done
    [ ${#packages[@]} -eq 0 ] || apt_install "${packages[@]}"
}

# Print the first Python that is new enough.
find_python() {
    local name
    for name in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    return 1
}

make_venv() {
    local python
    find_python >/dev/null || apt_install python3 python3-venv
    python=$(find_python) || die "Python 3.11 or newer is needed; set PYTHON to where it is"
    "$python" -c 'import ensurepip, venv' 2>/dev/null || apt_install python3-venv
    say "making .venv"
    "$python" -m venv --clear "$venv"
}

# ensure_venv TARGET: make .venv and pip install TARGET (`.` or `.[EXTRA]`), unless that is done.
ensure_venv() {
    local target=$1 stamp=$venv/.installed-$1 want
    "$venv/bin/python" -c 'import pip' 2>/dev/null || make_venv
    want=$(printf '%s' "$root" | cat - pyproject.toml setup.py edge/forwarder/native_src/* | sha256sum)
    if [ ! -x "$venv/bin/edge" ] || [ "$want" != "$(cat "$stamp" 2>/dev/null)" ]; then
        say "installing the project into .venv"
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e "$target" >&2 ||
            die "pip could not install the project"
        printf '%s\n' "$want" >"$stamp"
    fi
}

# ensure_clients: install what tests/clients/package.json names, unless that is done.
ensure_clients() {
    local stamp=$clients/.installed want
    need_commands node=nodejs npm=npm
    want=$(sha256sum <tests/clients/package.json)
    if [ "$want" != "$(cat "$stamp" 2>/dev/null)" ]; then
        say "installing the client packages into .venv/clients"
        mkdir -p "$clients"
        cp tests/clients/package.json "$clients/"
        npm install --prefix "$clients" --ignore-scripts --no-package-lock --no-audit --no-fund \
            --loglevel=error >&2 || die "npm could not install the client packages"
        printf '%s\n' "$want" >"$stamp"
    fi
}
