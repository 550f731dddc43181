"""JUnit XML, as continuous integration reads it: what counts is a failure, what is open or does not apply skipped."""

from __future__ import annotations

import re
import time
from xml.sax.saxutils import escape, quoteattr

from tools.conformance.model import INCONCLUSIVE, NOT_APPLICABLE
from tools.conformance.reports.dissection import label
from tools.conformance.reports.model import FAULT, Finding, Report

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(report: Report, fail_on: str) -> str:
    """Return a report as JUnit XML; failures are those of the level `fail_on`, and of those that weigh more."""
    failures = report.failures(fail_on)
    bodies = [_case(finding, finding in failures) for finding in report.findings]
    skipped = sum("<skipped" in body for body in bodies)
    seconds = sum(finding.seconds for finding in report.findings)
    began = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(report.began_at))
    counts = f'tests="{len(bodies)}" failures="{len(failures)}" errors="0" skipped="{skipped}" time="{seconds:.3f}"'
    head = f'<testsuite name={_attribute("CoAP conformance of " + report.subject)} {counts} timestamp="{began}">'
    return "\n".join(['<?xml version="1.0" encoding="UTF-8"?>', f"<testsuites {counts}>", head, *bodies,
                      "</testsuite>", "</testsuites>", ""])  # fmt: skip


def _case(finding: Finding, is_failure: bool) -> str:
    name = _attribute(f"{finding.id} {finding.title}")
    head = f'<testcase classname="conformance.{finding.side}" name={name} time="{finding.seconds:.3f}">'
    lines = []
    for reason in finding.reasons:
        packet = next((each for each in finding.packets if reason.frame and each.number == reason.frame), None)
        lines.append(f"{reason.text}{f' ({reason.section}, {reason.level})' if reason.section else ''}")
        if packet is not None:
            lines += [f"  packet {packet.number}: {label(packet.data)}", f"  {packet.data.hex()}"]
    text = _text("\n".join(lines))
    fault = next((reason for reason in finding.reasons if reason.kind == FAULT), None)
    message = _attribute(lines[0] if lines else finding.verdict)
    if is_failure and fault is not None:
        body = f"<failure type={_attribute(fault.level)} message={message}>{text}</failure>"
    elif fault is not None:
        body = f"<skipped message={_attribute(f'breaks what is only {fault.level}: {fault.text}')}/>"
    elif finding.verdict in (INCONCLUSIVE, NOT_APPLICABLE):
        body = f"<skipped message={_attribute(f'{finding.verdict}: {lines[0] if lines else str()}')}/>"
    else:
        body = f"<system-out>{text}</system-out>" if lines else ""
    return f"{head}{body}</testcase>"


def _attribute(text: str) -> str:
    return quoteattr(_NOT_XML.sub("\ufffd", text))


def _text(text: str) -> str:
    return escape(_NOT_XML.sub("\ufffd", text))
