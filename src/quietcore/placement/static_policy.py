"""The kubelet's static CPU Manager policy: which containers own CPUs, which ones, and when a pod is turned away.

Rules: Kubernetes v1.36.2, pkg/kubelet/cm/cpumanager/policy_static.go. Nothing here changes in place: every step takes a state
and returns the next one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from quietcore.errors import InputError, Problem
from quietcore.model import Compat, Container, CpuPolicyOptions, CpuSet, LauncherPod, Quantity, Reason, Refusal, TopologyPolicy, union
from quietcore.placement.allocator import allocate, check_options
from quietcore.placement.cpu_state import CpuState
from quietcore.placement.packed import Taken, whole
from quietcore.placement.topology import CpuTopology

SMT_ALIGNMENT_ERROR: Final = "SMTAlignmentError"
_DRAIN: Final = "drain this node and delete the CPU manager's state file before the kubelet starts again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocated:
    """What a container got, with the rules that took it, and the state afterwards."""

    state: CpuState
    taken: Taken


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticPolicy:
    """The policy on one machine. `pod_level_resources` and `pod_level_resource_managers` are the feature gates of these names."""

    topology: CpuTopology
    reserved: CpuSet
    options: CpuPolicyOptions
    compat: Compat = "fixed"
    pod_level_resources: bool = False
    pod_level_resource_managers: bool = False

    @classmethod
    def with_reservation(
        cls,
        topology: CpuTopology,
        options: CpuPolicyOptions,
        *,
        count: int,
        reserved: CpuSet | None = None,
        topology_policy: TopologyPolicy = "none",
        compat: Compat = "fixed",
    ) -> StaticPolicy:
        """The policy as the kubelet starts it: `count` CPUs are reserved, the given ones or those that the allocator picks.

        Raises InputError for options that contradict each other and for a list whose size is not `count`.
        """
        check_options(options, topology_policy, topology)
        chosen = reserved
        if chosen is None:
            taken = allocate(topology, topology.cpus, count, options, compat)
            chosen = CpuSet() if isinstance(taken, Refusal) else taken.cpus
        if len(chosen) != count:
            message = f"[cpumanager] unable to reserve the required amount of CPUs (size of {chosen} did not equal {count})"
            raise InputError.of((Problem(field="reserved_cpus", message=message, hint="reserve as many CPUs as the list names"),))
        return cls(topology=topology, reserved=chosen, options=options, compat=compat)

    def available(self, state: CpuState) -> CpuSet:
        """What may still be handed out."""
        return state.default - self.reserved

    def available_whole_cores(self, state: CpuState) -> CpuSet:
        """What may still be handed out on cores without a reserved CPU."""
        return state.default - CpuSet(self.topology.mask_of_whole_cores(self.reserved.mask))

    def start(self, state: CpuState) -> CpuState:
        """The state with which the kubelet begins: a fresh one for an empty state, else the given one if it is sound.

        Raises InputError with the kubelet's text for a state with which it refuses to start.
        """
        machine = self.topology.cpus
        everything = machine - self.reserved if self.options.strict_cpu_reservation else machine
        if not state.default and not state.assignments and not state.pod_assignments:
            return CpuState(default=everything)
        fault = self._first_fault(state, everything)
        if fault:
            raise InputError.of((Problem(field="cpu_manager_state", message=fault, hint=_DRAIN),))
        return state

    def _first_fault(self, state: CpuState, everything: CpuSet) -> str:
        if not state.default:
            return "default cpuset cannot be empty"
        if self.options.strict_cpu_reservation:
            inside = self.reserved & state.default
            if inside:
                return f'some of strictly reserved cpus: "{inside}" are present in defaultCpuSet: "{state.default}"'
        elif not self.reserved <= state.default:
            return f'not all reserved cpus: "{self.reserved}" are present in defaultCpuSet: "{state.default}"'
        for uid, containers in sorted(state.assignments.items()):
            for name, cpus in sorted(containers.items()):
                if not cpus.isdisjoint(state.default):
                    return f'pod: {uid}, container: {name} cpuset: "{cpus}" overlaps with default cpuset "{state.default}"'
        known = state.default | state.assigned
        if known != everything:
            return f'current set of available CPUs "{everything}" doesn\'t match with CPUs in state "{known}"'
        return ""

    def exclusive_count(self, pod: LauncherPod, container: Container) -> int:
        """How many CPUs the container owns: its whole-number request in a Guaranteed pod, else 0."""
        if pod.qos != "Guaranteed":
            return 0
        if self.is_pod_level(pod) and not (self.pod_level_resource_managers and _has_equal_limits(container)):
            return 0
        return _whole(container.requests.get("cpu"))

    def is_pod_level(self, pod: LauncherPod) -> bool:
        """Whether the pod states resources for all of its containers together."""
        return self.pod_level_resources and bool(pod.pod_requests or pod.pod_limits)

    def allocate(self, state: CpuState, pod: LauncherPod, container: Container, affinity: int | None = None) -> Allocated | Refusal:
        """Give the container its CPUs, from the NUMA nodes of the mask `affinity` first (None: anywhere).

        A container without exclusive CPUs gets none and stays on the shared pool. The SMT check comes first, also for a
        container that has its CPUs already: so does the kubelet's (kubernetes issue 129078).
        """
        count = self.exclusive_count(pod, container)
        if count == 0:
            return Allocated(state=state, taken=Taken(cpus=CpuSet()))
        refusal = self.check_smt(state, count)
        if refusal is not None:
            return refusal
        owned = state.cpus_of(pod.uid, container.name)
        if owned is not None:
            return Allocated(state=_reuse(state, pod.uid, container, owned), taken=whole(owned, "kept from before"))
        taken = self.take(state, count, affinity, state.reusable_by(pod.uid))
        if isinstance(taken, Refusal):
            return taken
        after = state.with_container(pod.uid, container.name, taken.cpus)
        return Allocated(state=_reuse(after, pod.uid, container, taken.cpus), taken=taken)

    def check_smt(self, state: CpuState, count: int) -> Refusal | None:
        """The refusal of a request that is not in whole cores, under full-pcpus-only."""
        if not self.options.full_pcpus_only:
            return None
        per_core = self.topology.cpus_per_core
        if per_core and count % per_core:
            message = f"SMT Alignment Error: requested {count} cpus not multiple cpus per core = {per_core}"
            return _smt_refusal(message, wanted=f"a multiple of {per_core}", free=str(count))
        free = len(self.available_whole_cores(state))
        if count <= free:
            return None
        message = (
            "SMT Alignment Error: not enough free physical CPUs: "
            f"available physical CPUs = {free}, requested CPUs = {count}, CPUs per core = {per_core}"
        )
        return _smt_refusal(message, wanted=str(count), free=str(free))

    def take(self, state: CpuState, count: int, affinity: int | None, reusable: CpuSet = CpuSet()) -> Taken | Refusal:
        """Take `count` CPUs: as many as there are from the nodes of `affinity`, the rest anywhere, in two runs of the allocator."""
        free = self.available(state) | reusable
        aligned = Taken(cpus=CpuSet())
        if affinity is not None:
            inside = free & self._near(affinity)
            first = allocate(self.topology, inside, min(count, len(inside)), self.options, self.compat)
            if isinstance(first, Refusal):
                return first
            aligned = first
        rest = allocate(self.topology, free - aligned.cpus, max(count - len(aligned.cpus), 0), self.options, self.compat)
        return rest if isinstance(rest, Refusal) else aligned.then(rest)

    def _near(self, affinity: int) -> CpuSet:
        """The CPUs of these nodes, or of all sockets that they touch under align-by-socket."""
        cpus = 0
        for node in self.topology.nodes:
            if affinity >> node.id & 1:
                cpus |= node.mask
        if self.options.align_by_socket:
            cpus = union(CpuSet(socket.mask) for socket in self.topology.sockets if socket.mask & cpus).mask
        return CpuSet(cpus)

    def remove(self, state: CpuState, uid: str, container: str) -> CpuState:
        """Forget a container whose pod is gone."""
        return state.without_container(uid, container)


def _reuse(state: CpuState, uid: str, container: Container, cpus: CpuSet) -> CpuState:
    left = state.reusable_by(uid)
    return state.with_reuse(uid, left | cpus if container.role == "init" else left - cpus)


def _whole(quantity: Quantity | None) -> int:
    return quantity.value if quantity is not None and quantity.is_whole else 0


def _has_equal_limits(container: Container) -> bool:
    return all(
        (request := container.requests.get(name)) is not None
        and request.amount != 0
        and (limit := container.limits.get(name)) is not None
        and request.amount == limit.amount
        for name in ("cpu", "memory")
    )


def _smt_refusal(message: str, *, wanted: str, free: str) -> Refusal:
    reason = Reason(constraint="full-pcpus-only", message=message, wanted=wanted, free=free)
    return Refusal(message=message, reason=SMT_ALIGNMENT_ERROR, reasons=(reason,))


def counts(policy: StaticPolicy, pod: LauncherPod, containers: Iterable[Container]) -> int:
    """The exclusive CPUs of some containers together."""
    return sum(policy.exclusive_count(pod, container) for container in containers)
