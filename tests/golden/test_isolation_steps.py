"""Every write that isolation makes, in its order: each strategy by each mechanism, in libvirt's groups and in our own."""

from collections.abc import Callable
from types import MappingProxyType

import pytest
from tests.isolation_cases import LAYOUTS, around, census, plan

from quietcore.engine.apply import describe
from quietcore.isolation import isolate, mechanism_of, released
from quietcore.model import CpuSet, SetScheduler, SetValue

VMS = {
    "dedicated": plan(),
    "housekeeping": plan(strategy="housekeeping", emulator="6"),
    "whole": plan(strategy="whole"),
    "mixed": plan("4,-,5"),
    "io-of-its-own": plan(strategy="housekeeping", emulator="6", io="3"),
    "whole-with-io": plan(strategy="whole", io="3"),
    "realtime": plan(realtime=frozenset({1})),
    "shared": plan("-,-"),
}


@pytest.mark.parametrize("name", VMS)
def test_steps(name: str, golden: Callable[[str, str], None]) -> None:
    vm = VMS[name]
    text = ""
    for title, (mechanism, layout) in LAYOUTS.items():
        facts = around(layout, len(vm.vcpus), partitions=mechanism == "partition")
        done = isolate(vm, census(layout, len(vm.vcpus)), facts, mechanism_of(vm, facts), priority=3)
        lines = [f"# {title}: {done.mechanism}", *(describe(step) for step in done.steps), *(f"limit: {one}" for one in done.limits), ""]
        text += "".join(f"{line}\n" for line in lines)
    golden(f"isolation/{name}.txt", text)


def test_another_vms_claims_on_the_levels_above_are_kept(golden: Callable[[str, str], None]) -> None:
    mechanism, facts = LAYOUTS["v2 with partitions in libvirt's groups"]
    others = around(facts, exclusive=MappingProxyType({"/machine": CpuSet.parse("2-3"), "/machine/vm": CpuSet()}))
    started = isolate(plan(), census(facts), others, mechanism).steps
    grown = around(facts, exclusive=MappingProxyType({"/machine": CpuSet.parse("2-5"), "/machine/vm": CpuSet.parse("4-5")}))
    ended = released(grown, plan().dedicated)
    lines = ["# start", *(describe(step) for step in started[:2]), "# end", *(describe(step) for step in ended)]
    golden("isolation/claims.txt", "".join(f"{line}\n" for line in lines))


@pytest.mark.parametrize("version", ["v2 without partitions", "v1"])
def test_quotas_of_the_vm_are_lifted_and_the_administrators_are_left(version: str, golden: Callable[[str, str], None]) -> None:
    mechanism, facts = LAYOUTS[f"{version} in libvirt's groups"]
    quotas = MappingProxyType(dict.fromkeys(("/machine", "/machine/vm", "/machine/vm/vcpu1"), "20000 100000"))
    steps = isolate(plan(), census(facts), around(facts, quotas=quotas), mechanism).steps
    golden(
        f"isolation/quotas-{version.partition(' ')[0]}.txt",
        "".join(f"{describe(step)}\n" for step in steps if isinstance(step, SetValue) and "/cpu.weight" not in step.path),
    )


def test_the_timer_and_packet_threads_of_a_real_time_vm_have_their_priorities(golden: Callable[[str, str], None]) -> None:
    mechanism, facts = LAYOUTS["v2 with partitions in libvirt's groups"]
    text = ""
    for name, vm in {
        "on the shared pool": plan(realtime=frozenset({0, 1})),
        "on a CPU of its own": plan(strategy="housekeeping", emulator="6", realtime=frozenset({1})),
    }.items():
        steps = isolate(vm, census(facts), around(facts), mechanism, priority=99).steps
        text += "".join(f"{line}\n" for line in (f"# vhost {name}", *(describe(one) for one in steps if isinstance(one, SetScheduler))))
    golden("isolation/priorities.txt", text)
