"""Where our launcher pod deliberately is not KubeVirt's, said for one VM."""

from __future__ import annotations

from quietcore.model import Strategy, VmSpec
from quietcore.pod.cpus import cpu_count, dedicated_vcpus, emulator_cpus, supplemental_io_threads


def kubevirt_pod_cpus(vcpus: int, io_cpus: int) -> int:
    """The CPUs of KubeVirt's own pod with an isolated emulator and even parity, its double count of I/O threads included."""
    return vcpus + io_cpus + (2 if (vcpus + 2 * io_cpus) % 2 == 0 else 1)


def differences(spec: VmSpec, strategy: Strategy) -> tuple[str, ...]:
    """One sentence for each difference that this VM meets; empty where the pod is KubeVirt's."""
    found: list[str] = []
    vcpus, io = len(dedicated_vcpus(spec)), supplemental_io_threads(spec)
    if vcpus and strategy == "dedicated":
        found.append("the CPUs stand on the placeholder container and no CPU is taken for QEMU's other threads: they use the shared pool")
    if vcpus and strategy == "whole" and spec.cpu.isolate_emulator:
        found.append("isolateEmulatorThread has no effect: under the strategy whole all QEMU threads share the VM's CPUs")
    if vcpus and strategy == "housekeeping" and not spec.cpu.isolate_emulator:
        found.append("the strategy housekeeping takes CPUs for QEMU's other threads although isolateEmulatorThread is not set")
    if vcpus and strategy == "housekeeping" and spec.cpu.even_parity:
        ours, theirs = cpu_count(spec, strategy).total, kubevirt_pod_cpus(vcpus, io)
        if ours != theirs:
            fate = "does not start" if theirs < ours else "owns a CPU that nothing uses"
            wanted = vcpus + io + emulator_cpus(vcpus, io, even_parity=True)
            found.append(
                f"KubeVirt's pod would have {theirs} CPUs and its launcher would pin {wanted}: it counts the {io} supplemental I/O "
                f"thread(s) twice, so there the VM {fate}; here both are {ours}"
            )
    if io == 0 and spec.io_threads.pool:
        found.append(
            f"KubeVirt's pod pays for {spec.io_threads.pool} supplemental I/O threads that the policy never makes; this one does not"
        )
    if spec.cpu.dedicated and spec.resources.overcommit_guest_overhead:
        found.append("overcommitGuestOverhead is not applied: the pod would not be Guaranteed, and KubeVirt then fails it")
    requested = spec.resources.memory_request
    if spec.memory.hugepage_bytes and requested is not None and requested.value < spec.memory.guest_bytes:
        found.append("hugepages are asked for the whole guest memory; KubeVirt asks for requests.memory, which is less")
    return tuple(found)
