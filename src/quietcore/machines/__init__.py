"""Machines as values: from a short spec, a YAML file, an lstopo XML export or a recorded sysfs tree. Pure."""

from typing import TYPE_CHECKING

from quietcore.lazy import names_of

if TYPE_CHECKING:
    from quietcore.machines.loading import load
    from quietcore.machines.lstopo import load_lstopo
    from quietcore.machines.recording import dump_recording, load_recording
    from quietcore.machines.short import is_spec, parse_spec
    from quietcore.machines.sysfs import from_tree, propose_allowed
    from quietcore.machines.yamlfile import dump_yaml, load_yaml
else:
    __getattr__ = names_of(
        __name__,
        loading="load",
        lstopo="load_lstopo",
        recording="dump_recording load_recording",
        short="is_spec parse_spec",
        sysfs="from_tree propose_allowed",
        yamlfile="dump_yaml load_yaml",
    )

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
