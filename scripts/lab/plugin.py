"""The pytest level: outside, a test marked `lab` is a report that arrives from inside a lab; inside, the same test really runs.

Both sides collect the same files and give the same names, one per row of the table ("test_x[2s4n16c-6.12]"). Outside, the first test of
a row boots its lab, which runs all selected tests of that row and writes their reports, serialized by pytest itself, to the shared folder.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from lab.errors import LabUnavailableError
from lab.machines import DEFAULT_MACHINE, Row, rows
from lab.runner import Job, Lab, Outcome

INSIDE: Final = os.environ.get("QUIETCORE_LAB", "")
SELECTION, REPORTS = "selection", "reports"
SHARED: Final = Path("/out")
ROW_LIMIT_S, TEST_LIMIT_S = 300, 45
"""A row may take this long, and this much longer for each of its tests; a single test inside is stopped after four times its share."""
OUTPUT_TAIL: Final = 6000


def rows_of(marked: pytest.Function) -> tuple[Row, ...]:
    """The rows that a test needs; none for a test that is not marked `lab`."""
    mark = marked.get_closest_marker("lab")
    if mark is None:
        return ()
    return rows(mark.args or (DEFAULT_MACHINE,), kernel_differs=marked.get_closest_marker("kernel_differs") is not None)


def row_name(item: pytest.Item) -> str:
    """The row that this test was made for, or ""."""
    callspec = getattr(item, "callspec", None)
    name = "" if callspec is None else callspec.params.get("row", "")
    return str(name)


class Inside:
    """The inner side: runs the tests of this lab and writes each report to the shared folder as one line."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Keep what the outer side selected, or, run by hand, every test of this row."""
        listed = SHARED / SELECTION
        wanted = set(listed.read_text().splitlines()) if listed.exists() else None
        keep = [item for item in items if (row_name(item) == INSIDE if wanted is None else item.nodeid in wanted)]
        config.hook.pytest_deselected(items=[item for item in items if item not in keep])
        items[:] = keep

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Hand the report out."""
        if not (SHARED / SELECTION).exists():
            return
        plain = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        with (SHARED / REPORTS).open("a") as file:
            file.write(json.dumps(plain) + "\n")


class RowRun:
    """The outer side of one row: its lab, and the reports that have come out of it. Close it to end the lab."""

    def __init__(self, config: pytest.Config, row: Row, selected: list[str]) -> None:
        self.row = row
        self.arrived = 0
        self.outcome: Outcome | None = None
        self._config = config
        self._waiting: dict[str, list[pytest.TestReport]] = {}
        self._offset = 0
        self._stack = ExitStack()
        self._shared = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="quietcore-lab-")))
        (self._shared / SELECTION).write_text("\n".join(selected))
        self._output = self._stack.enter_context((self._shared / "output").open("wb"))
        files = sorted({name.partition("::")[0] for name in selected})
        job = Job(
            row=row,
            command=shlex.join([*self._pytest(), *files]),
            folder=config.rootpath,
            environment={"PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "TERM": "dumb"},
            shared=self._shared,
            limit_s=ROW_LIMIT_S + TEST_LIMIT_S * len(selected),
        )
        try:
            self._lab = self._stack.enter_context(Lab(job, output=self._output))
        except LabUnavailableError:
            self._stack.close()
            raise

    def close(self) -> None:
        """End the lab, whatever it is doing."""
        self._stack.close()

    def reports(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        """The reports of one test as they arrive; a failure with the lab's console when it ends without them."""
        while True:
            outcome = self._lab.advance()
            self._read()
            for report in self._waiting.pop(item.nodeid, []):
                yield report
                if report.when == "teardown":
                    self.arrived += 1
                    return
            if outcome is not None:
                yield failure(item, self._explain(outcome))
                return
            time.sleep(0.1)

    def finish(self) -> None:
        """Wait for the end of the lab after its last test."""
        while self.outcome is None:
            self.outcome = self._lab.advance()
            time.sleep(0.05)

    def summary(self) -> str:
        """One line for the end of the run."""
        if self.outcome is None:
            return f"lab {self.row}: ended early, {self.arrived} tests reported"
        out = self.outcome
        shell = "never reached its shell" if out.shell_s is None else f"shell after {out.shell_s:.0f} s"
        died = f", {out.boots - 1} boot(s) died before the shell and were repeated" if out.boots > 1 else ""
        return f"lab {self.row} ({out.release}, {out.emulator}): {shell}, {self.arrived} tests, {out.total_s:.0f} s in all{died}" + (
            f"; {out.failure}" if out.failure else ""
        )

    def _pytest(self) -> list[str]:
        limits = ["-p", "pytest_timeout", f"--timeout={4 * TEST_LIMIT_S}"]
        return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(self._config.rootpath), *limits]

    def _read(self) -> None:
        path = self._shared / REPORTS
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(self._offset)
            fresh = file.read()
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            report = self._config.hook.pytest_report_from_serializable(config=self._config, data=json.loads(line))
            self._waiting.setdefault(report.nodeid, []).append(report)

    def _explain(self, outcome: Outcome) -> str:
        self._output.flush()
        printed = (self._shared / "output").read_text(errors="replace")[-OUTPUT_TAIL:]
        why = outcome.failure or f"the tests inside ended with status {outcome.status} and no report of this test"
        return f"{why}\n--- printed inside lab {self.row}\n{printed}\n--- its console\n{outcome.console}"


class Outside:
    """The outer side: boots one lab per row and hands on what comes out of it."""

    def __init__(self) -> None:
        self._run: RowRun | None = None
        self._lines: list[str] = []
        self._broken: dict[str, str] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Bring the tests of one row together; the order within a row stays."""
        order = {name: place for place, name in enumerate(dict.fromkeys(row_name(item) for item in items))}
        items.sort(key=lambda item: order[row_name(item)])

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """Replace the running of a lab test by the reports from its lab."""
        name = row_name(item)
        if not name:
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._reports(item, name):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        if nextitem is None or row_name(nextitem) != name:
            self._end(orderly=True)
        return True

    def pytest_sessionfinish(self) -> None:
        """Leave no lab behind when the run was interrupted."""
        self._end(orderly=False)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say per row how long it took and how many boots had to be repeated."""
        for line in self._lines:
            terminalreporter.write_line(line)

    def _reports(self, item: pytest.Item, name: str) -> Iterator[pytest.TestReport]:
        if name not in self._broken and self._run is None:
            selected = [one.nodeid for one in item.session.items if row_name(one) == name]
            row = next(row for row in rows_of_item(item) if str(row) == name)
            try:
                self._run = RowRun(item.config, row, selected)
            except LabUnavailableError as err:
                self._broken[name] = str(err)
                self._lines.append(f"lab {name}: NOT RUN: {err}")
        if self._run is None:
            yield missing(item, self._broken[name])
        else:
            yield from self._run.reports(item)

    def _end(self, *, orderly: bool) -> None:
        if self._run is None:
            return
        if orderly:
            self._run.finish()
        self._lines.append(self._run.summary())
        self._run.close()
        self._run = None


def rows_of_item(item: pytest.Item) -> tuple[Row, ...]:
    """The rows of the test that this item is one of."""
    return rows_of(item) if isinstance(item, pytest.Function) else ()


def failure(item: pytest.Item, text: str) -> pytest.TestReport:
    """A failed report of our own making."""
    return pytest.TestReport(item.nodeid, item.location, {}, "failed", text, "call")


def missing(item: pytest.Item, reason: str) -> pytest.TestReport:
    """What a test is without its lab: skipped aloud, or failed when every level is required."""
    if os.environ.get("QUIETCORE_TESTS_REQUIRE_ALL") == "1":
        return failure(item, reason)
    path, line, _ = item.location
    return pytest.TestReport(item.nodeid, item.location, {}, "skipped", (path, line or 0, f"Skipped: {reason}"), "setup")
