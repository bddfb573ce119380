"""The pytest level: outside, a test marked `lab` is a report that arrives from inside a lab; inside, the same test really runs.

Both sides collect the same files and give the same names, one per row of the table ("test_x[2s4n16c-6.12]"). Outside, each row's lab is
booted once; it runs all selected tests of that row and writes their reports, serialized by pytest itself, to the shared folder. As many
labs run at once as this host has CPUs, because each keeps one of them busy, and as fit into its memory.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from lab.errors import LabUnavailableError
from lab.machines import DEFAULT_MACHINE, Row, rows
from lab.runner import Job, Lab, Outcome, free_memory_mib, needed_mib

INSIDE: Final = os.environ.get("QUIETCORE_LAB", "")
SELECTION, REPORTS = "selection", "reports"
SHARED: Final = Path("/out")
TEST_LIMIT_S, SILENCE_LIMIT_S = 900, 1200
"""A test inside is stopped after the one, a lab from which no report came for the other is killed. Both mean that something hangs and say
nothing about speed: tests of ten seconds have taken a minute on a host whose CPUs others used as well."""
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
            environment={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "TERM": "dumb"},
            shared=self._shared,
            limit_s=SILENCE_LIMIT_S,
        )
        try:
            self._lab = self._stack.enter_context(Lab(job, output=self._output))
        except LabUnavailableError:
            self._stack.close()
            raise

    def close(self) -> None:
        """End the lab, whatever it is doing."""
        self._stack.close()

    def look(self) -> None:
        """Look once: at the lab, then at what it has written."""
        if self.outcome is None:
            self.outcome = self._lab.advance()
            self._read()

    def take(self, item: pytest.Item) -> tuple[list[pytest.TestReport], bool]:
        """The reports of one test that have arrived since the last call, and whether they are its last.

        Where the lab has ended without them, one failure with its console.
        """
        reports = self._waiting.pop(item.nodeid, [])
        if any(report.when == "teardown" for report in reports):
            self.arrived += 1
            return reports, True
        if self.outcome is not None:
            return [*reports, failure(item, self._explain(self.outcome))], True
        return reports, False

    def summary(self) -> str:
        """One line for the end of the run."""
        if self.outcome is None:
            return f"lab {self.row}: ended early, {self.arrived} tests reported"
        out = self.outcome
        shell = "never reached its shell" if out.shell_s is None else f"shell after {out.shell_s:.0f} s"
        died = f", {out.boots - 1} boot(s) died before the shell and were repeated" if out.boots > 1 else ""
        return f"lab {self.row} ({out.release}): {shell}, {self.arrived} tests, {out.total_s:.0f} s in all{died}" + (
            f"; {out.failure}" if out.failure else ""
        )

    def _pytest(self) -> list[str]:
        limits = ["-p", "pytest_timeout", f"--timeout={TEST_LIMIT_S}"]
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
        if whole:
            self._lab.heard()
        for line in whole.splitlines():
            report = self._config.hook.pytest_report_from_serializable(config=self._config, data=json.loads(line))
            self._waiting.setdefault(report.nodeid, []).append(report)

    def _explain(self, outcome: Outcome) -> str:
        self._output.flush()
        printed = (self._shared / "output").read_text(errors="replace")[-OUTPUT_TAIL:]
        why = outcome.failure or f"the tests inside ended with status {outcome.status} and no report of this test"
        return f"{why}\n--- printed inside lab {self.row}\n{printed}\n--- its console\n{outcome.console}"


class Outside:
    """The outer side: boots a lab per row, several at once, and hands on what comes out of them in the order of the tests."""

    def __init__(self) -> None:
        self._ahead: list[tuple[Row, list[str]]] = []
        self._running: dict[str, RowRun] = {}
        self._lines: list[str] = []
        self._broken: dict[str, str] = {}
        self._config: pytest.Config | None = None
        self._memory_mib = 0

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Bring the tests of one row together; the order within a row stays."""
        order = {name: place for place, name in enumerate(dict.fromkeys(row_name(item) for item in items))}
        items.sort(key=lambda item: order[row_name(item)])

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note what is to be booted."""
        self._config = session.config
        self._ahead = selected_rows(session.items)
        self._memory_mib = free_memory_mib()

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
            while name in self._running and self._running[name].outcome is None:
                self._look()
            self._end(name)
        return True

    def pytest_sessionfinish(self) -> None:
        """Leave no lab behind when the run was interrupted."""
        for name in list(self._running):
            self._end(name)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say per row how long it took and how many boots had to be repeated."""
        for line in self._lines:
            terminalreporter.write_line(line)

    def _reports(self, item: pytest.Item, name: str) -> Iterator[pytest.TestReport]:
        while name not in self._broken:
            if name in self._running:
                reports, done = self._running[name].take(item)
                yield from reports
                if done:
                    return
            self._look()
        yield missing(item, self._broken[name])

    def _look(self) -> None:
        """Look at every lab once, and start the next where there is room for it."""
        busy = [run for run in self._running.values() if run.outcome is None]
        while self._ahead and has_room([run.row for run in busy], self._ahead[0][0], self._memory_mib):
            row, selected = self._ahead.pop(0)
            assert self._config is not None, "set when the collection was finished"
            try:
                busy.append(RowRun(self._config, row, selected))
            except LabUnavailableError as err:
                self._broken[str(row)] = str(err)
                self._lines.append(f"lab {row}: NOT RUN: {err}")
            else:
                self._running[str(row)] = busy[-1]
        for run in busy:
            run.look()
        time.sleep(0.1)

    def _end(self, name: str) -> None:
        if name in self._running:
            run = self._running.pop(name)
            self._lines.append(run.summary())
            run.close()


def selected_rows(items: Sequence[pytest.Item]) -> list[tuple[Row, list[str]]]:
    """The rows that the tests need, each with the names of its tests, in the order of the tests."""
    selected: dict[Row, list[str]] = {}
    for item in items:
        for row in rows_of_item(item):
            if str(row) == row_name(item):
                selected.setdefault(row, []).append(item.nodeid)
    return list(selected.items())


def has_room(running: Sequence[Row], row: Row, memory_mib: int) -> bool:
    """Whether a row's lab may start beside those that run, on this host's CPUs and in the memory that was free before the first of them.

    Beside nothing it may always: the lab itself says what it lacks.
    """
    if not running:
        return True
    needed = sum(needed_mib(one.machine) for one in (*running, row))
    return len(running) < len(os.sched_getaffinity(0)) and needed <= memory_mib


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
