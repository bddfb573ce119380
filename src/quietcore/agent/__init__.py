"""The long-running agent of one host: it observes, repairs and starts again; `Agent` is its loop."""

from typing import TYPE_CHECKING

from quietcore.lazy import names_of

if TYPE_CHECKING:
    from quietcore.agent.agent import Agent, Ears
    from quietcore.agent.events import EventLog, Happening
else:
    __getattr__ = names_of(
        __name__,
        agent="Agent Ears",
        events="EventLog Happening",
    )

__all__ = ["Agent", "Ears", "EventLog", "Happening"]
