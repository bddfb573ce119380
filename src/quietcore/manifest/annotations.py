"""The annotations that quietcore reads from a VMI's metadata (of a VM: from its template's)."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, get_args

from quietcore.manifest.causes import Cause
from quietcore.manifest.tree import Tree
from quietcore.model.cpuset import CpuSet
from quietcore.model.spec import Strategy, ThreadPolicy

PREFIX: Final = "quietcore.io/"
STRATEGY: Final = "quietcore.io/strategy"
PRIORITY: Final = "quietcore.io/realtime-priority"
ALLOW_INVERSION: Final = "quietcore.io/allow-priority-inversion"
DEDICATED_VCPUS: Final = "quietcore.io/dedicated-vcpus"
THREAD_POLICY: Final = "quietcore.io/thread-policy"
SINGLE_L3: Final = "quietcore.io/single-l3"
VHOSTUSER: Final = "quietcore.io/vhostuser-"
HOOK_SIDECARS: Final = "hooks.kubevirt.io/hookSidecars"
MEMFD: Final = "kubevirt.io/memfd"
PARITY: Final = "alpha.kubevirt.io/EmulatorThreadCompleteToEvenParity"
MEANINGS: Final = {
    STRATEGY: "how threads are kept apart: `whole`, `housekeeping` or `dedicated`; without it an isolated emulator thread asks for "
    "`housekeeping`, and else the host's default holds",
    PRIORITY: "the SCHED_FIFO priority of real-time vCPUs, 1 to 99; 1 without it, as in KubeVirt",
    ALLOW_INVERSION: "`true`: start even where the kernel's own threads cannot be raised above the real-time vCPUs; a polling guest then "
    "hangs the host",
    DEDICATED_VCPUS: "a list such as `0-1,3`: only these vCPUs get dedicated CPUs, the others run on the shared pool",
    THREAD_POLICY: "what to do with the host's SMT siblings: `none`, `prefer`, `require` or `isolate`, as in OpenStack",
    SINGLE_L3: "`true`: all dedicated CPUs have to share one L3 cache",
    f"{VHOSTUSER}NAME": "the socket of interface NAME, whose binding is the plugin `vhostuser`",
    HOOK_SIDECARS: "KubeVirt's hook sidecars; needs its gate Sidecar, and a host without Kubernetes does not run them",
    MEMFD: '`"false"` switches off memfd as the backing of hugepages',
    PARITY: "KubeVirt's second emulator CPU where the number of CPUs is even; usually set on the KubeVirt resource",
}
_OURS: Final = (STRATEGY, PRIORITY, ALLOW_INVERSION, DEDICATED_VCPUS, THREAD_POLICY, SINGLE_L3)
_MOST_SIDECARS: Final = 16
_MOST_FAULTS: Final = 20
_MOST_BYTES: Final = 256 << 10
"""Kubernetes' limit for all annotations of an object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the annotations ask for. `strategy` is None where they leave it open; `sockets` maps interfaces to vhost-user sockets."""

    strategy: Strategy | None = None
    priority: int | None = None
    allow_inversion: bool = False
    dedicated_vcpus: frozenset[int] | None = None
    thread_policy: ThreadPolicy = "none"
    single_l3: bool = False
    sockets: Mapping[str, str]
    sidecars: tuple[str, ...] = ()
    memfd: bool = True


def read(annotations: Mapping[str, str], path: str, spec: Tree) -> tuple[Wishes, tuple[Cause, ...]]:
    """The wishes of a VMI and what is wrong with them; `path` is where the annotations stand."""
    reader = _Reader(annotations, path)
    if sum(len(name.encode()) + len(text.encode()) for name, text in annotations.items()) > _MOST_BYTES:
        return Wishes(sockets={}), (Cause(field=path, message=f"Too long: may not be more than {_MOST_BYTES} bytes"),)
    for name in annotations:
        if len(reader.causes) > _MOST_FAULTS:
            break
        if name.startswith(PREFIX) and name not in _OURS and not name.startswith(VHOSTUSER):
            near = difflib.get_close_matches(name, _OURS, 1, 0.6)
            reader.fault(name, "unknown annotation", f"did you mean {near[0]}?" if near else f"known are {', '.join(_OURS)}")
    interfaces = {interface.text("name") for interface in spec.items("domain.devices.interfaces")}
    wishes = Wishes(
        strategy=reader.strategy(),
        priority=reader.priority(realtime=spec.has("domain.cpu.realtime")),
        allow_inversion=reader.boolean(ALLOW_INVERSION),
        dedicated_vcpus=reader.vcpus(dedicated=spec.flag("domain.cpu.dedicatedCpuPlacement")),
        thread_policy=reader.thread_policy(),
        single_l3=reader.boolean(SINGLE_L3),
        sockets=reader.sockets(interfaces),
        sidecars=reader.sidecars(),
        memfd=annotations.get(MEMFD) != "false",
    )
    return wishes, tuple(reader.causes)


class _Reader:
    def __init__(self, annotations: Mapping[str, str], path: str) -> None:
        self._annotations = annotations
        self._path = path
        self.causes: list[Cause] = []

    def fault(self, name: str, message: str, hint: str) -> None:
        self.causes.append(Cause(field=f"{self._path}.{name}", message=message, ours=True, hint=hint))

    def strategy(self) -> Strategy | None:
        written = self._annotations.get(STRATEGY)
        for one in get_args(Strategy):
            if one == written:
                return one  # type: ignore[no-any-return]  # get_args of a Literal has no better type
        if written is not None:
            self.fault(STRATEGY, f"{written!r} is no strategy", f"one of {', '.join(get_args(Strategy))}")
        return None

    def thread_policy(self) -> ThreadPolicy:
        written = self._annotations.get(THREAD_POLICY, "none")
        for one in get_args(ThreadPolicy):
            if one == written:
                return one  # type: ignore[no-any-return]  # get_args of a Literal has no better type
        self.fault(THREAD_POLICY, f"{written!r} is no thread policy", f"one of {', '.join(get_args(ThreadPolicy))}")
        return "none"

    def priority(self, *, realtime: bool) -> int | None:
        written = self._annotations.get(PRIORITY)
        if written is None:
            return None
        if not (written.isascii() and written.isdigit() and len(written) <= 2 and 1 <= int(written) <= 99):
            self.fault(PRIORITY, f"{written!r} is no SCHED_FIFO priority", "a whole number from 1 to 99")
            return None
        if not realtime:
            self.fault(PRIORITY, "a real-time priority needs real-time vCPUs", "add spec.domain.cpu.realtime: {}")
        return int(written)

    def vcpus(self, *, dedicated: bool) -> frozenset[int] | None:
        written = self._annotations.get(DEDICATED_VCPUS)
        if written is None:
            return None
        try:
            chosen = CpuSet.parse(written)
        except ValueError as error:
            self.fault(DEDICATED_VCPUS, str(error), "a list of vCPUs such as 0-1,3")
            return None
        if not chosen:
            self.fault(DEDICATED_VCPUS, "no vCPU is listed", "leave the annotation out, or set dedicatedCpuPlacement: false")
            return None
        if not dedicated:
            self.fault(DEDICATED_VCPUS, "dedicated vCPUs need dedicatedCpuPlacement", "set spec.domain.cpu.dedicatedCpuPlacement: true")
        return frozenset(chosen)

    def boolean(self, name: str) -> bool:
        written = self._annotations.get(name, "false")
        if written not in {"true", "false"}:
            self.fault(name, f"{written!r} is neither true nor false", 'write "true" or "false", in quotes')
        return written == "true"

    def sockets(self, interfaces: set[str]) -> Mapping[str, str]:
        found: dict[str, str] = {}
        for name, path in self._annotations.items():
            if not name.startswith(VHOSTUSER):
                continue
            interface = name.removeprefix(VHOSTUSER)
            if interface not in interfaces:
                self.fault(name, f"there is no interface {interface!r}", f"interfaces: {', '.join(sorted(interfaces)) or 'none'}")
            elif not path.startswith("/") or "/.." in path:
                self.fault(name, f"{path!r} is not the absolute path of a socket", "for example /run/openvswitch/vhu0")
            else:
                found[interface] = path
        return found

    def sidecars(self) -> tuple[str, ...]:
        written = self._annotations.get(HOOK_SIDECARS, "")
        if not written:
            return ()
        try:
            listed = json.loads(written)
        except (ValueError, RecursionError):
            listed = None
        if not isinstance(listed, list) or len(listed) > _MOST_SIDECARS or not all(isinstance(one, dict) for one in listed):
            self.fault(HOOK_SIDECARS, "must be a JSON list of sidecars", 'for example [{"image": "registry/hook:v1"}]')
            return ()
        images = tuple(str(one.get("image", "")) for one in listed)
        if not all(images):
            self.fault(HOOK_SIDECARS, "every sidecar needs an image", 'for example [{"image": "registry/hook:v1"}]')
        return images
