"""What a report is about, whichever form it takes: findings, each with its verdict, its reasons and its packets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from tools.conformance.frames import Address
from tools.conformance.grading.grader import Graded
from tools.conformance.grading.model import Grade, Side
from tools.conformance.model import FAIL, INCONCLUSIVE, LEVELS, MUST, PASS, VERDICTS, Result
from tools.conformance.reports.dissection import dissect, label

SERVER, CLIENT = "server", "client"
FAULT, OPEN, REMARK = "fault", "open", "remark"
SCHEMA = 1  # of `Report.document`; changes when a program that reads it would have to


class Shown(NamedTuple):
    """A packet of a finding. `number` is its frame in a capture, or its place among the packets of the test."""

    number: int
    at: float
    source: Address
    destination: Address
    data: bytes


class Reason(NamedTuple):
    """Why a verdict is what it is: `kind` is "fault", "open" or "remark", `frame` the packet's number, 0 if none."""

    kind: str
    text: str
    section: str = ""
    level: str = ""
    frame: int = 0


class Finding(NamedTuple):
    """What came of a test, for one side."""

    id: str
    title: str
    side: str
    level: str
    section: str
    verdict: str
    steps: Sequence[str]
    reasons: Sequence[Reason]
    packets: Sequence[Shown]
    seconds: float

    def counts_as_failure(self, fail_on: str) -> bool:
        """Whether it is a failure of that level, or of one that weighs more."""
        counted = LEVELS[: LEVELS.index(fail_on) + 1]
        return self.verdict == FAIL and any(each.kind == FAULT and each.level in counted for each in self.reasons)


class Report(NamedTuple):
    """A whole report: `subject` is what was looked at, `began_at` when, in seconds since 1970."""

    subject: str
    began_at: float
    findings: Sequence[Finding]
    notes: Sequence[str] = ()

    @property
    def counts(self) -> dict[str, int]:
        """How many findings have each verdict."""
        counted = Counter(finding.verdict for finding in self.findings)
        return {verdict: counted[verdict] for verdict in VERDICTS}

    def failures(self, fail_on: str) -> list[Finding]:
        """Return the findings that count as failures."""
        return [finding for finding in self.findings if finding.counts_as_failure(fail_on)]

    def document(self) -> dict[str, Any]:
        """Return it for programs; all of it can be written as JSON."""
        return {
            "schema": SCHEMA, "subject": self.subject, "began_at": self.began_at, "notes": list(self.notes),
            "counts": self.counts, "findings": [_finding(finding) for finding in self.findings],
        }  # fmt: skip


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        **{name: getattr(finding, name) for name in ("id", "title", "side", "level", "section", "verdict")},
        "steps": list(finding.steps),
        "reasons": [reason._asdict() for reason in finding.reasons],
        "seconds": round(finding.seconds, 3),
        "packets": [_packet(packet) for packet in finding.packets],
    }


def _packet(packet: Shown) -> dict[str, Any]:
    parts = [
        {"offset": part.offset, "bytes": part.data.hex(), "name": part.name, "value": part.value,
         "wrong": part.is_wrong}
        for part in dissect(packet.data)
    ]  # fmt: skip
    return {
        "number": packet.number, "at": packet.at, "from": list(packet.source), "to": list(packet.destination),
        "bytes": packet.data.hex(), "text": label(packet.data), "parts": parts,
    }  # fmt: skip


def of_result(result: Result, side: str = SERVER) -> Finding:
    """Return a finding of a test that was carried out."""
    test = result.test
    packets = [
        Shown(number, frame.at, frame.source, frame.destination, frame.data)
        for number, frame in enumerate(result.frames, 1)
    ]
    level = getattr(result, "level", test.level)
    reasons = []
    if result.verdict == FAIL:
        offender = next(
            (number for number, frame in enumerate(result.frames, 1) if frame is result.offender),
            next((number for number, frame in enumerate(result.frames, 1) if frame == result.offender), 0),
        )
        reasons.append(Reason(FAULT, result.reason, result.section or test.section, level, offender))
    elif result.reason:
        reasons.append(Reason(OPEN, result.reason))
    differs = getattr(test, "differs", "")
    if differs:
        reasons.append(Reason(REMARK, differs))
    return Finding(
        test.id, test.title, side, level, test.section, result.verdict, test.steps, reasons, packets, result.seconds
    )


def of_grades(graded: Graded) -> list[Finding]:
    """Return the findings of a capture: two a test, one for each side; and what is wrong in exchanges of no test."""
    found = []
    for grade in graded.grades:
        found += [_of_side(grade, SERVER, grade.server), _of_side(grade, CLIENT, grade.client)]
    for grade in graded.others:
        found += [
            _of_side(grade, name, side)
            for name, side in ((SERVER, grade.server), (CLIENT, grade.client))
            if side.faults
        ]
    return found


def _of_side(grade: Grade, name: str, side: Side) -> Finding:
    reasons = [Reason(FAULT, fault.rule, fault.section, fault.level, fault.seen.number) for fault in side.faults]
    reasons += [Reason(OPEN, text) for text in side.open]
    reasons += [Reason(REMARK, text) for text in side.remarks]
    packets = [Shown(seen.number, seen.at, seen.source, seen.destination, seen.data) for seen in grade.frames]
    level = min((fault.level for fault in side.faults), key=LEVELS.index, default=MUST)
    seconds = packets[-1].at - packets[0].at
    sections = side.faults[0].section if side.faults else ""
    return Finding(grade.test or "-", grade.title, name, level, sections, side.verdict, (), reasons, packets, seconds)


def worst(verdicts: Sequence[str]) -> str:
    """Return the worst of verdicts of the sides of a test."""
    return FAIL if FAIL in verdicts else INCONCLUSIVE if INCONCLUSIVE in verdicts else PASS
