"""Hands domains to libvirt's QEMU driver inside this process and prints what it made of them.

    embedded.py ROOT FILE...      ROOT: an empty folder for the driver; FILE: a domain's XML, named *.start.xml to be started as well

Prints one JSON object: file name -> {"xml": ...} or {"error": ...}. A process of its own, because libvirt's event loop cannot be ended.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import libvirt

CONFIG = """user = "root"
group = "root"
cgroup_controllers = []
stdio_handler = "file"
namespaces = []
security_driver = "none"
"""
"""Without user = "root" libvirt probes QEMU again and again where /dev/kvm is root's own."""


def turn_events() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


def tried(connection: libvirt.virConnect, file: Path) -> dict[str, str]:
    """Define the domain with the schema checked by libvirt itself, or start it paused, and read it back."""
    xml = file.read_text(encoding="utf-8")
    try:
        if file.name.endswith(".start.xml"):
            flags = libvirt.VIR_DOMAIN_START_VALIDATE | libvirt.VIR_DOMAIN_START_PAUSED
            domain = connection.createXML(xml, flags)
            try:
                return {"xml": domain.XMLDesc()}
            finally:
                domain.destroy()
        domain = connection.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
        try:
            return {"xml": domain.XMLDesc()}
        finally:
            domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
    except libvirt.libvirtError as err:
        return {"error": str(err)}


def main(root: Path, files: list[Path]) -> None:
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "qemu.conf").write_text(CONFIG, encoding="utf-8")
    libvirt.registerErrorHandler(lambda *_: None, None)
    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=turn_events, daemon=True).start()
    connection = libvirt.open(f"qemu:///embed?root={root}")
    print(json.dumps({file.name: tried(connection, file) for file in files}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
