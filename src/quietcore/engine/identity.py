"""What a VM is called where the manifest leaves it open: its strategy and the UUID that stays the same at every start."""

from __future__ import annotations

import uuid
from typing import Final

from quietcore.model import Strategy, VmSpec

_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "https://quietcore.io/vm")


def strategy_of(spec: VmSpec, default: Strategy) -> Strategy:
    """The VM's own strategy, else `housekeeping` where it isolates the emulator thread, else the host's."""
    return spec.strategy or ("housekeeping" if spec.cpu.isolate_emulator else default)


def uuid_of(spec: VmSpec) -> str:
    """The guest's UUID: the manifest's, or one that stays the same for the same name."""
    return spec.firmware.uuid or str(uuid.uuid5(_NAMESPACE, str(spec.vm)))
