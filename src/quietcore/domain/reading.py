"""Live XML -> `DomainFacts`: what libvirt holds to be true of a domain, ours or anybody's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final, get_args

from lxml import etree

from quietcore.domain.identity import NAMESPACE
from quietcore.errors import InputError
from quietcore.model import CpuSet, DomainDisk, DomainFacts, GuestTopology, Strategy, VcpuSched, VmName

_UNITS: Final = {
    "b": 1, "bytes": 1, "k": 1 << 10, "kib": 1 << 10, "kb": 10**3, "m": 1 << 20, "mib": 1 << 20, "mb": 10**6, "g": 1 << 30,
    "gib": 1 << 30, "gb": 10**9, "t": 1 << 40, "tib": 1 << 40, "tb": 10**12,
}  # fmt: skip
"""libvirt's size units; without one it means KiB."""
_MOST_IOTHREADS: Final = 65_536
_STRATEGIES: Final[dict[str, Strategy]] = {name: name for name in get_args(Strategy)}


def facts(xml: str) -> DomainFacts:
    """Read a domain's XML. Raises InputError for text that is no domain, or for a number or CPU list that is none."""
    root = parse_domain(xml)
    try:
        return _facts(root)
    except ValueError as err:
        raise InputError(f"the domain's XML cannot be read: {err}") from err


def parse_domain(xml: str) -> etree._Element:
    """The root element. Raises InputError for text that is no domain; entities are not expanded."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, remove_comments=True, remove_pis=True)
    try:
        root = etree.fromstring(xml.encode(), parser)
    except (etree.XMLSyntaxError, UnicodeEncodeError) as err:
        raise InputError(f"the domain is no XML: {err}") from err
    if root.tag != "domain":
        raise InputError(f"the XML describes a {str(root.tag)!r}, not a domain")
    return root


def cpu_list(text: str) -> CpuSet:
    """libvirt's CPU lists: the kernel's, with "^2" taking a CPU out again, in order."""
    cpus = CpuSet()
    for part in filter(None, (one.strip() for one in text.split(","))):
        cpus = cpus - CpuSet.parse(part[1:]) if part.startswith("^") else cpus | CpuSet.parse(part)
    return cpus


def size_bytes(element: etree._Element | None, default_unit: str = "KiB") -> int:
    """The size that an element states, in bytes; 0 for a missing element."""
    if element is None:
        return 0
    return int(element.text or 0) * _unit(element, default_unit)


def _unit(element: etree._Element, default: str = "KiB") -> int:
    name = element.get("unit") or default
    if name.lower() not in _UNITS:
        raise ValueError(f"unknown unit {name!r}")
    return _UNITS[name.lower()]


def topology_of(root: etree._Element) -> GuestTopology | None:
    """The guest's topology where the XML states one; dies count as sockets."""
    found = root.find("cpu/topology")
    if found is None:
        return None
    sockets, dies, cores, threads = (int(found.get(part, "1")) for part in ("sockets", "dies", "cores", "threads"))
    if min(sockets, dies, cores, threads) < 1:
        raise ValueError("a topology with a part below 1")
    return GuestTopology(sockets=sockets * dies, cores=cores, threads=threads)


def _facts(root: etree._Element) -> DomainFacts:
    vcpu, ours = root.find("vcpu"), root.find(f"metadata/{{{NAMESPACE}}}vm")
    possible = int(vcpu.text or 1) if vcpu is not None else 1
    pages = root.find("memoryBacking/hugepages")
    cpu = root.find("cpu")
    return DomainFacts(
        name=root.findtext("name", ""),
        uuid=root.findtext("uuid", ""),
        domain_type=root.get("type", ""),
        vcpus=int(vcpu.get("current", possible)) if vcpu is not None else 1,
        max_vcpus=possible,
        memory_bytes=size_bytes(root.find("memory")),
        vm=VmName(namespace=ours.get("namespace", "default"), name=ours.get("name", "")) if ours is not None else None,
        uid=ours.get("uid") if ours is not None else None,
        strategy=_STRATEGIES.get(ours.get("strategy", "")) if ours is not None else None,
        topology=topology_of(root),
        cpu_mode=cpu.get("mode", "") if cpu is not None else "",
        default_cpus=_cpus(vcpu, "cpuset"),
        vcpu_pins=_pins(root, "vcpupin", "vcpu"),
        vcpu_scheds=MappingProxyType(dict(_scheds(root, possible))),
        emulator_pin=_cpus(root.find("cputune/emulatorpin"), "cpuset"),
        iothreads=_iothreads(root),
        iothread_pins=_pins(root, "iothreadpin", "iothread"),
        numa_nodes=_cpus(root.find("numatune/memory"), "nodeset"),
        memnodes=MappingProxyType(
            {int(one.get("cellid", "0")): cpu_list(one.get("nodeset", "")) for one in root.findall("numatune/memnode")}
        ),
        cell_vcpus=_cells(root),
        hugepages=pages is not None,
        hugepage_bytes=_page_sizes(pages),
        locked=root.find("memoryBacking/locked") is not None,
        quota=any(
            int(root.findtext(f"cputune/{name}", "-1")) > 0 for name in ("quota", "global_quota", "emulator_quota", "iothread_quota")
        ),
        disks=tuple(_disk(one) for one in root.findall("devices/disk")),
        graphics=tuple(one.get("type", "") for one in root.findall("devices/graphics")),
        console_tty=_tty(root),
        emulator=root.findtext("devices/emulator", ""),
    )


def _cpus(element: etree._Element | None, attribute: str) -> CpuSet | None:
    text = element.get(attribute) if element is not None else None
    return None if text is None else cpu_list(text)


def _pins(root: etree._Element, tag: str, key: str) -> Mapping[int, CpuSet]:
    pins = {int(one.get(key, "0")): cpu_list(one.get("cpuset", "")) for one in root.findall(f"cputune/{tag}")}
    return MappingProxyType(dict(sorted(pins.items())))


def _scheds(root: etree._Element, possible: int) -> Iterator[tuple[int, VcpuSched]]:
    for one in root.findall("cputune/vcpusched"):
        chosen = cpu_list(one.get("vcpus") or f"0-{possible - 1}")
        for vcpu in chosen:
            yield vcpu, VcpuSched(policy=one.get("scheduler", ""), priority=int(one.get("priority", "0")))


def _iothreads(root: etree._Element) -> tuple[int, ...]:
    named = [int(one.get("id", "0")) for one in root.findall("iothreadids/iothread")]
    count = int(root.findtext("iothreads", "0"))
    if not 0 <= count <= _MOST_IOTHREADS:
        raise ValueError(f"{count} I/O threads")
    # libvirt numbers the threads that have no id with the lowest free numbers.
    free = (number for number in range(1, count + len(named) + 1) if number not in named)
    return tuple(sorted([*named, *(next(free) for _ in range(count - len(named)))]))


def _cells(root: etree._Element) -> Mapping[int, CpuSet]:
    cells = root.findall("cpu/numa/cell")
    return MappingProxyType({int(one.get("id", number)): cpu_list(one.get("cpus", "")) for number, one in enumerate(cells)})


def _page_sizes(pages: etree._Element | None) -> tuple[int, ...]:
    if pages is None:
        return ()
    sizes = {int(page.get("size", "0")) * _unit(page) for page in pages.findall("page")}
    return tuple(sorted(sizes))


def _disk(disk: etree._Element) -> DomainDisk:
    source, driver, target = disk.find("source"), disk.find("driver"), disk.find("target")
    thread = driver.get("iothread") if driver is not None else None
    return DomainDisk(
        target=target.get("dev", "") if target is not None else "",
        source=next((source.get(name, "") for name in ("file", "dev", "name", "dir") if source.get(name)), "")
        if source is not None
        else "",
        format=driver.get("type", "") if driver is not None else "",
        device=disk.get("device", "disk"),
        bus=target.get("bus", "") if target is not None else "",
        iothread=int(thread) if thread else None,
    )


def _tty(root: etree._Element) -> str:
    console = root.find("devices/console")
    return console.get("tty", "") if console is not None else ""
