#!/usr/bin/env bash
# Installs what the project needs on Debian 12, Debian 13 and Ubuntu 24.04; says what it does; safe to repeat.
#   setup.sh PART...    python  the virtual environment .venv        host  what running VMs needs
#                       test    what the tests need besides          lab   what the lab machines need
# Nothing is done where nothing is missing. Installing packages needs root (exit code 4 without).
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON_PACKAGES=(python3 python3-venv ca-certificates)
# ovmf: guests that boot by EFI; qemu-utils: qemu-img; skopeo and zstd: images from registries; util-linux: unshare and taskset
HOST_PACKAGES=(python3-libvirt libvirt-daemon-system qemu-system-x86 ovmf qemu-utils skopeo zstd util-linux)
# libarchive-tools: bsdtar reads back the cloud-init seeds; git: the tests start from a clone
TEST_PACKAGES=(make git busybox-static kmod rt-tests libarchive-tools procps)
# What runs the lab, and what its tests find inside: the lab's root file system is this host's own.
LAB_PACKAGES=(qemu-system-x86 ovmf qemu-utils busybox-static kmod util-linux libvirt-daemon-system python3-libvirt systemd systemd-container dbus)
# Only where the distribution has no python3-libvirt.
BUILD_PACKAGES=(libvirt-dev gcc pkg-config python3-dev)

POLICY=${POLICY_RC_D:-/usr/sbin/policy-rc.d} # tests put it elsewhere

say() { printf 'setup: %s\n' "$*"; }

usage() {
    echo "usage: setup.sh PART...   with the parts python, host, test, lab" >&2
    exit 2
}

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# Without a pipe: grep -q would end apt-cache early, which pipefail takes for a failure.
offered() {
    local known='Candidate: [^(]'
    [[ $(apt-cache policy "$1" 2>/dev/null) =~ $known ]]
}

need_root() {
    [ "$(id -u)" = 0 ] || { say "$1: this needs root; run it once as root" >&2; exit 4; }
}

apt_run() {
    DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=600 "$@" </dev/null >/dev/null
}

# Outside systemd (a container, a chroot) the packages' services are not started: policy-rc.d answers 101, "not allowed", as
# https://people.debian.org/~hmh/invokerc.d-policyrc.d-specification.txt has it. One that exists already is the administrator's.
without_starting_services() {
    local status=0
    if [ -d /run/systemd/system ] || [ -e "$POLICY" ]; then
        "$@"
        return
    fi
    printf '#!/bin/sh\nexit 101\n' >"$POLICY"
    chmod 755 "$POLICY"
    trap 'rm -f "$POLICY"' EXIT
    "$@" || status=$?
    rm -f "$POLICY"
    trap - EXIT
    return "$status"
}

packages() {
    local missing=() package
    for package in "$@"; do
        installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    need_root "missing packages: ${missing[*]}"
    for package in "${missing[@]}"; do
        offered "$package" || { refresh "$package is not in the package lists"; break; }
    done
    say "installing ${missing[*]}"
    without_starting_services apt_run install -y --no-install-recommends "${missing[@]}" || {
        refresh "that failed; the package lists may be old"
        without_starting_services apt_run install -y --no-install-recommends "${missing[@]}"
    }
}

refresh() {
    say "$1: apt-get update"
    apt_run update
}

python_environment() {
    packages "${PYTHON_PACKAGES[@]}"
    /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        say "/usr/bin/python3 is older than 3.11; Debian 12, Debian 13 and Ubuntu 24.04 have a newer one" >&2
        exit 2
    }
    say "virtual environment .venv (/usr/bin/python3, with the distribution's packages visible)"
    .venv/bin/python -c '' 2>/dev/null || { rm -rf .venv; /usr/bin/python3 -m venv --system-site-packages .venv; }
    .venv/bin/python -m pip install -qq --disable-pip-version-check --require-hashes --ignore-installed -r requirements.lock
    .venv/bin/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
    touch .venv/.ready
}

host_packages() {
    if installed python3-libvirt || offered python3-libvirt; then
        packages "${HOST_PACKAGES[@]}"
        return
    fi
    local wanted=() package
    for package in "${HOST_PACKAGES[@]}"; do
        [ "$package" = python3-libvirt ] || wanted+=("$package")
    done
    packages "${wanted[@]}" # refreshes old lists, after which the binding may be on offer
    if offered python3-libvirt; then packages python3-libvirt; else binding_from_pypi; fi
}

# libvirt-python is a source package on PyPI: it is built against the libvirt that is installed.
binding_from_pypi() {
    [ -e .venv/.ready ] || python_environment
    .venv/bin/python -c 'import libvirt' 2>/dev/null && return
    packages "${BUILD_PACKAGES[@]}"
    say "building libvirt-python from PyPI: the distribution has no python3-libvirt"
    .venv/bin/python -m pip install -qq --disable-pip-version-check 'libvirt-python>=9.0'
}

lab_packages() {
    packages "${LAB_PACKAGES[@]}"
    if [ -z "$(apt-cache pkgnames linux-image-6.12.)" ]; then
        need_root "the package lists know no 6.12 kernel"
        refresh "the package lists know no 6.12 kernel"
    fi
}

[ $# -gt 0 ] || usage
for part in "$@"; do
    case "$part" in
        python) python_environment ;;
        host) host_packages ;;
        test) host_packages; packages "${TEST_PACKAGES[@]}" ;;
        lab) lab_packages ;;
        *) usage ;;
    esac
done
