"""KubeVirt's admission rules for interfaces and networks, with its texts (pkg/network/admitter)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from quietcore.manifest.causes import Check
from quietcore.manifest.tree import Tree

_NAME: Final = re.compile(r"[A-Za-z0-9_-]+")
_MODELS: Final = frozenset({"", "e1000", "e1000e", "igb", "ne2k_pci", "pcnet", "rtl8139", "virtio"})
_MAC: Final = re.compile(r"[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}")
_INTERFACES: Final = "domain.devices.interfaces"


def check_network(check: Check) -> None:
    """Every rule of this file."""
    interfaces, networks = check.spec.items(_INTERFACES), check.spec.items("networks")
    by_name = {network.text("name"): network for network in networks}
    attached = {interface.text("name") for interface in interfaces}
    _networks(check, networks, attached)
    seen: set[str] = set()
    for index, interface in enumerate(interfaces):
        path, name = f"{_INTERFACES}[{index}]", interface.text("name")
        if name not in by_name:
            check.invalid(f"{path}.name", f"{check.at(path)}.name '{name}' not found.")
        if name in seen:
            check.invalid(f"{path}.name", "Only one interface can be connected to one specific network", "FieldValueDuplicate")
        seen.add(name)
        _interface(check, interface, path, by_name)


def _networks(check: Check, networks: tuple[Tree, ...], attached: set[str]) -> None:
    seen: set[str] = set()
    if sum(network.has("pod") for network in networks) > 1:
        message = f"more than one interface is connected to a pod network in {check.at('interfaces')}"
        check.invalid("interfaces", message, "FieldValueDuplicate")
    for index, network in enumerate(networks):
        path, name = f"networks[{index}]", network.text("name")
        if name in seen:
            message = f'Network with name "{name}" already exists, every network must have a unique name'
            check.invalid(f"{path}.name", message, "FieldValueDuplicate")
        seen.add(name)
        if name not in attached:
            check.invalid(f"{path}.name", f"{check.at(path)}.name '{name}' not found.", "FieldValueRequired")
        kinds = network.has("pod") + network.has("multus")
        if kinds != 1:
            message = "should have a network type" if kinds == 0 else "should have only one network type"
            check.invalid(path, message, "FieldValueRequired")
        if network.has("multus") and not network.text("multus.networkName"):
            check.invalid(path, "CNI delegating plugin must have a networkName", "FieldValueRequired")


def _interface(check: Check, interface: Tree, path: str, networks: Mapping[str, Tree]) -> None:
    name, model, mac = interface.text("name"), interface.text("model"), interface.text("macAddress")
    here = check.at(path)
    network = networks.get(name, Tree())
    if not _NAME.fullmatch(name):
        message = "Network interface name can only contain alphabetical characters, numbers, dashes (-) or underscores (_)"
        check.invalid(f"{path}.name", message)
    if model not in _MODELS:
        check.invalid(f"{path}.model", f"interface {here}.name uses model {model} that is not supported.", "FieldValueNotSupported")
    if mac and not _MAC.fullmatch(mac):
        check.invalid(f"{path}.macAddress", f"interface {here}.name has malformed MAC address ({mac}).")
    if sum(interface.has(binding) for binding in ("bridge", "masquerade", "binding")) != 1:
        check.invalid(path, f"logical {name} interface must have exactly one binding method or binding plugin")
    if interface.has("masquerade") and not network.has("pod"):
        check.invalid(f"{path}.name", "Masquerade interface only implemented with pod network")
    if interface.has("masquerade") and mac == "02:00:00:00:00:00":
        message = "The requested MAC address is reserved for the in-pod bridge. Please choose another one."
        check.invalid(f"{path}.macAddress", message)
    if network.has("pod"):
        _ports(check, interface, path)


def _ports(check: Check, interface: Tree, path: str) -> None:
    names: set[str] = set()
    for index, port in enumerate(interface.items("ports")):
        where, name, number = f"{path}.ports[{index}]", port.text("name"), port.number("port")
        if name and name in names:
            check.invalid(f"{where}.name", f"Duplicate name of the port: {name}", "FieldValueDuplicate")
        names.add(name)
        if number == 0:
            check.invalid(f"{where}.port", "Port field is mandatory.", "FieldValueRequired")
        elif not 0 < number < 65536:
            check.invalid(f"{where}.port", "Port field must be in range 0 < x < 65536.")
        if port.text("protocol") not in {"", "TCP", "UDP"}:
            check.invalid(f"{where}.protocol", "Unknown protocol, only TCP or UDP allowed")
