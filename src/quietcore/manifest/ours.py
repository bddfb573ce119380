"""Rules that KubeVirt does not have: what would fail later, waste CPUs, or be unsafe in a path, a command or XML."""

from __future__ import annotations

import base64
import re
from typing import Final

from quietcore.manifest.annotations import DEDICATED_VCPUS, HOOK_SIDECARS, Wishes
from quietcore.manifest.causes import Cause, Check
from quietcore.manifest.realtime_mask import select
from quietcore.manifest.tree import Tree
from quietcore.manifest.validate_cpu import ZERO, vcpus_as_written
from quietcore.model.spec import Strategy

MOST_VCPUS: Final = 4096
_MOST_IO_THREADS: Final = 1024
_MOST_BYTES: Final = 1 << 62
_ARCHITECTURES: Final = ("amd64", "arm64")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_CPU_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
_IMAGE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")
_TIME_ZONE: Final = re.compile(r"[A-Z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*")
_MOST_OFFSET: Final = 1 << 31
_BRIDGE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
"""The kernel's interface names have at most 15 characters (IFNAMSIZ)."""
_MASK: Final = "domain.cpu.realtime.mask"


def strategy_of(check: Check, wishes: Wishes) -> Strategy | None:
    """The strategy in force: the annotation, else `housekeeping` for an isolated emulator thread, else the host's default (None)."""
    if wishes.strategy is None and check.spec.flag("domain.cpu.isolateEmulatorThread"):
        return "housekeeping"
    return wishes.strategy


def check_ours(check: Check, wishes: Wishes, annotations_path: str) -> None:
    """Every rule of this file, on a spec with its defaults."""
    architecture = check.spec.text("architecture")
    if architecture not in {"amd64", "arm64", "s390x"}:
        check.invalid("architecture", f"unsupported architecture: {architecture}")
    elif architecture not in _ARCHITECTURES:
        check.ours("architecture", f"{architecture} guests are not supported here", f"one of {', '.join(_ARCHITECTURES)}")
    model = check.spec.text("domain.cpu.model")
    if architecture == "arm64" and model not in {"", "host-passthrough"}:
        message = "currently, host-passthrough is the only model supported on Arm64"
        check.invalid("domain.cpu.model", message, "FieldValueNotSupported")
    _sizes(check)
    _texts(check)
    _clock(check)
    _volumes(check)
    _interfaces(check, wishes)
    if wishes.sidecars:
        message = "hook sidecars are containers of the pod; a host without Kubernetes does not run them"
        check.causes.append(Cause(field=f"{annotations_path}.{HOOK_SIDECARS}", message=message, ours=True, warning=True))
    vcpus = vcpus_as_written(check)
    if 0 < vcpus <= MOST_VCPUS:
        _realtime(check, wishes, vcpus)
        _dedicated_vcpus(check, wishes, vcpus, annotations_path)
        _waste(check, wishes, vcpus)


def _sizes(check: Check) -> None:
    vcpus, ceiling = vcpus_as_written(check), check.spec.number("domain.cpu.maxSockets")
    if not 0 < vcpus <= MOST_VCPUS:
        check.ours("domain.cpu", f"{vcpus} vCPUs cannot be run", f"sockets x cores x threads must be within 1 and {MOST_VCPUS}")
    elif ceiling * max(check.spec.number("domain.cpu.cores"), 1) * max(check.spec.number("domain.cpu.threads"), 1) > MOST_VCPUS:
        check.ours("domain.cpu.maxSockets", f"{ceiling} sockets hold more than {MOST_VCPUS} vCPUs", "lower maxSockets")
    pool = check.spec.number("domain.ioThreads.supplementalPoolThreadCount")
    if pool > _MOST_IO_THREADS:
        check.ours("domain.ioThreads.supplementalPoolThreadCount", f"{pool} I/O threads cannot be run", f"at most {_MOST_IO_THREADS}")
    for path in ("domain.memory.guest", "domain.memory.maxGuest", "domain.memory.reservedOverhead.addedOverhead"):
        amount = check.spec.quantity(path)
        if amount is not None and not (0 < amount.value < _MOST_BYTES or (amount.value == 0 and path.endswith("Overhead"))):
            check.ours(path, f"{amount} is no possible amount of memory", "for example 512Mi")
    lock = check.spec.text("domain.memory.reservedOverhead.memLock")
    if lock not in {"", "Required", "NotRequired"}:
        check.ours("domain.memory.reservedOverhead.memLock", f"{lock!r} is unknown", "Required or NotRequired")
    for side in ("requests", "limits"):
        for name in check.spec.mapping(f"domain.resources.{side}"):
            if name not in {"cpu", "memory"}:
                check.ours(f"domain.resources.{side}.{name}", "only cpu and memory are supported here", "remove it")
    if check.spec.number("terminationGracePeriodSeconds") < 0:
        check.ours("terminationGracePeriodSeconds", "must not be negative", "0 stops the VM at once")


def _texts(check: Check) -> None:
    uuid = check.spec.text("domain.firmware.uuid")
    if uuid and not _UUID.fullmatch(uuid):
        check.ours("domain.firmware.uuid", f"{uuid!r} is no UUID", "for example 5d307ca9-b3ef-428c-8861-06e72d69f223")
    model = check.spec.text("domain.cpu.model")
    if model and not _CPU_NAME.fullmatch(model):
        check.ours("domain.cpu.model", f"{model!r} is no CPU model's name", "host-model, host-passthrough or a name of libvirt's")
    for index, feature in enumerate(check.spec.items("domain.cpu.features")):
        name = feature.text("name")
        if not _CPU_NAME.fullmatch(name):
            check.ours(f"domain.cpu.features[{index}].name", f"{name!r} is no CPU feature's name", "for example tsc-deadline")


def _clock(check: Check) -> None:
    path, zone = "domain.clock.timezone", check.spec.text("domain.clock.timezone")
    if zone and not _TIME_ZONE.fullmatch(zone):
        check.ours(path, f"{zone!r} is no time zone", "for example Europe/Prague")
    elif zone and check.spec.has("domain.clock.utc"):
        check.ours(path, "a clock has either a time zone or an offset from UTC", "remove one of them")
    if not -_MOST_OFFSET < check.spec.number("domain.clock.utc.offsetSeconds") < _MOST_OFFSET:
        check.ours("domain.clock.utc.offsetSeconds", "no clock is that far from UTC", f"less than {_MOST_OFFSET}")


def _volumes(check: Check) -> None:
    boot = check.spec.text("domain.firmware.kernelBoot.container.image")
    images = {"domain.firmware.kernelBoot.container.image": boot} if boot else {}
    for index, volume in enumerate(check.spec.items("volumes")):
        path = f"volumes[{index}]"
        if volume.has("containerDisk"):
            images[f"{path}.containerDisk.image"] = volume.text("containerDisk.image")
        if volume.has("emptyDisk") and not 0 < (volume.quantity("emptyDisk.capacity") or ZERO).value < _MOST_BYTES:
            check.ours(f"{path}.emptyDisk.capacity", "an empty disk needs a size", "for example capacity: 1Gi")
        for source in ("cloudInitNoCloud", "cloudInitConfigDrive"):
            for name in ("userDataBase64", "networkDataBase64"):
                if not _is_text(volume.text(f"{source}.{name}")):
                    check.ours(f"{path}.{source}.{name}", "the decoded data is not UTF-8 text", "cloud-init reads UTF-8")
        if volume.has("hostDisk"):
            _host_disk(check, path, volume.child("hostDisk"))
    for path, image in images.items():
        if not _IMAGE.fullmatch(image):
            check.ours(path, f"{image!r} is no image name", "for example registry/name:tag")


def _is_text(encoded: str) -> bool:
    try:
        base64.b64decode(encoded, validate=True).decode()
    except UnicodeDecodeError:
        return False
    except ValueError:
        return True  # no base64 at all, for which KubeVirt has its own rule
    return True


def _host_disk(check: Check, path: str, disk: Tree) -> None:
    file, capacity = disk.text("path"), disk.quantity("capacity") or ZERO
    if file and (not file.startswith("/") or file.endswith("/") or any(part in {"", ".", ".."} for part in file.split("/")[1:])):
        check.ours(f"{path}.hostDisk.path", f"{file!r} is no absolute path of a file", "for example /var/lib/vms/disk.img")
    if disk.text("type") == "DiskOrCreate" and not 0 < capacity.value < _MOST_BYTES:
        check.ours(f"{path}.hostDisk", "a disk that may have to be created needs a capacity", "for example capacity: 1Gi")


def _interfaces(check: Check, wishes: Wishes) -> None:
    networks = {network.text("name"): network for network in check.spec.items("networks")}
    for index, interface in enumerate(check.spec.items("domain.devices.interfaces")):
        path, name = f"domain.devices.interfaces[{index}]", interface.text("name")
        plugin = interface.text("binding.name")
        if interface.has("binding") and plugin != "vhostuser":
            check.ours(f"{path}.binding.name", f"the binding plugin {plugin!r} is not known here", "vhostuser is")
        elif interface.has("binding") and name not in wishes.sockets:
            hint = f"name its socket in the annotation quietcore.io/vhostuser-{name}"
            check.ours(f"{path}.binding", "a vhost-user interface needs a socket", hint)
        network = networks.get(name)
        target = network.text("multus.networkName") if network else ""
        if interface.has("bridge") and target and not _BRIDGE.fullmatch(target.rpartition("/")[2]):
            check.ours(f"{path}.name", f"{target!r} cannot name a bridge of the host", "at most 15 letters, digits, _ . -")
        for number, port in enumerate(interface.items("ports")):
            if port.text("protocol") == "UDP":
                check.ours(f"{path}.ports[{number}].protocol", "UDP ports are not forwarded here", "remove the port")


def _realtime(check: Check, wishes: Wishes, vcpus: int) -> None:
    if not check.spec.has("domain.cpu.realtime"):
        return
    try:
        chosen = select(check.spec.text(_MASK), vcpus)
    except ValueError as error:
        check.ours(_MASK, str(error), "items are N, N-M or ^N, separated by commas: 0-3,^1")
        return
    if not chosen:
        hint = 'a mask has to name what it takes from: "0-3,^1"; leave the mask out for all vCPUs'
        check.ours(_MASK, f"the mask {check.spec.text(_MASK)!r} makes none of the {vcpus} vCPUs real-time", hint)
    elif wishes.dedicated_vcpus is not None and not chosen <= wishes.dedicated_vcpus:
        shared = ", ".join(str(vcpu) for vcpu in sorted(chosen - wishes.dedicated_vcpus))
        check.ours(_MASK, f"real-time vCPUs {shared} have no dedicated CPU", f"list them in {DEDICATED_VCPUS}")


def _dedicated_vcpus(check: Check, wishes: Wishes, vcpus: int, annotations_path: str) -> None:
    beyond = sorted(vcpu for vcpu in wishes.dedicated_vcpus or () if vcpu >= vcpus)
    if beyond:
        name = f"{annotations_path}.{DEDICATED_VCPUS}"
        listed = ", ".join(str(vcpu) for vcpu in beyond[:8])
        cause = Cause(field=name, message=f"the VM has no vCPU {listed}", ours=True, hint=f"its vCPUs are 0-{vcpus - 1}")
        check.causes.append(cause)


def _waste(check: Check, wishes: Wishes, vcpus: int) -> None:
    spec = check.spec
    if not spec.flag("domain.cpu.dedicatedCpuPlacement"):
        if wishes.strategy is not None:
            check.ours("domain.cpu", f"strategy {wishes.strategy!r} has no effect without dedicated CPUs", "", warning=True)
        return
    strategy = strategy_of(check, wishes)
    pool = spec.number("domain.ioThreads.supplementalPoolThreadCount") if spec.text("domain.ioThreadsPolicy") == "supplementalPool" else 0
    dedicated = vcpus if wishes.dedicated_vcpus is None else len(wishes.dedicated_vcpus)
    total = dedicated + pool + (strategy == "housekeeping")
    padded = strategy == "housekeeping" and check.cluster.even_parity
    if total > 1 and total % 2 and not padded:
        what = (
            f"{dedicated} vCPUs" + (f", {pool} I/O threads" if pool else "") + (" and 1 emulator CPU" if strategy == "housekeeping" else "")
        )
        hint = "an even number of vCPUs, or KubeVirt's EmulatorThreadCompleteToEvenParity"
        message = f"{what} make {total} CPUs, an odd number: a host with two threads per core can never align them to whole cores"
        check.ours("domain.cpu", message, hint, warning=True)
    threads_asked = spec.has("domain.ioThreadsPolicy") or any(disk.flag("dedicatedIOThread") for disk in spec.items("domain.devices.disks"))
    if strategy == "whole" and threads_asked and not pool:
        message = "with strategy 'whole' the I/O threads run on the vCPUs' dedicated CPUs and take time from them"
        check.ours("domain.ioThreadsPolicy", message, "strategy dedicated, or ioThreadsPolicy: supplementalPool", warning=True)
