"""The CPU that the guest sees: model and features."""

from __future__ import annotations

from typing import Final

from quietcore.domain.draft import Draft, add

HOST_MODELS: Final = ("", "host-model", "host-passthrough")
_TSC_DEADLINE: Final = "tsc-deadline"


def contribute(draft: Draft) -> None:
    """Write <cpu>'s mode, model and features, and the KVM hint that vCPUs are never preempted.

    Without KVM there is no host CPU to pass through: QEMU's `max` model stands in, and nothing checks that TCG has the features.
    """
    cpu, spec, emulated = draft.section("cpu"), draft.spec.cpu, draft.build.domain_type == "qemu"
    wanted = spec.model or "host-model"
    if wanted in HOST_MODELS:
        cpu.set("mode", "maximum" if emulated else wanted)
        if emulated:
            draft.notes.append(f"CPU model {wanted} needs KVM; without it the guest gets QEMU's maximum model")
    else:
        cpu.set("mode", "custom")
        cpu.set("match", "exact")
        add(cpu, "model", wanted, fallback="allow" if emulated else None)
    if emulated:
        cpu.set("check", "none")
    _features(draft)
    dedicated = [vcpu.pcpu is not None for vcpu in draft.plan.vcpus]
    if not emulated and draft.spec.architecture == "amd64" and dedicated and all(dedicated):
        # With a mix the hint would be a lie for the shared vCPUs, whose spinning waits then hold up the others.
        add(draft.section("features/kvm"), "hint-dedicated", state="on")


def _features(draft: Draft) -> None:
    cpu, spec, emulated = draft.section("cpu"), draft.spec.cpu, draft.build.domain_type == "qemu"
    named = {feature.name for feature in spec.features}
    for feature in spec.features:
        if emulated and feature.name == _TSC_DEADLINE and feature.policy in {"require", "force"}:
            draft.notes.append("CPU feature tsc-deadline needs KVM and is left out")
            continue
        add(cpu, "feature", policy=feature.policy, name=feature.name)
    if draft.spec.architecture != "amd64":
        return
    if spec.realtime is not None and not emulated and _TSC_DEADLINE not in named:
        add(cpu, "feature", policy="require", name=_TSC_DEADLINE)
    if spec.model not in HOST_MODELS and "mpx" not in named:
        add(cpu, "feature", policy="disable", name="mpx")  # gone from newer hosts and still in old models (KubeVirt does the same)
