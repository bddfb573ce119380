"""The world of a command that does the work itself: this host's kernel, libvirt, ledger and image store."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from quietcore.config import Config
from quietcore.engine import Event, LedgerFile, World
from quietcore.host.fs import HostFs
from quietcore.host.threads import KernelThreads
from quietcore.images import ImageStore, SubprocessRunner
from quietcore.virt import LibvirtHypervisor

if TYPE_CHECKING:
    from quietcore.host.kvm import Acceleration


def this_host(config: Config, hypervisor: LibvirtHypervisor, report: Callable[[Event], None], note: Callable[[str], None]) -> World:
    """This host. `report` hears every step, `note` that a guest will be slow."""

    def acceleration() -> Acceleration:
        chosen = _acceleration(config)
        if chosen.domain_type == "qemu":
            note(f"software emulation (TCG), many times slower than KVM: {chosen.reason}")
        return chosen

    state = Path(config.state_dir)
    runner = SubprocessRunner()
    return World(
        config=config,
        fs=HostFs(),
        control=KernelThreads(),
        hypervisor=hypervisor,
        books=LedgerFile(state),
        store=ImageStore(state / "images", runner),
        runner=runner,
        acceleration=acceleration,
        clock=time.monotonic,
        sleep=time.sleep,
        report=report,
    )


def _acceleration(config: Config) -> Acceleration:
    from quietcore.host.kvm import Acceleration, detect  # only a start asks

    if config.acceleration == "kvm":
        return Acceleration(domain_type="kvm", reason="the configuration says kvm")
    if config.acceleration == "tcg":
        return Acceleration(domain_type="qemu", reason="the configuration says tcg")
    user = None if config.qemu_user == "root" else config.qemu_user
    return detect(qemu_user=user, emulator=config.emulator)
