"""Moving running vCPUs on cgroup v2 with isolated partitions: where their threads were at every moment, as the kernel counts it."""

import json
import re
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from lab import product
from lab.inside import CGROUP_ROOT, CPUS, allowed, cgroup_of, restored, run_time_ns, write
from lab.looking import eventually, lasting_threads, read
from quietcore.cli.context import App, read_config
from quietcore.engine.repin import move_to, repin
from quietcore.host.topology import read_machine
from quietcore.model import CpuSet, VmName

pytestmark = pytest.mark.lab("2s4n16c", "systemd")
NODES = Path("/sys/devices/system/node")
BUSY = bytes([0xBA, 0xF8, 0x03, 0xB0, ord("P"), 0xEE, 0xEB, 0xFE])  # mov dx,3f8h; mov al,'P'; out dx,al; jmp $
SAMPLER = """
import json, os, signal, sys, time
tids = [int(word) for word in sys.argv[1:]]
seen = {tid: set() for tid in tids}
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
rounds = 0
while not stop:
    for tid in tids:
        seen[tid].update(os.sched_getaffinity(tid))
        with open(f"/proc/{tid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        if fields[0] == "R":  # of a thread that sleeps the kernel tells where it last ran, be that long ago
            seen[tid].add(int(fields[36]))
    rounds += 1
    if rounds == 1:
        print("sampling", flush=True)
    time.sleep(0.001)  # what it watches shall have the CPUs of the emulating host
print(json.dumps({"rounds": rounds, "seen": {tid: sorted(cpus) for tid, cpus in seen.items()}}))
"""


def migrations(tid):
    """How often the scheduler has moved a thread from one CPU to another."""
    line = next(line for line in read(f"/proc/{tid}/sched").splitlines() if line.startswith("se.nr_migrations"))
    return int(line.rpartition(":")[2])


@contextmanager
def watched(tids, found):
    """Look at some threads all the time; afterwards `found` has thread -> (CPUs that it was on or might use, migrations)."""
    before = {tid: migrations(tid) for tid in tids}
    with subprocess.Popen([sys.executable, "-S", "-c", SAMPLER, *map(str, tids)], stdout=subprocess.PIPE, text=True) as sampler:
        assert sampler.stdout is not None
        assert sampler.stdout.readline() == "sampling\n"
        try:
            yield
        finally:
            sampler.terminate()
        samples = json.loads(sampler.stdout.read())
    assert samples["rounds"] > 1
    for tid in tids:
        found[tid] = (CpuSet.from_iterable(samples["seen"][str(tid)]), migrations(tid) - before[tid])


def busy_disk(path):
    """A disk whose boot sector never rests."""
    path.write_bytes(BUSY.ljust(510, b"\0") + b"\x55\xaa" + bytes((1 << 20) - 512))
    return path


def started(folder, name, **shape):
    """A VM whose vCPU 0 never rests."""
    disk = busy_disk(folder / f"{name}.disk")
    wanted = json.loads(product.manifest(name, **shape))
    wanted["spec"]["domain"]["devices"]["disks"] = [{"name": "boot", "disk": {"bus": "virtio"}}]
    wanted["spec"]["volumes"] = [{"name": "boot", "hostDisk": {"path": str(disk), "type": "Disk"}}]
    file = folder / f"{name}.yaml"
    file.write_text(json.dumps(wanted))
    done("run", "-f", str(file))
    vm = product.RunningVm.of(name)
    assert vm.mechanism == "partition"
    console = Path(f"/var/lib/quietcore/vms/default_{name}/console.log")
    eventually(lambda: "P" in console.read_text(errors="replace"), "the guest does not reach its loop")
    return vm


@pytest.fixture(scope="module")
def standing(nothing_is_left, tmp_path_factory):
    """The VM that tests share, one at a time."""
    product.configure()
    one = product.Standing(partial(started, tmp_path_factory.mktemp("moving")), home=back_home, ended=nothing_is_left)
    yield one
    one.end()


def back_home(vm):
    """Onto the CPUs where it was before the test."""
    name = vm.described["vm"]["name"]
    if product.RunningVm.of(name).dedicated != vm.dedicated:
        done("repin", name, "--cpus", str(vm.dedicated))


@pytest.fixture
def mover(standing):
    """A VM of three vCPUs that may be moved about."""
    with standing.lent("mover", topology=(1, 3, 1)) as vm:
        yield vm


@pytest.fixture
def on_hugepages(standing):
    """A VM of two vCPUs with its memory in hugepages."""
    with standing.lent("huge", topology=(1, 2, 1), hugepages=True) as vm:
        yield vm


@pytest.fixture
def run(hypervisor, standing, tmp_path):
    """Start VMs whose vCPU 0 never rests; what is left of them at the end is deleted, and the host must then be as before."""
    standing.end()
    yield partial(started, tmp_path)
    product.delete_all(tmp_path)
    assert hypervisor.listAllDomains() == []


def in_place(vm):
    """Read back from the kernel: each vCPU on its CPU alone and in an isolated partition of its own."""
    assert vm.vcpus_allowed() == {vcpu: CpuSet.of(pcpu) for vcpu, pcpu in vm.pcpus.items()}
    groups = [vm.group_of_vcpu(vcpu) for vcpu in vm.vcpu_tids]
    assert {group.get("cpuset.cpus.partition") for group in groups} == {"isolated"}
    assert [group.cpus("cpuset.cpus.effective") for group in groups] == [CpuSet.of(pcpu) for pcpu in vm.pcpus.values()]
    assert product.quietcore("verify", vm.described["vm"]["name"]).code == 0


def isolated():
    """All CPUs that partitions keep from everybody else, which the first process shows as well."""
    cpus = CpuSet.parse(read(CGROUP_ROOT / "cpuset.cpus.isolated"))
    assert allowed(1) == online() - cpus
    return cpus


def at_most_once(found, here, there):
    """No thread was seen outside its old and its new CPU, and none migrated more than once, or at all where both are the same."""
    assert here.keys() == there.keys() == found.keys()
    for tid, (seen, count) in found.items():
        assert seen <= CpuSet.of(here[tid], there[tid]), f"thread {tid} of CPU {here[tid]} was on {seen} on its way to CPU {there[tid]}"
        assert count <= (here[tid] != there[tid]), f"thread {tid} migrated {count} times"


def places(*names):
    """Thread -> CPU of every vCPU of some VMs, as promised."""
    vms = [product.RunningVm.of(name) for name in names]
    return {vm.vcpu_tids[vcpu]: vm.pcpus[vcpu] for vm in vms for vcpu in vm.vcpu_tids}


def still_runs(tid):
    ran = run_time_ns(tid)
    eventually(lambda: run_time_ns(tid) > ran, "vCPU 0 does not run")


def online():
    return CpuSet.parse(read(CPUS / "online"))


def done(*words):
    answer = product.quietcore(*words)
    assert answer.code == 0, answer.err + answer.out
    return answer


def test_vcpus_go_straight_to_their_new_cpus(mover):
    goes_straight(mover, "mover", 3)


def goes_straight(vm, name, cpus):
    found, here = {}, places(name)
    goal = CpuSet.from_iterable(sorted(online() - vm.dedicated)[-cpus:])
    with watched(here, found):
        done("repin", name, "--cpus", str(goal))
    there = product.RunningVm.of(name)
    assert there.vcpu_tids == vm.vcpu_tids
    assert there.dedicated <= goal
    in_place(there)
    at_most_once(found, here, places(name))
    assert isolated() == there.dedicated
    still_runs(there.vcpu_tids[0])


def test_vcpus_that_swap_their_cpus_go_straight_there_too(mover):
    del mover
    found, here = {}, places("mover")
    world = App(config=read_config(None, None), quiet=True).world
    with world.books.locked():
        ledger = world.books.load()
        entry = ledger.find(VmName(name="mover"))
        machine = read_machine(world.fs, owned=ledger.owned)
        with watched(here, found):
            repin(world, machine, ledger, (move_to(entry, entry.plan, rotated(entry.plan, machine)),))
    there = product.RunningVm.of("mover")
    assert list(there.pcpus.values()) == [*list(here.values())[1:], here[there.vcpu_tids[0]]]
    in_place(there)
    at_most_once(found, here, places("mover"))
    assert isolated() == there.dedicated
    still_runs(there.vcpu_tids[0])


def rotated(plan, machine):
    """Each vCPU on the CPU of the next one."""
    cpus = [vcpu.pcpu for vcpu in plan.vcpus]
    places = [machine.cpu(cpu) for cpu in cpus[1:] + cpus[:1]]
    vcpus = (replace(vcpu, pcpu=one.cpu, node=one.node, core=one.core) for vcpu, one in zip(plan.vcpus, places, strict=True))
    return replace(plan, vcpus=tuple(vcpus))


def test_release_all_gives_every_cpu_back_and_the_vms_go_on_running(mover):
    done("release", "--all")
    assert isolated() == CpuSet()
    assert {str(allowed(tid)) for tid in mover.vcpu_tids.values()} == {str(online())}
    still_runs(mover.vcpu_tids[0])
    done("repin", "mover")
    again = product.RunningVm.of("mover")
    in_place(again)
    assert isolated() == again.dedicated


@pytest.mark.lab("2s4n16c")
def test_memory_follows_its_vcpus_to_another_node_while_they_run(mover):
    memory_follows(mover, "mover", 4)


def test_vcpus_go_straight_beside_a_housekeeping_cpu_too(run):
    goes_straight(run("kept", topology=(1, 2, 1), cpu={"isolateEmulatorThread": True}), "kept", 3)


@contextmanager
def cpus_for_vms(text):
    """VMs get these CPUs only."""
    product.configure(f'{product.HERE}[placement]\nreserved_cpus = "{CpuSet.range(16) - CpuSet.parse(text)}"\n')
    try:
        yield
    finally:
        product.configure()


@pytest.mark.lab("2s4n16c")
def test_room_is_made_by_the_fewest_moves_and_nobody_else_is_touched(run, hypervisor, tmp_path):
    with cpus_for_vms("8,10,12,14"):  # a thread of each of four cores
        for name, vcpus in (("spread", 3), ("other", 1)):
            run(name, topology=(1, vcpus, 1))
    with cpus_for_vms("8-15"):
        room_is_made(tmp_path, hypervisor)


def room_is_made(folder, hypervisor):
    names = ("spread", "other")
    wanted = folder / "wanted.yaml"
    wanted.write_text(whole_cores("wanted", 4))
    assert product.quietcore("plan", "-f", str(wanted)).code == 3
    found, here = {}, places(*names)
    with watched(here, found):
        made = product.quietcore("defrag", "-f", str(wanted), "--yes", "-o", "json")
    assert made.code == 0, made.err
    assert (made.value["outcome"], made.value["cost"], made.value["atLeast"]) == ("moves", 2, 2)
    there = places(*names)
    assert sum(here[tid] != there[tid] for tid in here) == 2
    at_most_once(found, here, there)
    for name in names:
        in_place(product.RunningVm.of(name))
    assert isolated() == CpuSet.from_iterable(there.values())
    for name in names:
        hypervisor.lookupByName(f"default_{name}").suspend()  # nothing more is asked of them: the start shall have the emulating host
    done("run", "-f", str(wanted))
    in_place(product.RunningVm.of("wanted"))


def whole_cores(name, vcpus):
    wanted = json.loads(product.manifest(name, topology=(1, vcpus, 1)))
    wanted["metadata"]["annotations"] = {"quietcore.io/thread-policy": "require"}
    return json.dumps(wanted)


def own_pages(vm):
    """(node, KiB of a page) -> pages of QEMU's own and of the guest's memory; programs and libraries are everybody's."""
    found = Counter()
    for line in read(f"/proc/{vm.pid}/numa_maps").splitlines():
        if "file=/usr" not in line and "file=/lib" not in line and "kernelpagesize_kB=" in line:
            size = int(line.rpartition("kernelpagesize_kB=")[2])
            found.update({(int(node), size): int(count) for node, count in re.findall(r" N(\d+)=(\d+)", line)})
    return found


def share_on(node, pages):
    """Which part of the memory is on a node."""
    return sum(size * count for (one, size), count in pages.items() if one == node) / sum(
        size * count for (_, size), count in pages.items()
    )


@pytest.mark.lab("2s4n16c")
def test_hugepages_follow_too_and_all_of_them(on_hugepages):
    free = free_hugepages(2)

    def all_of_them(node):
        assert {key: count for key, count in own_pages(on_hugepages).items() if key[1] == 2048} == {(node, 2048): 32}
        assert free - free_hugepages(2) == (32 if node == 2 else 0)

    memory_follows(on_hugepages, "huge", 2048, also=all_of_them)


def free_hugepages(node):
    return int(read(NODES / f"node{node}/hugepages/hugepages-2048kB/free_hugepages"))


def memory_follows(vm, name, page_kib, also=lambda node: None):
    """Move a VM with its memory to node 2 and back; `also` is asked on each of the two."""
    found, here = {}, places(name)
    (home,) = {cpu // 4 for cpu in vm.dedicated}
    assert share_on(home, own_pages(vm)) > 0.9
    with watched(here, found):
        moved = done("repin", name, "--cpus", str(CpuSet.from_iterable(range(8, 8 + len(here)))), "--move-memory", "-o", "json").value
    assert moved["memory"]["nodes"] == [2]
    assert {one["pageBytes"] for one in moved["memory"]["pages"]} == {4096, page_kib << 10}
    assert share_on(2, own_pages(vm)) > 0.9
    also(2)
    at_most_once(found, here, places(name))
    there = product.RunningVm.of(name)
    in_place(there)
    assert {binding["node"] for binding in there.described["memory"]} == {2}
    assert {there.group_of_vcpu(vcpu).get("cpuset.mems") for vcpu in there.vcpu_tids} == {"2"}
    still_runs(there.vcpu_tids[0])
    done("repin", name, "--cpus", str(vm.dedicated), "--move-memory")
    assert share_on(home, own_pages(vm)) > 0.9
    also(home)


@pytest.mark.lab("2s4n16c")
def test_memory_for_which_the_node_lacks_pages_is_refused_before_anything_moves(on_hugepages):
    here = places("huge")
    with restored(NODES / "node3/hugepages/hugepages-2048kB/nr_hugepages") as pages:
        write(pages, "16")
        refused = product.quietcore("repin", "huge", "--cpus", "12-13", "--move-memory", "-o", "json")
    assert refused.code == 3
    assert {"memory-on-node", "pages-on-node"} <= {one["constraint"] for one in refused.value["reasons"]}
    assert places("huge") == here
    in_place(on_hugepages)


FOREIGN = """
<domain type='qemu'>
  <name>Somebodys</name>
  <memory unit='MiB'>64</memory>
  <vcpu>2</vcpu>
  <cputune><vcpupin vcpu='0' cpuset='5'/><vcpupin vcpu='1' cpuset='7'/><emulatorpin cpuset='0-1'/></cputune>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <disk type='file'><driver name='qemu' type='raw'/><source file='{disk}'/><target dev='vda' bus='virtio'/></disk>
    <controller type='usb' model='none'/><memballoon model='none'/>
  </devices>
</domain>
"""


@pytest.fixture
def foreign(hypervisor, standing, tmp_path):
    """Somebody else's domain, with its vCPU threads; ended afterwards."""
    standing.end()
    domain = hypervisor.createXML(FOREIGN.format(disk=busy_disk(tmp_path / "theirs")), 0)
    pid = int(read(f"/run/libvirt/qemu/{domain.name()}.pid"))
    names = {comm: tid for tid, comm in lasting_threads(pid).items()}
    yield domain, pid, [names["CPU 0/TCG"], names["CPU 1/TCG"]]
    domain.destroy()


def as_it_stands(pid):
    """Every thread's CPUs and group, and the cpuset files of these groups and of the one around them."""
    threads = {tid: (str(allowed(tid)), str(cgroup_of(tid))) for tid in lasting_threads(pid)}
    groups = sorted({Path(group) for _, group in threads.values()} | {Path(group).parent for _, group in threads.values()})
    names = ("cpuset.cpus", "cpuset.cpus.exclusive", "cpuset.cpus.partition", "cpuset.cpus.effective", "cpuset.mems")
    return threads, {str(group / name): read(group / name) for group in groups for name in names if (group / name).exists()}


def test_an_adopted_domain_gets_partitions_and_release_gives_back_exactly_what_was_there(foreign):
    domain, pid, tids = foreign
    before, xml = as_it_stands(pid), domain.XMLDesc()
    pinned, found = dict(zip(tids, (5, 7), strict=True)), {}
    with watched(tids, found):
        done("adopt", "Somebodys", "--name", "theirs")
    there = product.RunningVm.of("theirs")
    assert there.vcpu_tids == dict(enumerate(tids))
    in_place(there)
    at_most_once(found, pinned, places("theirs"))
    assert isolated() == there.dedicated
    at, found = places("theirs"), {}
    with watched(tids, found):
        done("release", "theirs")
    at_most_once(found, at, pinned)
    assert isolated() == CpuSet()
    assert (as_it_stands(pid), domain.XMLDesc()) == (before, xml)
    still_runs(tids[0])


@pytest.mark.lab("2s4n16c")
def test_threads_whose_cpus_had_all_been_taken_before_the_adoption_get_them_back_once_they_are_free(foreign, tmp_path):
    domain, pid, tids = foreign
    before, xml = as_it_stands(pid), domain.XMLDesc()
    with cpus_for_vms("4-7"):
        product.start(tmp_path, "ours", topology=(1, 4, 1))
    assert [allowed(tid).isdisjoint(CpuSet.of(5, 7)) for tid in tids] == [True, True]  # lent to them by the kernel
    done("adopt", "Somebodys", "--name", "theirs")
    product.delete("ours")
    done("release", "theirs")
    assert (as_it_stands(pid), domain.XMLDesc()) == (before, xml)


@pytest.mark.lab("2s4n16c")
def test_a_domain_whose_cpus_others_have_is_released_beside_them_and_gets_them_back_when_they_end(foreign, tmp_path):
    domain, pid, tids = foreign
    before = as_it_stands(pid)
    with cpus_for_vms("4-7"):
        product.start(tmp_path, "ours", topology=(1, 4, 1))
    lent = as_it_stands(pid)
    done("adopt", "Somebodys", "--name", "theirs")
    told = done("release", "theirs").err
    assert as_it_stands(pid) == lent
    for vcpu, cpu in ((0, 5), (1, 7)):  # libvirt itself sets no pin that the kernel refuses
        assert f"<vcpupin vcpu='{vcpu}' cpuset='0-3,8-15'/>" in domain.XMLDesc()
        assert f"libvirt's pin of vCPU {vcpu} is 0-3,8-15: others have {cpu} now" in told
    in_place(product.RunningVm.of("ours"))
    product.delete("ours")
    assert as_it_stands(pid) == before
    still_runs(tids[0])
