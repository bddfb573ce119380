"""The configuration file: every setting, every default, every fault at once."""

from dataclasses import fields

import pytest

from quietcore import config
from quietcore.config import Config, parse
from quietcore.errors import InputError
from quietcore.model import CpuPolicyOptions, CpuSet, Options

EVERYTHING = """
[paths]
state = "/srv/quietcore"
[hypervisor]
uri = "qemu:///embed?root=/srv/embed"
acceleration = "tcg"
qemu_user = "root"
emulator = "/usr/bin/qemu-kvm"
bridge = "br0"
[isolation]
strategy = "whole"
[realtime]
allow_host_settings = true
[agent]
socket = "/run/q.sock"
group = "wheel"
change_group = "adm"
resync_seconds = 5
[placement]
reserved_cpus = "0,8"
compat = "1.36"
cpu_manager_options = ["full-pcpus-only", "align-by-socket"]
topology_manager_policy = "restricted"
topology_manager_scope = "container"
prefer_closest_numa_nodes = true
[reserved_memory]
0 = { memory = 1073741824 }
1 = { memory = 4096, hugepages-2Mi = 2097152 }
"""


def faults(text: str) -> list[str]:
    with pytest.raises(InputError) as refusal:
        parse(text, "q.toml")
    return [str(problem) for problem in refusal.value.problems]


def test_every_setting_reaches_the_configuration():
    assert parse(EVERYTHING) == Config(
        state_dir="/srv/quietcore",
        uri="qemu:///embed?root=/srv/embed",
        acceleration="tcg",
        qemu_user="root",
        emulator="/usr/bin/qemu-kvm",
        bridge="br0",
        strategy="whole",
        allow_host_settings=True,
        options=Options(
            compat="1.36",
            cpu=CpuPolicyOptions(full_pcpus_only=True, align_by_socket=True),
            topology_policy="restricted",
            topology_scope="container",
            prefer_closest_numa_nodes=True,
            reserved_cpus=CpuSet.of(0, 8),
            reserved_memory={0: {"memory": 1 << 30}, 1: {"memory": 4096, "hugepages-2Mi": 2 << 20}},
        ),
        socket="/run/q.sock",
        group="wheel",
        change_group="adm",
        resync_s=5.0,
    )


def test_no_setting_can_be_forgotten_here():
    default, changed = Config(), parse(EVERYTHING)
    assert [one.name for one in fields(Config) if getattr(default, one.name) == getattr(changed, one.name)] == []
    known = {key for keys in config._SETTINGS.values() for key in keys}
    assert all(f"\n{key} = " in EVERYTHING for key in known)


@pytest.mark.parametrize("text", ["", "[placement]\n", "# nothing\n"])
def test_what_is_not_said_has_its_default(text):
    assert parse(text) == Config()
    assert (Config().strategy, Config().options.compat, Config().options.topology_policy) == ("dedicated", "fixed", "best-effort")


def test_all_faults_are_told_at_once_each_with_its_place():
    text = """
    surprise = 1
    paths = 3
    [hypervisor]
    uri = 5
    acceleration = "warp"
    colour = "red"
    [isolation]
    strategy = ["whole"]
    [realtime]
    allow_host_settings = 1
    [agent]
    resync_seconds = 0.5
    socket = "agent.sock"
    [placement]
    reserved_cpus = "3-1"
    compat = 1.36
    cpu_manager_options = ["full-pcpus-only", "fast", 3, ["x"]]
    topology_manager_policy = "none-at-all"
    prefer_closest_numa_nodes = "yes"
    [reserved_memory]
    first = { memory = 1 }
    0 = 4096
    1 = { memory = "1Gi", hugepages-2Mi = -1, hugepages-1Gi = true }
    """
    options = "align-by-socket, distribute-cpus-across-cores, distribute-cpus-across-numa, full-pcpus-only"
    options += ", prefer-align-cpus-by-uncorecache, strict-cpu-reservation"
    assert faults(text) == [
        f"q.toml: surprise: unknown table (known: {', '.join(config._SETTINGS)})",
        "q.toml: paths: must be a table",
        "q.toml: hypervisor.uri: must be a text",
        "q.toml: hypervisor.acceleration: 'warp' is none of 'auto', 'kvm', 'tcg'",
        f"q.toml: hypervisor.colour: unknown setting (known: {', '.join(config._SETTINGS['hypervisor'])})",
        "q.toml: isolation.strategy: ['whole'] is none of 'whole', 'housekeeping', 'dedicated'",
        "q.toml: realtime.allow_host_settings: must be true or false",
        "q.toml: agent.resync_seconds: must be a number of seconds, at least 1",
        "q.toml: agent.socket: must be an absolute path",
        "q.toml: placement.reserved_cpus: the range '3-1' in the CPU list '3-1' does not ascend within 0-65535",
        "q.toml: placement.compat: 1.36 is none of 'fixed', '1.36'",
        f"q.toml: placement.cpu_manager_options: must be a list of {options}; not fast, 3, ['x']",
        "q.toml: placement.topology_manager_policy: 'none-at-all' is none of 'none', 'best-effort', 'restricted', 'single-numa-node'",
        "q.toml: placement.prefer_closest_numa_nodes: must be true or false",
        "q.toml: reserved_memory.first: must be a NUMA node number with a table of resource = bytes",
        "q.toml: reserved_memory.0: must be a NUMA node number with a table of resource = bytes",
        "q.toml: reserved_memory.1.memory: must be a number of bytes",
        "q.toml: reserved_memory.1.hugepages-2Mi: must be a number of bytes",
        "q.toml: reserved_memory.1.hugepages-1Gi: must be a number of bytes",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[placement]\nreserved_cpus = ''", "q.toml: placement.reserved_cpus: at least one CPU stays with the host"),
        ("[paths]\nstate = 'here'", "q.toml: paths.state: must be an absolute path"),
        ("[agent]\nresync_seconds = true", "q.toml: agent.resync_seconds: must be a number of seconds, at least 1"),
        ("[placement]\ncpu_manager_options = 'fast'", "not fast"),
        ("[placement", "q.toml: not valid TOML: "),
        ("a = 1\na = 2", "q.toml: not valid TOML: "),
    ],
)
def test_a_fault_is_a_sentence_with_its_place(text, fault):
    (told,) = faults(text)
    assert fault in told
