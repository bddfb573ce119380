"""The CPUs that are kept for the host itself: never handed out exclusively, but part of the shared pool unless strict."""

from quietcore.errors import InputError, Problem
from quietcore.model import CpuSet, Machine, Options
from quietcore.placement.hardware import Hardware


def reserved_cpus(machine: Machine, options: Options) -> CpuSet:
    """The reserved CPUs: those of the options or, by default, all usable threads of the first core.

    The first core is that of the lowest usable CPU; where reserving it leaves no CPU, only its first thread is reserved.
    Raises InputError for reserved CPUs that this system cannot use.
    """
    hardware = Hardware.of(machine)
    usable = hardware.usable(machine)
    if options.reserved_cpus is not None:
        strangers = options.reserved_cpus - usable
        if strangers:
            raise InputError.of(
                (
                    Problem(
                        field="reserved_cpus",
                        message=f"CPUs {strangers} cannot be reserved: this system can use {usable or 'no CPU'}",
                        hint="reserve online CPUs of this machine",
                    ),
                )
            )
        return options.reserved_cpus
    if not usable:
        return CpuSet()
    first = 1 << usable.lowest
    core = next(CpuSet(group.mask) for group in hardware.topology.cores if group.mask & first) & usable
    return core if usable - core else CpuSet(first)
