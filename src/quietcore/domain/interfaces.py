"""Network interfaces: user-mode network, host bridge, vhost-user socket."""

from __future__ import annotations

from quietcore.domain.draft import Draft, add
from quietcore.errors import Problem
from quietcore.model import Interface


def contribute(draft: Draft) -> None:
    """Write an <interface> for each interface.

    KubeVirt's masquerade becomes QEMU's user-mode network. Its ports can be forwarded only by the `passt` backend (libvirt 9.0.0):
    libvirt has no words for SLIRP's own forwarding.
    """
    for interface in draft.spec.interfaces:
        match interface.binding:
            case "masquerade":
                _user(draft, interface)
            case "bridge":
                _bridge(draft, interface)
            case "vhostuser":
                _vhost_user(draft, interface)


def _user(draft: Draft, interface: Interface) -> None:
    made = add(draft.section("devices"), "interface", type="user")
    if draft.build.passt:
        add(made, "backend", type="passt")
        for port in interface.ports:
            add(add(made, "portForward", proto="tcp"), "range", start=port)
    elif interface.ports:
        ports = ", ".join(str(port) for port in interface.ports)
        draft.notes.append(f"interface {interface.name}: ports {ports} are not forwarded; that needs passt, which this host does not have")
    _common(draft, interface, queues=False)


def _bridge(draft: Draft, interface: Interface) -> None:
    bridge = interface.source or draft.build.default_bridge
    if not bridge:
        message = f"interface {interface.name} is bound to a bridge, and no host bridge is named"
        hint = "name one in the network's multus.networkName, or give the host a default bridge"
        draft.problems.append(Problem(message=message, hint=hint, code="bridge-without-name", ours=True))
    made = add(draft.section("devices"), "interface", type="bridge")
    add(made, "source", bridge=bridge)
    _common(draft, interface, queues=draft.spec.network_multiqueue)


def _vhost_user(draft: Draft, interface: Interface) -> None:
    # QEMU listens and the switch connects: then either may be restarted (Open vSwitch's dpdkvhostuserclient).
    made = add(draft.section("devices"), "interface", type="vhostuser")
    add(made, "source", type="unix", path=interface.source, mode="server")
    _common(draft, interface, queues=draft.spec.network_multiqueue)


def _common(draft: Draft, interface: Interface, *, queues: bool) -> None:
    made = draft.section("devices")[-1]
    if interface.mac:
        add(made, "mac", address=interface.mac)
    add(made, "model", type=interface.model)
    if queues and interface.model == "virtio":
        add(made, "driver", queues=draft.spec.cpu.topology.vcpus)
    if interface.boot_order is not None:
        add(made, "boot", order=interface.boot_order)
    else:
        add(made, "rom", enabled="no")  # nothing boots from it, and the boot ROM costs a second at the start
    add(made, "alias", name=f"ua-{interface.name}")
