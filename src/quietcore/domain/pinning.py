"""Which pCPU each vCPU runs on, and where QEMU's other threads run."""

from __future__ import annotations

from quietcore.domain.draft import Draft, add
from quietcore.model import CpuSet


def contribute(draft: Draft) -> None:
    """Write <vcpupin> and <emulatorpin>.

    There is no <vcpusched>: with RT_GROUP_SCHED the kernel refuses FIFO in libvirt's fresh cgroups, whose real-time budget is 0, and
    the domain would not start. The isolation sets the policy once the threads are where they belong. Nor is there a quota: vCPU
    threads would be throttled by it.
    """
    tune = draft.section("cputune")
    for vcpu in draft.plan.vcpus:
        cpus = str(draft.plan.shared) if vcpu.pcpu is None else str(vcpu.pcpu)
        if cpus:
            add(tune, "vcpupin", vcpu=vcpu.vcpu, cpuset=cpus)
    at_start = _emulator_at_start(draft)
    if at_start:
        add(tune, "emulatorpin", cpuset=str(at_start))


def _emulator_at_start(draft: Draft) -> CpuSet:
    """The emulator's pin in the XML; the empty set where it has to be left out.

    libvirt puts QEMU into its emulator cgroup before QEMU makes the thread that preallocates hugepages on a node (`thread-context`,
    libvirt commit b03386d14862, QEMU 7.2). That thread asks for the node's CPUs, and if the cgroup holds none of them the start fails with
    "Setting CPU affinity failed: Invalid argument". So for the start, while the guest is paused, the pin is widened by the VM's own
    CPUs on those nodes; afterwards it is narrowed live, which moves that thread as well.
    """
    plan = draft.plan
    nodes = {cell.node for cell in plan.cells} or {binding.node for binding in plan.memory if draft.build.bind_memory}
    if draft.spec.memory.hugepage_bytes is None or not nodes:
        return plan.emulator
    on_node = draft.build.node_cpus
    if on_node and not any(plan.emulator.isdisjoint(on_node.get(node, CpuSet())) for node in nodes):
        return plan.emulator
    own = CpuSet.from_iterable(vcpu.pcpu for vcpu in plan.vcpus if vcpu.pcpu is not None and vcpu.node in nodes)
    if own and own <= plan.emulator:
        return plan.emulator
    if own:
        wide = plan.emulator | own
        draft.notes.append(
            f"QEMU starts on CPUs {wide}, to preallocate hugepages on the guest's nodes; before it runs, pin it to {plan.emulator}"
        )
        return wide
    draft.notes.append(f"QEMU starts without a pin, to preallocate hugepages on another node; before it runs, pin it to {plan.emulator}")
    draft.section("vcpu").attrib.pop("cpuset", None)  # without an emulatorpin libvirt would apply this set in its place
    return CpuSet()
