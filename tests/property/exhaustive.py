"""The kubelet's search for NUMA nodes as it walks it, subset by subset: the oracle for our polynomial search."""

from itertools import combinations

from quietcore.placement.node_choice import Choice, score


def exhaustive_choice(free, count, group, smallest):
    """The choice of the walk, without the kubelet's overwritten sets and skipping the subsets on which it hangs."""
    for size in range(smallest, min(count // group, len(free)) + 1):
        found = _best_of_size(free, count, group, size)
        if found is not None:
            return found
    return None


def _best_of_size(free, count, group, size):
    share = count // size // group * group
    best, best_score = None, None
    for nodes in combinations(range(len(free)), size):
        if sum(free[at] for at in nodes) < count or group * sum(free[at] // group for at in nodes) < count:
            continue
        if any(free[at] < share for at in nodes):
            continue
        for found, remainder in _remainders(free, nodes, share, count - share * size, group):
            if best_score is None or found < best_score:
                best, best_score = Choice(nodes=nodes, share=share, remainder=remainder), found
    return best


def _remainders(free, nodes, share, rest, group):
    after = [cpus - share if at in nodes else cpus for at, cpus in enumerate(free)]
    if not rest:
        yield score(after), ()
        return
    able = [at for at in nodes if after[at] >= group]
    for count in range(len(able), 0, -1):
        for subset in combinations(able, count):
            if group * sum(after[at] // group for at in subset) >= rest:
                yield score(_dealt(after, subset, rest, group)), subset


def _dealt(after, subset, rest, group):
    left = list(after)
    while rest:
        for at in subset:
            if rest and left[at] >= group:
                left[at] -= group
                rest -= group
    return left
