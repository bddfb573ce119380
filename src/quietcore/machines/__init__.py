"""Machines as values: from a short spec, a YAML file, an lstopo XML export or a recorded sysfs tree. Pure."""

from quietcore.machines.loading import load
from quietcore.machines.lstopo import load_lstopo
from quietcore.machines.recording import dump_recording, load_recording
from quietcore.machines.short import is_spec, parse_spec
from quietcore.machines.sysfs import from_tree, propose_allowed
from quietcore.machines.yamlfile import dump_yaml, load_yaml

__all__ = [
    "dump_recording",
    "dump_yaml",
    "from_tree",
    "is_spec",
    "load",
    "load_lstopo",
    "load_recording",
    "load_yaml",
    "parse_spec",
    "propose_allowed",
]
