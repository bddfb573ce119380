#!/usr/bin/env bash
# Installs quietcore for the whole host below /opt/quietcore, or removes it again. Usage: install.sh install|uninstall
set -euo pipefail
cd "$(dirname "$0")/.."

HOME_DIR=/opt/quietcore
COMMAND=/usr/local/bin/quietcore
UNITS=/etc/systemd/system
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
    getent group quietcore >/dev/null || { say "group quietcore: its members see VMs through the agent"; groupadd --system quietcore; }
    if [ -d "$UNITS" ]; then
        say "$UNITS/quietcore-agent.service: keeps VMs as the books say, also after a boot; quietcore-vms.service keeps their cgroups"
        cp packaging/systemd/quietcore-{agent,vms}.service "$UNITS"
        if [ -d /run/systemd/system ]; then
            systemctl daemon-reload
            systemctl enable --now quietcore-vms.service quietcore-agent.service
        fi
    fi
}

uninstall() {
    if [ -d /run/systemd/system ] && [ -e "$UNITS/quietcore-agent.service" ]; then
        systemctl disable --now quietcore-agent.service
        systemctl disable quietcore-vms.service # it stays until the next boot: VMs that run keep their partitions
    fi
    rm -rf "$HOME_DIR"
    rm -f "$COMMAND" "$UNITS"/quietcore-{agent,vms}.service "$COMPLETION"
    [ ! -d /run/systemd/system ] || systemctl daemon-reload
    say "removed; VMs that run go on, and the group quietcore, /var/lib/quietcore, /etc/quietcore and /var/cache/quietcore stay"
}

case "${1:-}" in
    install | uninstall) "$1" ;;
    *) echo "usage: install.sh install|uninstall" >&2; exit 2 ;;
esac
