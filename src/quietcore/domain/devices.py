"""The remaining devices: emulator, serial console, graphics, balloon, random numbers."""

from __future__ import annotations

from quietcore.domain.draft import Draft, add


def contribute(draft: Draft) -> None:
    """Write what the manifest asks for and nothing else: no USB, no tablet, no sound."""
    devices, spec, build = draft.section("devices"), draft.spec, draft.build
    devices.insert(0, add(devices, "emulator", build.emulator))
    if spec.serial_console:
        serial = add(devices, "serial", type="pty")  # a pty is what virDomainOpenConsole opens
        if build.console_log:
            add(serial, "log", file=build.console_log, append="on")
        add(serial, "target", port=0)
    _graphics(draft)
    _balloon(draft)
    if spec.rng:
        add(add(devices, "rng", model="virtio"), "backend", "/dev/urandom", model="random")


def _graphics(draft: Draft) -> None:
    """VNC on a UNIX socket that libvirt makes in the domain's own folder. It brings the thread `vnc_worker`, which is housekeeping."""
    if not draft.spec.graphics:
        return
    if draft.spec.cpu.realtime is not None:
        draft.notes.append("a real-time guest gets no graphics device")
        return
    devices = draft.section("devices")
    add(add(devices, "graphics", type="vnc"), "listen", type="socket")
    kind = "vga" if draft.spec.architecture == "amd64" else "virtio"
    add(add(devices, "video"), "model", type=kind, heads=1, **({"vram": 16384} if kind == "vga" else {}))


def _balloon(draft: Draft) -> None:
    spec = draft.spec
    realtime = spec.cpu.realtime is not None
    if realtime and spec.memory_balloon:
        draft.notes.append("a real-time guest gets no memory balloon")
    if realtime or not spec.memory_balloon:
        add(draft.section("devices"), "memballoon", model="none")
        return
    # Pages given back by the guest come back by faults: not for guests whose memory is theirs (KubeVirt's rule, virtwrap/manager.go).
    keeps = spec.cpu.dedicated or spec.memory.hugepage_bytes is not None
    add(draft.section("devices"), "memballoon", model="virtio", freePageReporting="off" if keeps else "on")
