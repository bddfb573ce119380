"""Room for VMs that do not fit: the fewest vCPUs of others that would have to leave their CPUs for free ones.

Every move is direct, to a CPU that is free now. So the moves may come in any order, and each can be taken back, because nobody takes
a CPU that was left before all have arrived. CPUs that are alike (same node, L3 group and company on their core) count as one choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from quietcore.model import CpuSet, Entry, LauncherPod, Ledger, Machine, Options, Plan, Reason, Refusal, VmName
from quietcore.placement.admission import admit
from quietcore.placement.host_books import HostBooks
from quietcore.placement.moving import move
from quietcore.placement.needs import Need
from quietcore.placement.plugging import plugged

WORK_LIMIT: Final = 2_000
"""How often the managers are asked for a placement before the search is given up."""
_STEPS_PER_QUESTION: Final = 50
"""So many looks at a possible choice cost about as much as one question."""
_ANYTHING: Final = 1 << 30
_FREE, _LEFT, _FIXED, _NOBODYS = -1, -2, -3, -4
"""Who has a CPU that no tenant has: nobody, nobody any more, a VM that stays, or nobody who could ever (reserved, say)."""
_Labels: TypeAlias = tuple[tuple[int, int], ...]
_Core: TypeAlias = tuple[tuple[object, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Newcomer:
    """A VM that is to fit: its entry, without a plan, and its pod."""

    entry: Entry
    pod: LauncherPod


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """A running VM whose vCPUs may move: its pod and its placement."""

    pod: LauncherPod
    plan: Plan

    @property
    def leavable(self) -> CpuSet:
        """The CPUs that it could leave: all but those of vCPUs that were plugged in, which stay."""
        return self.plan.exclusive - CpuSet.from_iterable(one.pcpu for one in plugged(self.pod, self.plan) if one.pcpu is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Relocation:
    """One VM's placement before and after."""

    here: Plan
    there: Plan

    @property
    def vm(self) -> VmName:
        """Whose."""
        return self.here.vm

    @property
    def cost(self) -> int:
        """Its vCPUs that move, and its CPUs for other threads that it leaves."""
        before = {vcpu.vcpu: vcpu.pcpu for vcpu in self.here.vcpus}
        moved = sum(before[vcpu.vcpu] != vcpu.pcpu for vcpu in self.there.vcpus)
        return moved + len(self.here.exclusive - self.here.dedicated - self.there.exclusive)


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """The moves after which the newcomers fit, and where they then are; without moves they fit as it is.

    No choice costs less than `at_least`; where that is less than `cost`, the search was given up before it was proved the best.
    `trials` is how often the managers were asked.
    """

    moves: tuple[Relocation, ...] = ()
    plans: tuple[Plan, ...] = ()
    at_least: int = 0
    trials: int = 0

    @property
    def cost(self) -> int:
        """How many vCPUs (and CPUs of other threads) move."""
        return sum(one.cost for one in self.moves)

    def why(self, cpu: int) -> str:
        """What it is good for that a vCPU leaves this CPU."""
        for plan in self.plans:
            vcpu = next((one.vcpu for one in plan.vcpus if one.pcpu == cpu), None)
            if cpu in plan.exclusive:
                return f"CPU {cpu} is for {plan.vm}" + ("" if vcpu is None else f", vCPU {vcpu}")
        return "it stays with the VM's other vCPUs"


def make_room(
    newcomers: Sequence[Newcomer],
    tenants: Sequence[Tenant],
    machine: Machine,
    ledger: Ledger,
    options: Options,
    *,
    limit: int = WORK_LIMIT,
) -> Room | Refusal:
    """Find the moves of `tenants` that cost the fewest vCPUs and after which all newcomers fit, one after the other.

    A refusal is that of the first newcomer that does not fit, and says besides whether all was tried or how far the search came.
    """
    # 1. Perhaps they fit as it is.
    answer = _fill(newcomers, machine, ledger, options)
    if not isinstance(answer, Refusal):
        return Room(plans=answer)

    # 2. Where everything that can move would not be enough, no search is needed.
    search = _Search.of(newcomers, tenants, HostBooks.of(machine, ledger, options, newcomers[0].pod.vm), limit)
    least = search.missing(search.free, search.leavable(0))
    if least is None or not search.wanted or search.wanted > search.free.bit_count():  # a move leaves as many free as there were
        return _refused(answer, "no-moves", "not even all vCPUs that can be moved would make room where it is needed")

    # 3. One CPU given up, two, and so on. A choice may cost more than it gives up, so the best one is kept until it is proved.
    most = min(search.leavable(0).bit_count(), search.free.bit_count())
    giving_up = max(least, 1)
    try:
        while giving_up <= most and (search.best is None or search.best.cost > giving_up):
            search.try_all(giving_up)
            giving_up += 1
    except _GivenUpError:
        if search.best is None:
            tried = f"the search was given up after {search.asked} placements: ways to move {giving_up} CPUs or more were not all tried"
            return _refused(answer, "search-limit", tried)
    if search.best is None:
        return _refused(answer, "no-moves", "no vCPUs that can be moved to free CPUs make room; everything was tried")
    return replace(search.best, at_least=min(giving_up, search.best.cost), trials=search.asked)


def _fill(newcomers: Sequence[Newcomer], machine: Machine, ledger: Ledger, options: Options) -> tuple[Plan, ...] | Refusal:
    plans: list[Plan] = []
    for one in newcomers:
        answer = admit(one.pod, machine, ledger, options)
        if isinstance(answer, Refusal):
            return answer
        plans.append(answer)
        ledger = ledger.with_entry(replace(one.entry, phase="creating", plan=answer))
    return tuple(plans)


def _refused(answer: Refusal, constraint: str, message: str) -> Refusal:
    reasons = (*answer.reasons, Reason(constraint=constraint, message=message))
    return replace(answer, message=f"{answer.message}; {message}", reasons=reasons)


class _GivenUpError(Exception):
    """The work limit was reached."""


@dataclass(slots=True, kw_only=True)
class _Search:
    """One search; sets of CPUs are masks. `owned` has the CPUs that each tenant could leave, `cores` masks with node and L3 group."""

    newcomers: Sequence[Newcomer]
    tenants: Sequence[Tenant]
    machine: Machine
    ledger: Ledger
    options: Options
    limit: int
    free: int
    owned: tuple[int, ...]
    needs: tuple[Need, ...]
    own_needs: tuple[Need, ...]
    cores: tuple[tuple[int, int, int], ...]
    asked: int = 0
    steps: int = 0
    best: Room | None = None
    places: dict[tuple[int, int], Relocation | None] = field(default_factory=dict)

    @classmethod
    def of(cls, newcomers: Sequence[Newcomer], tenants: Sequence[Tenant], books: HostBooks, limit: int) -> _Search:
        """A search that has not begun, on open books."""
        movable = [one for one in tenants if one.plan.exclusive <= books.usable]
        needs = [Need.of(one.pod, books) for one in newcomers]
        together = Need(wanted=sum(need.wanted for need in needs), regions=(books.topology.all_mask,))
        places = {cpu.cpu: (cpu.node, cpu.l3) for cpu in books.machine.cpus}
        return cls(
            newcomers=newcomers,
            tenants=movable,
            machine=books.machine,
            ledger=books.whole_ledger,
            options=books.options,
            limit=limit,
            free=books.available.mask,
            owned=tuple(one.leavable.mask for one in movable),
            needs=(*needs, together),
            own_needs=tuple(Need.of(one.pod, books) for one in movable),
            cores=tuple((core.mask, *places[CpuSet(core.mask).lowest]) for core in books.topology.cores),
        )

    @property
    def wanted(self) -> int:
        """The CPUs that all newcomers want together."""
        return self.needs[-1].wanted

    def missing(self, free: int, gettable: int) -> int | None:
        """How many CPUs must become free at least; None where it cannot be."""
        most = 0
        for need in self.needs:
            gap = need.missing(free, gettable)
            if gap is None:
                return None
            most = max(most, gap)
        return most

    def leavable(self, first: int) -> int:
        """The CPUs that the tenants from this one on could leave."""
        mask = 0
        for owned in self.owned[first:]:
            mask |= owned
        return mask

    def try_all(self, giving_up: int) -> None:
        """Try all choices in which tenants leave so many CPUs together, until one costs no more than that. Raises _GivenUpError."""
        self._choose(0, self.free, giving_up, ())

    def _choose(self, number: int, free: int, left: int, chosen: tuple[Relocation, ...]) -> None:
        cost = sum(one.cost for one in chosen) + left
        if self._has_best(cost):
            return
        if not left:
            self._try(chosen)
            return
        if number == len(self.tenants) or not self._enough(free, self.leavable(number), left):
            return
        later, owned = self.leavable(number + 1), self.owned[number]
        for count in range(min(left, owned.bit_count()), 0, -1):
            for gone in self._leaving(number, count):
                if not self._enough(free | gone, later, left - count):
                    continue
                for come in self._arriving(number, owned & ~gone, free | gone, count):
                    after = (free | gone) & ~come
                    step = self._place(number, owned & ~gone | come) if self._enough(after, later, left - count) else None
                    if step is not None:
                        self._choose(number + 1, after, left - count, (*chosen, step))
                    if self._has_best(cost):
                        return
        self._choose(number + 1, free, left, chosen)

    def _has_best(self, cost: int) -> bool:
        return self.best is not None and self.best.cost <= cost

    def _enough(self, free: int, gettable: int, left: int) -> bool:
        """Whether `left` more CPUs of the gettable ones could be enough."""
        self._step()
        gap = self.missing(free, gettable)
        return gap is not None and gap <= left

    def _step(self) -> None:
        self.steps += 1
        if self.steps > self.limit * _STEPS_PER_QUESTION:
            raise _GivenUpError

    def _ask(self) -> None:
        if self.asked >= self.limit:
            raise _GivenUpError
        self.asked += 1

    def _try(self, chosen: tuple[Relocation, ...]) -> None:
        """Ask the managers for the newcomers as it would be after these moves."""
        self._ask()
        ledger = self.ledger
        for step in chosen:
            entry = ledger.find(step.vm)
            if entry is not None:
                ledger = ledger.with_entry(replace(entry, plan=step.there))
        answer = _fill(self.newcomers, self.machine, ledger, self.options)
        if not isinstance(answer, Refusal):
            self.best = Room(moves=chosen, plans=answer)

    def _place(self, number: int, cpus: int) -> Relocation | None:
        """Ask the managers for one tenant on other CPUs, once for each set of them."""
        if (number, cpus) not in self.places:
            self._ask()
            one = self.tenants[number]
            there = move(one.pod, self.machine, self.ledger, self.options, one.plan, cpus=CpuSet(cpus), fewest=True)
            wanted = CpuSet(cpus) | (one.plan.exclusive - one.leavable)
            self.places[number, cpus] = (
                Relocation(here=one.plan, there=there) if isinstance(there, Plan) and there.exclusive == wanted else None
            )
        return self.places[number, cpus]

    def _leaving(self, number: int, count: int) -> Iterator[int]:
        """Sets of CPUs that a tenant could leave, of those that are alike only one."""
        one, owned = self.tenants[number], self.owned[number]
        threads = one.pod.guest.topology.threads
        guest = {vcpu.pcpu: 0 if threads == 1 else vcpu.vcpu // threads for vcpu in one.plan.vcpus}
        cores = []
        for core, node, l3 in self.cores:
            if core & owned:
                labels = tuple((cpu, guest.get(cpu, -1)) for cpu in CpuSet(core & owned))
                company = tuple(sorted(self._owner(cpu) for cpu in CpuSet(core)))
                cores.append(((node, l3, company, tuple(sorted(label for _, label in labels))), _parts(labels)))
        yield from _sets(sorted(cores), count, lambda _mask, _left: True)

    def _arriving(self, number: int, kept: int, free: int, count: int) -> Iterator[int]:
        """Sets of CPUs that were free from the first and that a tenant could take, those on its own nodes first."""
        need, home = self.own_needs[number], {vcpu.node for vcpu in self.tenants[number].plan.vcpus}
        offered = free & self.free
        cores = []
        for core, node, l3 in self.cores:
            if core & offered:
                company = tuple(sorted(self._later_owner(cpu, number, kept, free) for cpu in CpuSet(core)))
                cores.append(((node not in home, node, l3, company), _parts(tuple((cpu, 0) for cpu in CpuSet(core & offered)))))

        def viable(mask: int, left: int) -> bool:
            self._step()
            gap = need.missing(kept | mask, offered)
            return gap is not None and gap <= left

        yield from _sets(sorted(cores), count, viable)

    def _owner(self, cpu: int) -> int:
        """A tenant's number, or who else has a CPU at the beginning."""
        if self.free >> cpu & 1:
            return _FREE
        fixed = _FIXED if cpu in self.ledger.owned else _NOBODYS
        return next((number for number, owned in enumerate(self.owned) if owned >> cpu & 1), fixed)

    def _later_owner(self, cpu: int, number: int, kept: int, free: int) -> int:
        """The same in the middle of a choice: tenants that were looked at before this one stay as they now are."""
        if kept >> cpu & 1:
            return number
        if free >> cpu & 1:
            return _FREE if self.free >> cpu & 1 else _LEFT
        owner = self._owner(cpu)
        return _FIXED if owner == _FREE or 0 <= owner < number else owner


def _parts(labels: _Labels) -> tuple[int, ...]:
    """Masks of some of a core's CPUs (none and all too), of those with equal labels one; in the same order for cores with equal labels."""
    found: dict[tuple[int, ...], int] = {}
    for pick in range(1 << len(labels)):
        some = [labels[at] for at in range(len(labels)) if pick >> at & 1]
        found.setdefault(tuple(sorted(label for _, label in some)), sum(1 << cpu for cpu, _ in some))
    return tuple(mask for _, mask in sorted(found.items(), key=lambda one: (len(one[0]), one[0])))


def _sets(cores: Sequence[_Core], count: int, viable: Callable[[int, int], bool]) -> Iterator[int]:
    """Unions of one part per core with `count` CPUs in all; of cores with the same key, an earlier one gives no smaller part."""

    def deeper(at: int, mask: int, left: int, last: int) -> Iterator[int]:
        if not left:
            yield mask
            return
        if at == len(cores) or not viable(mask, left):
            return
        key, parts = cores[at]
        same = at + 1 < len(cores) and cores[at + 1][0] == key
        for number in range(min(last, len(parts) - 1), -1, -1):
            if parts[number].bit_count() <= left:
                yield from deeper(at + 1, mask | parts[number], left - parts[number].bit_count(), number if same else _ANYTHING)

    yield from deeper(0, 0, count, _ANYTHING)
