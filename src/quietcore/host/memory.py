"""On which NUMA nodes a process's memory lies, and how much of each kind of page a node has free."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Final

from quietcore.host.fs import HostFs

_NODE: Final = "/sys/devices/system/node/node"
_ON_NODE: Final = re.compile(r"N(\d+)=(\d+)")
_OWN_FILES: Final = ("file=/memfd:", "file=/dev/")
"""Files whose pages are the guest's: memory backends. Programs and libraries are everybody's, and stay."""


def pages_by_node(fs: HostFs, pid: int) -> Mapping[tuple[int, int], int]:
    """(node, bytes of a page) -> a process's own pages there, guest memory among them, from /proc/PID/numa_maps.

    Raises OSError when the process is gone or the kernel has no NUMA.
    """
    found: Counter[tuple[int, int]] = Counter()
    for line in fs.read(f"/proc/{pid}/numa_maps").splitlines():
        words = line.split()
        size = next((int(word.partition("=")[2]) << 10 for word in words if word.startswith("kernelpagesize_kB=")), 0)
        file = next((word for word in words if word.startswith("file=")), "")
        if size and (not file or "huge" in words or file.startswith(_OWN_FILES)):
            for word in words:
                match = _ON_NODE.fullmatch(word)
                if match:
                    found[int(match[1]), size] += int(match[2])
    return found


def free_bytes(fs: HostFs, node: int, page_bytes: int) -> int:
    """What a node has to give in pages of this size; of ordinary memory also what the page cache could give up."""
    huge = fs.read_or(f"{_NODE}{node}/hugepages/hugepages-{page_bytes >> 10}kB/free_hugepages", "")
    if huge.strip():
        return int(huge) * page_bytes
    fields = {}
    for line in fs.read_or(f"{_NODE}{node}/meminfo", "").splitlines():
        words = line.split()
        if len(words) > 3 and words[3].isdecimal():
            fields[words[2].rstrip(":")] = int(words[3]) << 10
    return fields.get("MemFree", 0) + fields.get("Inactive(file)", 0)
