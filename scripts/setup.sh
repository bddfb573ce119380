#!/usr/bin/env bash
# Installs what the project needs. Safe to repeat. Usage: setup.sh python|lab
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*"; }

python_environment() {
    say "virtual environment .venv (/usr/bin/python3, with the distribution's packages visible)"
    [ -x .venv/bin/python ] || /usr/bin/python3 -m venv --system-site-packages .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --ignore-installed -r requirements.lock
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
    touch .venv/.ready
}

# What runs the lab, and what its tests find inside: the lab's root file system is this host's own.
LAB_PACKAGES=(qemu-system-x86 busybox-static kmod util-linux libvirt-daemon-system python3-libvirt systemd systemd-container dbus)

lab_packages() {
    local missing=()
    for package in "${LAB_PACKAGES[@]}"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    if [ ${#missing[@]} -gt 0 ] || [ -z "$(apt-cache pkgnames linux-image-6.12.)" ]; then
        say "lab packages: ${missing[*]:-only the package lists are old}"
        apt-get update -qq
        [ ${#missing[@]} -eq 0 ] || DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}"
    fi
}

case "${1:-python}" in
    python) python_environment ;;
    lab) lab_packages ;;
    *) echo "usage: setup.sh python|lab" >&2; exit 2 ;;
esac
