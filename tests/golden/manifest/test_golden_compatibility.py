"""docs/compatibility.md says what the code does: it is written from the code."""

from itertools import groupby

from quietcore import manifest
from quietcore.manifest import annotations, objects
from quietcore.manifest.compatibility import source

HEAD = """\
# KubeVirt's fields

What becomes of every field of a KubeVirt manifest here. **supported**: it means what it means to KubeVirt. **refused**: the manifest
is refused and the message names the field; fields marked "unless off" are refused only when they ask for something (`false` and
empty values are fine). **ignored**: it changes nothing here, for the reason given; a warning says so unless the field is written by
the cluster itself. Nothing is dropped silently, and a name that KubeVirt does not know is refused with the nearest known one.

A row stands for everything below it when it is refused or ignored. `[]` marks the items of a list.

Source of the fields: {source}. This page is written by `tests/golden/manifest/test_golden_compatibility.py`; do not edit it.
"""


def cell(row):
    words = row.status + (" unless off" if row.unless_off else "")
    return f"| `{row.path}` | {words} | {row.reason} |"


def page():
    parts = [HEAD.format(source=source())]
    for root, rows in groupby(manifest.compatibility(), key=lambda row: row.root):
        cluster = root.replace("VirtualMachine", "VirtualMachineCluster")
        also = f" and {cluster}" if cluster in objects.KINDS else ""
        parts.append(f"\n## {root}{also}\n\n| field | here | why |\n| --- | --- | --- |\n" + "\n".join(map(cell, rows)) + "\n")
    kinds = "\n".join(f"| {kind} | {reason} |" for kind, reason in sorted(objects.OTHER_KINDS.items()))
    parts.append(f"\n## Kinds that are refused\n\nEvery other kind is refused as well.\n\n| kind | instead |\n| --- | --- |\n{kinds}\n")
    ours = "\n".join(f"| `{name}` | {meaning} |" for name, meaning in annotations.MEANINGS.items())
    parts.append(f"\n## Annotations\n\nOf a VMI's metadata; of a VM's template.\n\n| annotation | meaning |\n| --- | --- |\n{ours}\n")
    return "".join(parts)


def test_the_page_on_compatibility_is_up_to_date(golden):
    golden("../../docs/compatibility.md", page())
