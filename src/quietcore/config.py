"""The host's configuration, /etc/quietcore/config.toml: read once in the command line and handed down as a value."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal, TypeAlias, get_args

from quietcore.errors import InputError, Problem
from quietcore.model import CpuPolicyOptions, CpuSet, Options, Strategy, TopologyPolicy, TopologyScope
from quietcore.model.options import Compat

DEFAULT_PATH: Final = "/etc/quietcore/config.toml"
Acceleration: TypeAlias = Literal["auto", "kvm", "tcg"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Every setting with its default. `qemu_user` is the account under which libvirt starts QEMU (qemu.conf `user`).

    `bridge` is the host's bridge for interfaces with the binding `bridge` on the pod network.
    `socket` is the agent's; the members of `group` may read through it, those of `change_group` ("": only root) change VMs.
    `allow_host_settings` lets real-time VMs switch off the kernel's throttling and its fair server while they run.
    `resync_s` seconds lie between two looks at everything that no event announced.
    """

    state_dir: str = "/var/lib/quietcore"
    uri: str = "qemu:///system"
    acceleration: Acceleration = "auto"
    qemu_user: str = "libvirt-qemu"
    emulator: str = "/usr/bin/qemu-system-x86_64"
    bridge: str = ""
    strategy: Strategy = "dedicated"
    allow_host_settings: bool = False
    options: Options = field(default_factory=Options)
    socket: str = "/run/quietcore/agent.sock"
    group: str = "quietcore"
    change_group: str = ""
    resync_s: float = 30.0


_SETTINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "paths": ("state",),
    "hypervisor": ("uri", "acceleration", "qemu_user", "emulator", "bridge"),
    "isolation": ("strategy",),
    "realtime": ("allow_host_settings",),
    "agent": ("socket", "group", "change_group", "resync_seconds"),
    "placement": (
        "reserved_cpus",
        "compat",
        "cpu_manager_options",
        "topology_manager_policy",
        "topology_manager_scope",
        "prefer_closest_numa_nodes",
    ),
    "reserved_memory": (),
}


def parse(text: str, file: str = DEFAULT_PATH) -> Config:
    """Read the configuration. Raises InputError with every fault: unknown tables and keys, wrong types, values out of range."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as err:
        raise InputError.of((Problem(message=f"not valid TOML: {err}", file=file),)) from err
    problems = tuple(Problem(message=message, file=file, field=place) for place, message in _faults(tables))
    if problems:
        raise InputError.of(problems)
    hypervisor, placement, agent = (tables.get(name, {}) for name in ("hypervisor", "placement", "agent"))
    return Config(
        state_dir=tables.get("paths", {}).get("state", Config().state_dir),
        strategy=tables.get("isolation", {}).get("strategy", "dedicated"),
        allow_host_settings=tables.get("realtime", {}).get("allow_host_settings", False),
        options=Options(
            compat=placement.get("compat", "fixed"),
            cpu=CpuPolicyOptions(**{name.replace("-", "_"): True for name in placement.get("cpu_manager_options", ())}),
            topology_policy=placement.get("topology_manager_policy", "best-effort"),
            topology_scope=placement.get("topology_manager_scope", "pod"),
            prefer_closest_numa_nodes=placement.get("prefer_closest_numa_nodes", False),
            reserved_cpus=CpuSet.parse(placement["reserved_cpus"]) if "reserved_cpus" in placement else None,
            reserved_memory={int(node): dict(types) for node, types in tables.get("reserved_memory", {}).items()},
        ),
        socket=agent.get("socket", Config().socket),
        group=agent.get("group", "quietcore"),
        change_group=agent.get("change_group", ""),
        resync_s=float(agent.get("resync_seconds", 30.0)),
        **hypervisor,
    )


def _faults(tables: Mapping[str, Any]) -> Iterator[tuple[str, str]]:  # TOML values are of any type until checked here
    for table, values in tables.items():
        if table not in _SETTINGS:
            yield table, f"unknown table (known: {', '.join(_SETTINGS)})"
        elif not isinstance(values, dict):
            yield table, "must be a table"
        elif table == "reserved_memory":
            yield from _memory_faults(values)
        else:
            for key, value in values.items():
                if key not in _SETTINGS[table]:
                    yield f"{table}.{key}", f"unknown setting (known: {', '.join(_SETTINGS[table])})"
                else:
                    fault = _fault(key, value)
                    if fault:
                        yield f"{table}.{key}", fault


_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "acceleration": get_args(Acceleration),
    "strategy": get_args(Strategy),
    "compat": get_args(Compat),
    "topology_manager_policy": get_args(TopologyPolicy),
    "topology_manager_scope": get_args(TopologyScope),
}


def _fault(key: str, value: object) -> str:
    if key in _CHOICES:
        return "" if value in _CHOICES[key] else f"{value!r} is none of {', '.join(map(repr, _CHOICES[key]))}"
    if key in {"prefer_closest_numa_nodes", "allow_host_settings"}:
        return "" if isinstance(value, bool) else "must be true or false"
    if key == "cpu_manager_options":
        known = {one.name.replace("_", "-") for one in fields(CpuPolicyOptions)}
        unknown = [str(one) for one in value if str(one) not in known] if isinstance(value, list) else [str(value)]
        return f"must be a list of {', '.join(sorted(known))}; not {', '.join(unknown)}" if unknown else ""
    if key == "resync_seconds":
        enough = isinstance(value, int | float) and not isinstance(value, bool) and value >= 1
        return "" if enough else "must be a number of seconds, at least 1"
    if not isinstance(value, str):
        return "must be a text"
    if key == "reserved_cpus":
        try:
            return "" if CpuSet.parse(value) else "at least one CPU stays with the host"
        except ValueError as err:
            return str(err)
    if key in {"state", "socket"} and not value.startswith("/"):
        return "must be an absolute path"
    return ""


def _memory_faults(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:  # TOML values are of any type until checked here
    for node, types in values.items():
        if not (node.isascii() and node.isdigit()) or not isinstance(types, dict):
            yield f"reserved_memory.{node}", "must be a NUMA node number with a table of resource = bytes"
            continue
        for resource, size in types.items():
            if not isinstance(size, int) or isinstance(size, bool) or size < 0:
                yield f"reserved_memory.{node}.{resource}", "must be a number of bytes"
