"""What people and programs see, whole: JSON objects, tables, placements and pictures."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from quietcore.errors import InputError, OperationFailed, Problem
from quietcore.machines import load, parse_spec
from quietcore.model import (
    Assignment,
    CpuSet,
    CpuSpec,
    Entry,
    Finding,
    GuestCell,
    GuestTopology,
    HostThread,
    Machine,
    MemoryBinding,
    MemoryBlock,
    MemorySpec,
    NearestFit,
    Plan,
    Reason,
    Refusal,
    ThreadCensus,
    VcpuPlacement,
    VmName,
    VmSpec,
)
from quietcore.render.json import dumps, dumps_yaml
from quietcore.render.plans import placement_map, plan_text, plans_text
from quietcore.render.tables import describe_text, findings_text, names, vms_table
from quietcore.render.topology_svg import topology_svg
from quietcore.render.topology_text import topology_text
from quietcore.render.values import Description, DescriptionList, HostMap, PlanList, Printable, Verification

Golden = Callable[[str, str], None]
DATA = Path(__file__).parent.parent / "data" / "machines"
GI = 1 << 30


def machine(name: str) -> Machine:
    return load((DATA / f"{name}.json").read_text(encoding="utf-8"))


def placed(name: str, cpus: str, on: Machine, *, emulator: str = "", realtime: bool = False) -> Plan:
    """A VM with one vCPU on each of the CPUs; `emulator` are CPUs of its own for the rest, else the shared pool."""
    own, extra = CpuSet.parse(cpus), CpuSet.parse(emulator)
    by_number = {cpu.cpu: cpu for cpu in on.cpus}
    vcpus = tuple(
        VcpuPlacement(
            vcpu=vcpu,
            pcpu=cpu,
            node=by_number[cpu].node,
            core=by_number[cpu].core,
            realtime=realtime,
            rule=f"whole core {by_number[cpu].core}",
        )
        for vcpu, cpu in enumerate(own)
    )
    shared = on.usable - own - extra
    return Plan(
        vm=VmName(name=name),
        uid=f"uid-{name}",
        strategy="housekeeping" if extra else "dedicated",
        vcpus=vcpus,
        shared=shared,
        emulator=extra or shared,
        memory=(MemoryBinding(node=vcpus[0].node or 0, type="memory", size_bytes=2 * GI),),
        assignments=(Assignment(container="compute"), Assignment(container="dedicated", cpus=own | extra)),
    )


def rich_plan() -> Plan:
    """A plan with everything that a plan can have."""
    on = machine("four-nodes")
    base = placed("rt", "1,9", on, emulator="4", realtime=True)
    return replace(
        base,
        vcpus=(*base.vcpus, VcpuPlacement(vcpu=2, rule="not dedicated: runs on the shared pool")),
        shared=base.shared - CpuSet.parse("5,12"),
        io={1: CpuSet.of(12)},
        unpinned=CpuSet.of(5),
        memory=(
            MemoryBinding(node=0, type="hugepages-2Mi", size_bytes=GI),
            MemoryBinding(node=2, type="memory", size_bytes=3 * GI // 2),
        ),
        cells=(GuestCell(cell=0, node=0, vcpus=(0, 1), memory_bytes=GI), GuestCell(cell=1, node=2, vcpus=(2,), memory_bytes=GI)),
        assignments=(
            Assignment(container="compute", memory=(MemoryBlock(nodes=(0, 2), type="memory", size_bytes=2 * GI),)),
            Assignment(container="dedicated", cpus=CpuSet.parse("1,4-5,9,12")),
        ),
        notes=("CPU 5 is owned but nothing runs there",),
    )


def refusal() -> Refusal:
    return Refusal(
        vm=VmName(name="big"),
        message="not enough cpus available to satisfy request: requested=8, available=6",
        reason="UnexpectedAdmissionError",
        reasons=(
            Reason(constraint="cpus", message="too few CPUs are free", wanted="8", free="6"),
            Reason(constraint="hugepages-1Gi", message="too few pages are free on one node", node=1, wanted="4Gi", free="2Gi"),
        ),
        nearest=NearestFit(change="ask for 6 CPUs, or move the VM away", vm=VmName(namespace="lab", name="rt")),
    )


def entry(plan: Plan | None, name: str = "rt") -> Entry:
    spec = VmSpec(
        vm=VmName(name=name),
        cpu=CpuSpec(topology=GuestTopology(cores=2), dedicated=True),
        memory=MemorySpec(guest_bytes=2 * GI),
    )
    return Entry(
        spec=spec,
        digest="d",
        manifest="",
        phase="running",
        plan=plan,
        mechanism="partition",
        cgroup_home="/machine/qemu-1-vm",
        limits=("interrupt 4 cannot move",),
    )


def running() -> Description:
    threads = (
        HostThread(tid=100, comm="qemu-system-x86", role="emulator", allowed=CpuSet.parse("0,2"), cgroup="/machine/emulator"),
        HostThread(
            tid=101, comm="CPU 0/KVM", role="vcpu", allowed=CpuSet.of(1), cgroup="/machine/vcpu0", policy="fifo", priority=1, vcpu=0
        ),
        HostThread(tid=102, comm="CPU 1/KVM", role="vcpu", allowed=CpuSet.of(9), cgroup="/machine/vcpu1", vcpu=1),
        HostThread(tid=103, comm="IO \x1b[31m", role="iothread", allowed=CpuSet.of(0), cgroup="/machine/iothread1", iothread=1),
    )
    plan = placed("rt", "1,9", machine("four-nodes"))
    return Description(entry=entry(plan), phase="running", census=ThreadCensus(pid=100, threads=threads))


def verification() -> Verification:
    return Verification(
        vm=VmName(name="rt"),
        findings=(
            Finding(code="irq-allowed", severity="info", kind="irq", id="24", expected="not on 1", actual="0-1"),
            Finding(code="affinity", severity="error", kind="thread", id="101", expected="1", actual="0-15", hint="quietcore repin rt"),
        ),
    )


def wrong_input() -> InputError:
    place = {"file": "vm.yaml", "line": 10, "column": 7}
    return InputError.of(
        (
            Problem(message="unknown field", field="spec.domain.cpu.realtim", hint="did you mean realtime?", **place),
            Problem(message="is required"),
        )
    )


def host(name: str) -> HostMap:
    """A machine with a few VMs on it."""
    match name:
        case "two-cpus":
            on = machine(name)
            return HostMap(machine=on, plans=(placed("quickstart", "1", on),), reserved=CpuSet.of(0))
        case "four-nodes":
            on = replace(machine(name), allowed=CpuSet.parse("0-13"))
            plans = (placed("a", "4,12", on), placed("b", "1,5", on, emulator="13"), placed("c", "3", on))
            return HostMap(machine=on, plans=plans, reserved=CpuSet.parse("0,8"))
        case "hybrid" | "memory-only":
            on = machine(name)
            return HostMap(machine=on, plans=(placed("a", "2-3", on),), reserved=CpuSet.parse("0-1"))
        case _:
            on = parse_spec("name=big,sockets=2,nodes=8,cores=64,threads=2,l3=16,mem=1Ti,hugepages-1Gi=64")
            plans = tuple(placed(f"vm{core}", f"{core},{core + 64}", on) for core in range(1, 28))
            return HostMap(machine=on, plans=plans, reserved=CpuSet.parse("0,64"))


HOSTS = ("two-cpus", "four-nodes", "hybrid", "memory-only", "big")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("plan-list", PlanList(items=(rich_plan(), refusal()))),
        ("virtual-machine", running()),
        ("virtual-machine-list", DescriptionList(items=(Description(entry=entry(None, "off"), phase="stopped"),))),
        ("verification", verification()),
        ("error", wrong_input()),
        ("error-undone", OperationFailed("the domain did not start", hint="see journalctl -u libvirtd")),
        ("topology", host("four-nodes")),
    ],
)
def test_json(golden: Golden, name: str, value: Printable) -> None:
    golden(f"render/{name}.json", dumps(value))


def test_yaml_says_what_json_says(golden: Golden) -> None:
    golden("render/verification.yaml", dumps_yaml(verification()))


@pytest.mark.parametrize("name", HOSTS)
def test_topology_as_text(golden: Golden, name: str) -> None:
    golden(f"render/topology-{name}.txt", topology_text(host(name), width=80))


@pytest.mark.parametrize("name", HOSTS)
def test_topology_as_svg(golden: Golden, name: str) -> None:
    golden(f"render/topology-{name}.svg", topology_svg(host(name)))


def test_topology_in_colour(golden: Golden) -> None:
    golden("render/topology-colour.txt", topology_text(host("four-nodes"), width=120, colour=True))


def test_plans_in_words(golden: Golden) -> None:
    answers = (rich_plan(), refusal())
    golden(
        "render/plans.txt",
        plans_text(answers) + "---\n" + plans_text(answers, explain=True) + "---\n" + plan_text(replace(refusal(), vm=None, nearest=None)),
    )


def test_placement_maps(golden: Golden) -> None:
    four, two = machine("four-nodes"), machine("two-cpus")
    whole = replace(placed("whole", "1,9", four), strategy="whole", emulator=CpuSet.parse("1,9"))
    maps = [(placed("quickstart", "1", two), two), (rich_plan(), four), (whole, four), (placed("half", "2", four), four)]
    golden("render/placement-maps.txt", "".join(placement_map(plan, on) for plan, on in maps))


def test_tables_of_vms(golden: Golden) -> None:
    vms = DescriptionList(items=(running(), Description(entry=entry(None, "off"), phase="stopped")))
    tables = [vms_table(vms), vms_table(vms, wide=True, all_namespaces=True), names("vm", [vm.entry.vm for vm in vms.items])]
    golden("render/vms.txt", "---\n".join([*tables, *(describe_text(vm) for vm in vms.items)]))


def test_findings(golden: Golden) -> None:
    fine = Verification(vm=VmName(name="quiet"))
    golden("render/findings.txt", findings_text(verification()) + "---\n" + findings_text(fine))
