"""Machines as values: from a short spec, a YAML file, an lstopo XML export or a recorded sysfs tree. Pure."""

from quietcore.machines.recording import dump_recording, load_recording
from quietcore.machines.sysfs import from_tree, propose_allowed

__all__ = ["dump_recording", "from_tree", "load_recording", "propose_allowed"]
