"""Feed the manifest reader with coverage-guided nonsense until stopped: python scripts/fuzz_manifest.py [-max_total_time=600] [CORPUS].

Needs `pip install atheris` beside the project's own packages. Anything but a result or an InputError stops the run and leaves the
input in a file; so does an input that takes more than a second of processor time, or grows the process by more than 200 MB. The
hypothesis tests run the same idea for a moment.
"""

import json
import resource
import sys
import time
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

with atheris.instrument_imports(include=["quietcore", "yaml"]):
    from tests.manifest_fuzz import MANIFESTS, Mutation, mutated

    from quietcore import manifest
    from quietcore.errors import InputError
    from quietcore.manifest import fields

SECONDS = 1.0
MEGABYTES = 200
NAMES = sorted({name for known in fields.types().values() for name in known})


def value(data: atheris.FuzzedDataProvider, depth: int = 0) -> object:
    """Any JSON value."""
    kind = data.ConsumeIntInRange(0, 6 if depth < 3 else 4)
    if kind == 5:
        return [value(data, depth + 1) for _ in range(data.ConsumeIntInRange(0, 3))]
    if kind == 6:
        return {data.PickValueInList(NAMES): value(data, depth + 1) for _ in range(data.ConsumeIntInRange(0, 3))}
    plain = (None, data.ConsumeBool(), data.ConsumeInt(9), data.ConsumeRegularFloat(), data.ConsumeUnicodeNoSurrogates(12))
    return plain[kind]


def text(data: atheris.FuzzedDataProvider) -> str:
    """Half of the time any text, half of the time a good manifest with changes."""
    if data.ConsumeBool():
        return str(data.ConsumeUnicodeNoSurrogates(data.remaining_bytes()))
    good = data.PickValueInList(MANIFESTS)
    count = data.ConsumeIntInRange(1, 3)
    changes = [Mutation(data.ConsumeInt(4) % (1 << 30), data.PickValueInList(NAMES), value(data)) for _ in range(count)]
    return json.dumps(mutated(good, changes))


def one(raw: bytes) -> None:
    """One input."""
    written = text(atheris.FuzzedDataProvider(raw))
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        manifest.load([manifest.SourceText(file="f", text=written)])
    except InputError as error:
        if not error.problems:
            raise RuntimeError("a refusal without a reason") from error
    if time.process_time() - start > SECONDS:
        raise RuntimeError(f"took longer than {SECONDS} s")
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before > MEGABYTES * 1000:
        raise RuntimeError(f"took more than {MEGABYTES} MB")


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
