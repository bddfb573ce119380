#!/usr/bin/env bash
# Installs quietcore for the whole host below /opt/quietcore, or removes it again. Usage: install.sh install|uninstall
set -euo pipefail
cd "$(dirname "$0")/.."

HOME_DIR=/opt/quietcore
COMMAND=/usr/local/bin/quietcore
UNIT=/etc/systemd/system/quietcore.service
COMPLETION=/usr/share/bash-completion/completions/quietcore

say() { printf 'install: %s\n' "$*"; }

[ "$(id -u)" = 0 ] || { say "this needs root" >&2; exit 4; }

install() {
    bash scripts/setup.sh host
    say "$HOME_DIR: a virtual environment of its own"
    rm -rf "$HOME_DIR"
    /usr/bin/python3 -m venv --system-site-packages "$HOME_DIR"
    "$HOME_DIR/bin/python" -m pip install -qq --disable-pip-version-check --require-hashes --ignore-installed -r requirements.lock
    "$HOME_DIR/bin/python" -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation .
    say "$COMMAND"
    ln -sfn "$HOME_DIR/bin/quietcore" "$COMMAND"
    if [ -d "$(dirname "$COMPLETION")" ]; then
        say "$COMPLETION"
        "$COMMAND" completion bash >"$COMPLETION"
    fi
    if [ -d /etc/systemd/system ]; then
        say "$UNIT: after a boot, VMs are as their run strategy says"
        cp scripts/quietcore.service "$UNIT"
        if [ -d /run/systemd/system ]; then
            systemctl daemon-reload
            systemctl enable --now quietcore.service
        fi
    fi
}

uninstall() {
    if [ -d /run/systemd/system ] && [ -e "$UNIT" ]; then
        systemctl disable quietcore.service
    fi
    rm -rf "$HOME_DIR"
    rm -f "$COMMAND" "$UNIT" "$COMPLETION"
    [ ! -d /run/systemd/system ] || systemctl daemon-reload
    say "removed; VMs that run go on, and /var/lib/quietcore, /etc/quietcore and /var/cache/quietcore stay"
}

case "${1:-}" in
    install | uninstall) "$1" ;;
    *) echo "usage: install.sh install|uninstall" >&2; exit 2 ;;
esac
