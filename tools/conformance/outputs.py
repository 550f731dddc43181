"""Where results go: the terminal, files of the forms asked for, a recording; and the exit code."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Callable, Optional

from minicoap.errors import UsageError
from tools.conformance.frames import Address, Frame
from tools.conformance.model import LEVELS
from tools.conformance.recording import LiveCapture, Recorder
from tools.conformance.reports.junit import junit
from tools.conformance.reports.model import Finding, Report
from tools.conformance.reports.page import page
from tools.conformance.reports.terminal import Terminal

DONE, FAILED = 0, 1


def add_arguments(parser: argparse.ArgumentParser, *, records: bool) -> None:
    """Add the options that say where results go; those of a recording where packets are sent and received."""
    parser.add_argument("--fail-on", choices=LEVELS, default="must", help="the least level that counts (default must)")
    parser.add_argument("--junit", metavar="FILE", help="write JUnit XML")
    parser.add_argument("--html", metavar="FILE", help="write a page: verdicts, diagrams, packets byte by byte")
    parser.add_argument("--json", metavar="FILE", help="write all of it as JSON")
    if records:
        parser.add_argument("--record", metavar="FILE", help="write what is sent and received, as pcapng")
        parser.add_argument(
            "--capture", metavar="IFACE", help="record what passes an interface (needs the right to raw sockets)"
        )


class Output:
    """Takes findings as they come, and writes all of them at the end. Used as a context around the tests.

    `record` is what packets are to be told to, None if nobody asked for it.
    """

    def __init__(self, options: argparse.Namespace, subject: str, address: Optional[Address] = None) -> None:
        self.terminal = Terminal()
        self.record: Optional[Callable[[Frame], None]] = None
        self._options = options
        self._subject = subject
        self._address = address
        self._began_at = time.time()
        self._findings: list[Finding] = []
        self._stack = ExitStack()

    def __enter__(self) -> Output:
        """Begin to record. Raises UsageError or OSError if that cannot be."""
        file = getattr(self._options, "record", None)
        name = getattr(self._options, "capture", None)
        if name is not None:
            if file is None or self._address is None:
                raise UsageError("--capture needs --record FILE, to write to")
            self.record = self._stack.enter_context(LiveCapture(file, name, self._address))
        elif file is not None:
            self.record = self._stack.enter_context(Recorder(file))
        return self

    def __exit__(self, kind: Optional[type[BaseException]], error: object, traceback: Optional[TracebackType]) -> None:
        self._stack.close()

    def take(self, finding: Finding, *, with_side: bool = False) -> None:
        """Show a finding, and keep it."""
        self._findings.append(finding)
        self.terminal.finding(finding, with_side=with_side)

    def end(self, notes: Sequence[str] = ()) -> int:
        """Write the files that were asked for, show the end and return the exit code."""
        options = self._options
        report = Report(self._subject, self._began_at, self._findings, notes)
        if options.junit:
            Path(options.junit).write_text(junit(report, options.fail_on), encoding="utf-8")
        if options.html:
            Path(options.html).write_text(page(report), encoding="utf-8")
        if options.json:
            Path(options.json).write_text(json.dumps(report.document(), indent=2) + "\n", encoding="utf-8")
        self.terminal.summary(report, options.fail_on)
        return FAILED if report.failures(options.fail_on) else DONE
