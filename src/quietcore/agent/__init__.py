"""The long-running agent of one host: it observes, repairs and starts again; `Agent` is its loop."""

from quietcore.agent.agent import Agent, Ears
from quietcore.agent.events import EventLog, Happening

__all__ = ["Agent", "Ears", "EventLog", "Happening"]
