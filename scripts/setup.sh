#!/usr/bin/env bash
# Installs what the project needs. Safe to repeat. Usage: setup.sh python
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

case "${1:-python}" in
    python) python_environment ;;
    *) echo "usage: setup.sh python" >&2; exit 2 ;;
esac
