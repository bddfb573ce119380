#!/usr/bin/env bash
# make demo: a VM with a CPU of its own on this host, from nothing, with the proof. Safe to repeat.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PWD/.venv/bin:$PATH
IMAGE=quietcore.io/demo:1
VM=quickstart

step() { printf '\n== %s\n' "$*"; }

[ "$(id -u)" = 0 ] || { echo "demo: this needs root: libvirt's system driver and cgroups" >&2; exit 4; }

step "libvirt"
python scripts/start_libvirt.py

step "the demo guest, as image $IMAGE"
quietcore image import "$IMAGE" "$(/usr/bin/python3 scripts/demo_guest.py)"

step "quietcore run -f examples/$VM.yaml"
quietcore run -f "examples/$VM.yaml"

step "the guest, on its serial console"
python scripts/demo_console.py quietcore console "$VM"

step "quietcore topology: who has which CPU"
quietcore topology

step "quietcore verify $VM: read back from the kernel"
quietcore verify "$VM"

step "The VM keeps running. Next:"
cat <<END
  .venv/bin/quietcore describe $VM        every thread of the VM and where it may run
  .venv/bin/quietcore console $VM         its shell; leave with Ctrl-]
  .venv/bin/quietcore delete $VM          no domain, cgroup or file is left, and its CPU is free
END
