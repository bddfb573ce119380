"""What the static CPU Manager remembers: the shared pool and who owns which CPUs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from quietcore.model import CpuSet, union

Assignments = Mapping[str, Mapping[str, CpuSet]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuState:
    """The state of the static policy; every change makes a new one.

    `default` is the shared pool. `assignments` maps pod uid -> container -> CPUs, `pod_assignments` pod uid -> CPUs of pods that
    were given CPUs as a whole. `reusable` are CPUs of finished init containers of the one pod `reuse_of`; they are not stored
    in the kubelet's file.
    """

    default: CpuSet = CpuSet()
    assignments: Assignments = field(default_factory=lambda: MappingProxyType({}))
    pod_assignments: Mapping[str, CpuSet] = field(default_factory=lambda: MappingProxyType({}))
    reuse_of: str = ""
    reusable: CpuSet = CpuSet()

    @property
    def assigned(self) -> CpuSet:
        """Every CPU that a container or pod owns."""
        return union(cpus for pod in self.assignments.values() for cpus in pod.values()) | union(self.pod_assignments.values())

    def cpus_of(self, uid: str, container: str) -> CpuSet | None:
        """The CPUs of a container, None where it has no entry and runs on the shared pool."""
        return self.assignments.get(uid, {}).get(container)

    def reusable_by(self, uid: str) -> CpuSet:
        """CPUs that an earlier init container of this pod has left."""
        return self.reusable if self.reuse_of == uid else CpuSet()

    def with_container(self, uid: str, container: str, cpus: CpuSet) -> CpuState:
        """This state with one more entry; the CPUs leave the shared pool."""
        pod = MappingProxyType({**self.assignments.get(uid, {}), container: cpus})
        return replace(self, default=self.default - cpus, assignments=MappingProxyType({**self.assignments, uid: pod}))

    def with_pod(self, uid: str, cpus: CpuSet) -> CpuState:
        """This state with CPUs for a pod as a whole."""
        return replace(self, default=self.default - cpus, pod_assignments=MappingProxyType({**self.pod_assignments, uid: cpus}))

    def without_container(self, uid: str, container: str) -> CpuState:
        """This state without one entry; CPUs that no other container of the pod has return to the shared pool.

        The CPUs of a pod as a whole return when its last container goes.
        """
        pod = dict(self.assignments.get(uid, {}))
        cpus = pod.pop(container, None)
        if cpus is None:
            return self
        assignments = {**self.assignments, uid: MappingProxyType(pod)}
        whole = dict(self.pod_assignments)
        released = cpus - union(pod.values())
        if not pod:
            del assignments[uid]
        if uid in whole:
            released = CpuSet() if pod else whole.pop(uid)
        return replace(
            self,
            default=self.default | released,
            assignments=MappingProxyType(assignments),
            pod_assignments=MappingProxyType(whole),
        )

    def with_reuse(self, uid: str, cpus: CpuSet) -> CpuState:
        """This state with the reusable CPUs of this pod; those of any other pod are forgotten, as the kubelet does."""
        return replace(self, reuse_of=uid, reusable=cpus)
