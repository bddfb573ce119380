"""docs/compatibility.md says what the code does: it is written from the code."""

from itertools import groupby

from tests import manifest_outcomes

from quietcore import manifest, pod
from quietcore.machines import parse_spec
from quietcore.manifest import annotations, objects
from quietcore.manifest.compatibility import source
from quietcore.model import Ledger, Options, Plan
from quietcore.placement import admit
from quietcore.pod import labels

HEAD = """\
# KubeVirt's fields

What becomes of every field of a KubeVirt manifest here. **supported**: it means what it means to KubeVirt. **refused**: the manifest
is refused and the message names the field; fields marked "unless off" are refused only when they ask for something (`false` and
empty values are fine). **ignored**: it changes nothing here, for the reason given; a warning says so unless the field is written by
the cluster itself. The last column gives the reason, or how a host keeps the meaning of a supported field. Nothing is dropped
silently, and a name that KubeVirt does not know is refused with the nearest known one.

A row stands for everything below it when it is refused or ignored. `[]` marks the items of a list.

Source of the fields: {source}. This page is written by `tests/golden/manifest/test_golden_compatibility.py`; do not edit it.
"""

POD = """\
## Annotations of the launcher pod

What a node has to do for the pod that `quietcore pod` prints, beyond what its resources say; a single host does the same to the VM's
own cgroups. Where the pod is not KubeVirt's own is told on standard error, VM by VM.

| annotation | meaning |
| --- | --- |
{rows}
"""
REAL = """\
## Real manifests

What `quietcore run` makes of the manifests in `tests/data/manifests`, with an empty disk under every image name. The tests that do it
are `tests/libvirt/test_manifests.py` and `tests/lab/test_manifests.py`; inputs of several files are given together.

| manifests | what becomes of them | why | tried in |
| --- | --- | --- | --- |
{rows}

Some of the refused ones only lack what their source leaves out, or have a disk of a cluster's storage. With that filled in:

| manifest | what becomes of it | changed | tried in |
| --- | --- | --- | --- |
{completed}
"""
NEWLINE = "\n"


def real_row(name):
    files, outcome = "<br>".join(f"`{file}`" for file in manifest_outcomes.INPUTS[name]), manifest_outcomes.OUTCOMES.get(name)
    found = manifest_outcomes.examined(name)
    if found.problems:
        result, place = "refused", "before libvirt is asked"
        why = "<br>".join(f"`{problem.field or 'file'}`: `{problem.message}`{hinted(problem)}" for problem in found.problems)
    elif outcome is None:
        result, why, place = "valid, holds no VM", "", "before libvirt is asked"
    else:
        result, why, place = outcome.result, outcome.why, outcome.tried_in
    return f"| {files} | {result} | {why.replace('|', BAR)} | {place} |"


def completed_row(item):
    name, outcome = item
    return f"| `{name}` | {outcome.result} | {outcome.why} | {outcome.tried_in} |"


BAR = "\\|"


def hinted(problem):
    return f" ({problem.hint})" if problem.hint else ""


def cell(row):
    words = row.status + (" unless off" if row.unless_off else "")
    return f"| `{row.path}` | {words} | {row.reason} |"


def page():
    parts = [HEAD.format(source=source())]
    for root, rows in groupby(manifest.compatibility(), key=lambda row: row.root):
        cluster = root.replace("VirtualMachine", "VirtualMachineCluster")
        also = f" and {cluster}" if cluster in objects.KINDS else ""
        parts.append(f"\n## {root}{also}\n\n| field | here | why, or how |\n| --- | --- | --- |\n" + "\n".join(map(cell, rows)) + "\n")
    kinds = "\n".join(f"| {kind} | {reason} |" for kind, reason in sorted(objects.OTHER_KINDS.items()))
    parts.append(f"\n## Kinds that are refused\n\nEvery other kind is refused as well.\n\n| kind | instead |\n| --- | --- |\n{kinds}\n")
    ours = "\n".join(f"| `{name}` | {meaning} |" for name, meaning in annotations.MEANINGS.items())
    parts.append(f"\n## Annotations\n\nOf a VMI's metadata; of a VM's template.\n\n| annotation | meaning |\n| --- | --- |\n{ours}\n")
    node = "\n".join(f"| `{name}` | {meaning} |" for name, meaning in labels.MEANINGS.items())
    parts.append(f"\n{POD.format(rows=node)}")
    rows, completed = map(real_row, manifest_outcomes.INPUTS), map(completed_row, manifest_outcomes.COMPLETED.items())
    parts.append(f"\n{REAL.format(rows=NEWLINE.join(rows), completed=NEWLINE.join(completed))}")
    return "".join(parts)


def test_the_page_on_compatibility_is_up_to_date(golden):
    golden("../../docs/compatibility.md", page())


def test_every_field_that_is_not_supported_says_why():
    assert [row.path for row in manifest.compatibility() if row.status != "supported" and not row.reason] == []


def test_the_manifest_with_pages_of_1gi_is_placed_on_a_machine_that_has_them():
    (document,) = manifest_outcomes.examined("kubevirt-ug-realtime-corrected").loaded.documents
    launcher = pod.launcher_pod(document.spec, strategy="housekeeping", uid="u")
    machine = parse_spec("sockets=1,cores=4,threads=2,mem=16Gi,hugepages-1Gi=2")
    assert isinstance(admit(launcher, machine, Ledger(), Options()), Plan)
