"""The kubelet's search for NUMA nodes as it walks it, subset by subset: the oracle for our polynomial search.

`walk` also models what Go's `append` does to the subsets that the kubelet keeps: a slice with spare capacity shares its memory
with the slices that are later made from the same prefix (kubernetes issue 141237).
"""

from itertools import combinations

from quietcore.placement.node_choice import Choice, score


def exhaustive_choice(free, count, group, smallest, *, overwritten=False):
    """The choice of the walk, skipping the subsets on which the kubelet hangs."""
    for size in range(smallest, min(count // group, len(free)) + 1):
        found = _best_of_size(free, count, group, size, subsets=walk if overwritten else fresh)
        if found is not None:
            return found
    return None


def fresh(members, size):
    """Subsets that nobody overwrites."""
    return (list(subset) for subset in combinations(members, size))


def walk(members, size):
    """Subsets in memory that is shared as Go's slices share it: what was yielded changes while the walk goes on."""

    def deeper(start, accumulated):
        if len(accumulated) == size:
            yield accumulated
            return
        for at in range(start, len(members) - (size - len(accumulated)) + 1):
            yield from deeper(at + 1, accumulated.append(members[at]))

    return deeper(0, _Slice([], 0))


class _Slice:
    """A Go slice: a view of the first `length` places of memory that others may share."""

    def __init__(self, memory, length):
        self.memory, self.length = memory, length

    def append(self, value):
        memory = self.memory
        if self.length == len(memory):
            memory = memory + [None] * max(len(memory), 1)
        memory[self.length] = value
        return _Slice(memory, self.length + 1)

    def __len__(self):
        return self.length

    def __iter__(self):
        return iter(self.memory[: self.length])


def _best_of_size(free, count, group, size, *, subsets):
    share = count // size // group * group
    best, best_score, best_remainder = None, None, ()
    for nodes in subsets(range(len(free)), size):
        if best_score == 0:
            break
        at_work = tuple(nodes)
        if group * sum(free[at] // group for at in at_work) < count or any(free[at] < share for at in at_work):
            continue
        found, remainder = _best_remainder(free, at_work, share, count - share * size, group=group, subsets=subsets)
        if best_score is None or found < best_score:
            best, best_score, best_remainder = nodes, found, remainder
    return None if best is None else Choice(nodes=tuple(best), share=share, remainder=tuple(best_remainder))


def _best_remainder(free, nodes, share, rest, *, group, subsets):
    after = [cpus - share if at in nodes else cpus for at, cpus in enumerate(free)]
    if not rest:
        return score(after), ()
    able = [at for at in nodes if after[at] >= group]
    best_score, best = None, ()
    for count in range(len(able), 0, -1):
        for subset in subsets(able, count):
            if group * sum(after[at] // group for at in subset) < rest:
                continue
            found = score(_dealt(after, tuple(subset), rest, group))
            if best_score is None or found < best_score:
                best_score, best = found, subset
    return best_score, best


def _dealt(after, subset, rest, group):
    left = list(after)
    while rest:
        for at in subset:
            if rest and left[at] >= group:
                left[at] -= group
                rest -= group
    return left
