"""From what a trace of a VM's CPUs says to who ran there, for how long, and who kept a vCPU waiting: pure functions."""

from typing import TYPE_CHECKING

from quietcore.lazy import names_of

if TYPE_CHECKING:
    from quietcore.proof.attribution import Attribution, Runner, Tally, Tasks, attribute
    from quietcore.proof.trace import Fork, Switch, TraceEvent, Wakeup, parse_trace
else:
    __getattr__ = names_of(
        __name__,
        attribution="Attribution Runner Tally Tasks attribute",
        trace="Fork Switch TraceEvent Wakeup parse_trace",
    )

__all__ = [
    "Attribution",
    "Fork",
    "Runner",
    "Switch",
    "Tally",
    "Tasks",
    "TraceEvent",
    "Wakeup",
    "attribute",
    "parse_trace",
]
