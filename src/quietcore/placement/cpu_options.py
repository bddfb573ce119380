"""The CPU Manager's policy options as a kubelet reads them: a map of names to boolean texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Literal

from quietcore.errors import InputError, Problem
from quietcore.model import CpuPolicyOptions

Level = Literal["alpha", "beta", "stable"]
LEVELS: Final[Mapping[str, Level]] = {
    "full-pcpus-only": "stable",
    "strict-cpu-reservation": "stable",
    "prefer-align-cpus-by-uncorecache": "stable",
    "distribute-cpus-across-numa": "beta",
    "align-by-socket": "alpha",
    "distribute-cpus-across-cores": "alpha",
}
"""Each option's level in Kubernetes 1.36. Alpha and beta options need CPUManagerPolicyAlphaOptions or ...BetaOptions."""
TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})
FALSE: Final = frozenset({"0", "f", "F", "FALSE", "false", "False"})


def parse_cpu_options(texts: Mapping[str, str], *, alpha: bool = False, beta: bool = True) -> CpuPolicyOptions:
    """Read `cpuManagerPolicyOptions`; `alpha` and `beta` are the feature gates.

    Raises InputError with the kubelet's text for every option that is unknown, not enabled or no boolean.
    """
    problems = tuple(_problems(texts, alpha=alpha, beta=beta))
    if problems:
        raise InputError.of(problems)
    return CpuPolicyOptions(**{name.replace("-", "_"): value in TRUE for name, value in texts.items()})


def _problems(texts: Mapping[str, str], *, alpha: bool, beta: bool) -> Iterator[Problem]:
    enabled = {"alpha": alpha, "beta": beta, "stable": True}
    for name, text in sorted(texts.items()):
        level = LEVELS.get(name)
        if level is None:
            known = ", ".join(LEVELS)
            yield Problem(field=name, message=f'unknown CPU Manager Policy option: "{name}"', hint=f"known are {known}")
        elif not enabled[level]:
            message = f'CPU Manager Policy {level.capitalize()}-level Options not enabled, but option "{name}" provided'
            yield Problem(field=name, message=message, hint=f"enable CPUManagerPolicy{level.capitalize()}Options")
        elif text not in TRUE | FALSE:
            message = f'bad value for option "{name}": strconv.ParseBool: parsing "{text}": invalid syntax'
            yield Problem(field=name, message=message, hint="use true or false")
