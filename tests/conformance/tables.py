"""Upstream's own test tables, stored as data beside the tests."""

import json
from pathlib import Path
from typing import Any

_TABLES = Path(__file__).parents[1] / "data" / "vectors"


def table(name: str) -> Any:
    """One file of tests/data/vectors, without its ending."""
    return json.loads((_TABLES / f"{name}.json").read_text(encoding="utf-8"))


def label(row: dict[str, Any]) -> str:
    """A row's own name, for the test id."""
    return str(row.get("name") or row.get("description") or "row")
