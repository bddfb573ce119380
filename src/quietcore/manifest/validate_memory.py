"""KubeVirt's admission rules for memory, hugepages and the machine, in the order of vmi-create-admitter.go."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Final

from quietcore.manifest.causes import Cause, Check
from quietcore.manifest.validate_cpu import ZERO
from quietcore.model.quantity import Quantity

_REQUEST: Final = "domain.resources.requests.memory"
_LIMIT: Final = "domain.resources.limits.memory"
_GUEST: Final = "domain.memory.guest"
_PAGE: Final = "domain.memory.hugepages.pageSize"
_SMALLEST: Final = Quantity.parse("1M")
_MACHINES: Final = {"amd64": ("q35*", "pc-q35*"), "arm64": ("virt*",), "s390x": ("s390-ccw-virtio*",)}


def check_memory(check: Check) -> None:
    """Every rule of this file."""
    _request(check)
    _limit(check)
    _hugepages(check)
    _guest_below_limit(check)
    _machine(check)
    if check.spec.has("domain.memory.reservedOverhead") and "ReservedOverheadMemlock" not in check.cluster.feature_gates:
        check.invalid("domain.memory.reservedOverhead", "Reserved overhead memlock feature gate is not enabled in kubevirt-config")


def check_memory_is_requested(check: Check) -> None:
    """The rule for mandatory fields, which KubeVirt applies to a VMI only, after defaulting."""
    spec = check.spec
    if (spec.quantity(_REQUEST) or ZERO).value or spec.has(_GUEST) or spec.has("domain.memory.hugepages"):
        return
    paths = "', '".join((check.at(_GUEST), check.at(_PAGE)))
    message = f"no memory requested, at least one of '{paths}' or '{check.at(_REQUEST)}' must be set"
    check.causes.append(Cause(field="", message=message, type="FieldValueRequired"))  # KubeVirt names no field


def _request(check: Check) -> None:
    amount = check.spec.quantity(_REQUEST) or ZERO
    limit = check.spec.quantity(_LIMIT) or ZERO
    if amount.value < 0:
        check.invalid(_REQUEST, f"{check.at(_REQUEST)} '{amount}': must be greater than or equal to 0.")
    if amount.value > 0 and amount < _SMALLEST:
        check.invalid(_REQUEST, f"{check.at(_REQUEST)} '{amount}': must be greater than or equal to 1M.")
    if 0 < limit.value < amount.value:
        check.invalid(_REQUEST, f"{check.at(_REQUEST)} '{amount}' is greater than {check.at(_LIMIT)} '{limit}'")


def _limit(check: Check) -> None:
    limit = check.spec.quantity(_LIMIT) or ZERO
    if limit.value < 0:
        check.invalid(_LIMIT, f"{check.at(_LIMIT)} '{limit}': must be greater than or equal to 0.")


def _hugepages(check: Check) -> None:
    if not check.spec.has("domain.memory.hugepages"):
        return
    written = check.spec.text(_PAGE)
    try:
        page = Quantity.parse(written)
    except ValueError as error:
        check.invalid(_PAGE, f"{check.at(_PAGE)} '{written}': {error}")
        return
    if page.value <= 0:
        check.ours(_PAGE, f"a page of {written or '0'} bytes is not positive", "x86 has pages of 2Mi and 1Gi")
        return
    request = check.spec.quantity(_REQUEST) or ZERO
    guest = check.spec.quantity(_GUEST)
    amount = request
    if not request.amount:
        amount = guest if guest is not None else check.spec.quantity(_LIMIT) or ZERO
    if amount.value and amount.value < page.value:
        message = f"{check.at(_REQUEST)} '{request}' must be equal to or larger than page size {check.at(_PAGE)} '{written}'"
        check.invalid(_REQUEST, message)
    elif amount.value % page.value:
        check.invalid(_REQUEST, f"{check.at(_REQUEST)} '{request}' is not a multiple of the page size {check.at(_PAGE)} '{written}'")


def _guest_below_limit(check: Check) -> None:
    guest, limit = check.spec.quantity(_GUEST), check.spec.quantity(_LIMIT) or ZERO
    if check.cluster.live_update or guest is None:
        return
    if limit.value != 0 and limit.value < guest.value:
        message = f"{check.at(_GUEST)} '{guest}' must be equal to or less than the memory limit {check.at(_LIMIT)} '{limit}'"
        check.invalid(_GUEST, message)


def _machine(check: Check) -> None:
    kind, path = check.spec.text("domain.machine.type"), "domain.machine.type"
    allowed = _MACHINES.get(check.spec.text("architecture") or check.cluster.architecture, ())
    if kind and not any(fnmatchcase(kind, pattern) for pattern in allowed):
        check.invalid(path, f"{check.at(path)} is not supported: {kind} (allowed values: [{' '.join(allowed)}])")
