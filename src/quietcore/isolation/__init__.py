"""Keeping everything that is not a vCPU off a VM's CPUs: pure functions from a plan and what the kernel shows to steps and findings."""

from typing import TYPE_CHECKING

from quietcore.lazy import names_of

if TYPE_CHECKING:
    from quietcore.isolation.adoption import cpu_groups_back, files_back, partition_back, policies_back, threads_back, touched
    from quietcore.isolation.budgets import budget_files, budget_steps, no_budget
    from quietcore.isolation.foreign import ForeignTask, IrqFact
    from quietcore.isolation.irqs import irq_steps, kernel_task_steps
    from quietcore.isolation.locking import MemoryLock, unlocked
    from quietcore.isolation.moving import awaiting_steps, move_order, moved_vcpus, moving_steps, narrowed
    from quietcore.isolation.realtime import inversions, is_below, polling_cpus, raising_steps, realtime_cpus
    from quietcore.isolation.steps import Isolation, isolate, mechanism_of, refreshed, released, waiting
    from quietcore.isolation.targets import HOUSEKEEPING, partition_cpus
    from quietcore.isolation.throttling import FAIR_SERVERS, THROTTLE, fair_server_file, taken, throttled, unthrottling_steps
    from quietcore.isolation.verifying import by_severity, offline, verify
else:
    __getattr__ = names_of(
        __name__,
        adoption="cpu_groups_back files_back partition_back policies_back threads_back touched",
        budgets="budget_files budget_steps no_budget",
        foreign="ForeignTask IrqFact",
        irqs="irq_steps kernel_task_steps",
        locking="MemoryLock unlocked",
        moving="awaiting_steps move_order moved_vcpus moving_steps narrowed",
        realtime="inversions is_below polling_cpus raising_steps realtime_cpus",
        steps="Isolation isolate mechanism_of refreshed released waiting",
        targets="HOUSEKEEPING partition_cpus",
        throttling="FAIR_SERVERS THROTTLE fair_server_file taken throttled unthrottling_steps",
        verifying="by_severity offline verify",
    )

__all__ = [
    "FAIR_SERVERS",
    "HOUSEKEEPING",
    "THROTTLE",
    "ForeignTask",
    "IrqFact",
    "Isolation",
    "MemoryLock",
    "awaiting_steps",
    "budget_files",
    "budget_steps",
    "by_severity",
    "cpu_groups_back",
    "fair_server_file",
    "files_back",
    "inversions",
    "irq_steps",
    "is_below",
    "isolate",
    "kernel_task_steps",
    "mechanism_of",
    "move_order",
    "moved_vcpus",
    "moving_steps",
    "narrowed",
    "no_budget",
    "offline",
    "partition_back",
    "partition_cpus",
    "policies_back",
    "polling_cpus",
    "raising_steps",
    "realtime_cpus",
    "refreshed",
    "released",
    "taken",
    "threads_back",
    "throttled",
    "touched",
    "unlocked",
    "unthrottling_steps",
    "verify",
    "waiting",
]
