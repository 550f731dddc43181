"""The report on a terminal: a line a test as it is done, then what was wrong, then how many of each verdict there are.

On a terminal there are colours (not where NO_COLOR is set) and a line of progress; in a file or a pipe neither.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Optional, TextIO

from tools.conformance.model import FAIL, INCONCLUSIVE, NOT_APPLICABLE, PASS
from tools.conformance.reports.dissection import label
from tools.conformance.reports.model import FAULT, OPEN, Finding, Reason, Report

_COLOURS = {PASS: "32", FAIL: "1;31", INCONCLUSIVE: "33", NOT_APPLICABLE: "2"}
_ERASE = "\r\x1b[K"
_MOST_REASONS = 5  # of a finding; the other forms have all


class Terminal:
    """Writes findings to `stream` as they come, standard output where None."""

    def __init__(self, stream: Optional[TextIO] = None) -> None:
        self._stream = sys.stdout if stream is None else stream
        self._is_terminal = self._stream.isatty()
        self._has_colours = self._is_terminal and "NO_COLOR" not in os.environ

    def progress(self, done: int, total: int, text: str) -> None:
        """Show what is under way."""
        if self._is_terminal:
            self._stream.write(f"{_ERASE}[{done + 1}/{total}] {text}")
            self._stream.flush()

    def heading(self, text: str) -> None:
        """Write a line."""
        self._line(text)

    def finding(self, finding: Finding, *, with_side: bool = False) -> None:
        """Write a finding."""
        title = f"{finding.side}: {finding.title}" if with_side else finding.title
        self._line(f"{self._verdict(finding.verdict)} {finding.id:<24} {title}")
        for reason in finding.reasons[:_MOST_REASONS]:
            self._reason(finding, reason)
        if len(finding.reasons) > _MOST_REASONS:
            self._line(f"{'':15} and {len(finding.reasons) - _MOST_REASONS} reasons more")

    def summary(self, report: Report, fail_on: str) -> None:
        """Write the end."""
        for note in report.notes:
            self._line(note)
        counts = ", ".join(f"{count} {verdict}" for verdict, count in report.counts.items())
        failures: Sequence[Finding] = report.failures(fail_on)
        self._line(f"{counts}" + (f"; {len(failures)} count as failures (--fail-on {fail_on})" if failures else ""))

    def _reason(self, finding: Finding, reason: Reason) -> None:
        note = f" ({reason.section}, {reason.level})" if reason.section else ""
        prefix = {FAULT: "", OPEN: ""}.get(reason.kind, "note: ")
        self._line(f"{'':15} {prefix}{reason.text}{note}")
        packet = next((each for each in finding.packets if reason.frame and each.number == reason.frame), None)
        if packet is not None:
            self._line(f"{'':15} packet {packet.number}: {label(packet.data)}")

    def _line(self, text: str) -> None:
        self._stream.write(f"{_ERASE if self._is_terminal else ''}{text}\n")
        self._stream.flush()

    def _verdict(self, verdict: str) -> str:
        padded = f"{verdict:<15}"
        return f"\x1b[{_COLOURS[verdict]}m{padded}\x1b[0m" if self._has_colours else padded
