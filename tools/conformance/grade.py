"""`python -m tools.conformance grade FILE`: which tests others' packets amount to, and how each side did."""

from __future__ import annotations

import argparse
from pathlib import Path

from tools.conformance.capture.files import read
from tools.conformance.grading.grader import Graded, grade_capture
from tools.conformance.outputs import Output, add_arguments
from tools.conformance.reports.model import of_grades
from tools.conformance.resources import load_map


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Enter the command."""
    parser = commands.add_parser("grade", help="say which tests a capture contains, and how each side did")
    parser.add_argument("capture_file", metavar="FILE", help="pcap or pcapng")
    parser.add_argument("--resources", metavar="FILE", help="lines ROLE = /PATH: which resource plays which part")
    add_arguments(parser, records=False)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Grade a capture. Raises CaptureError for a file that is none."""
    given = load_map(options.resources) if options.resources else {}
    graded = grade_capture(read(options.capture_file), given)
    with Output(options, Path(options.capture_file).name) as output:
        for finding in of_grades(graded):
            output.take(finding, with_side=True)
        return output.end(_notes(graded))


def _notes(graded: Graded) -> list[str]:
    conversations = graded.conversations
    tests = len({grade.test for grade in graded.grades})
    notes = [
        f"{graded.frames} frames, {graded.datagrams} UDP datagrams, {conversations.messages} of them CoAP in "
        f"{len(conversations.exchanges)} exchanges; {tests} tests found"
    ]
    if graded.others:
        notes.append(
            f"{len(graded.others)} exchanges belong to no test: their resources have none of the ETSI names; "
            "--resources FILE says which plays which part"
        )
    if conversations.stray:
        numbers = ", ".join(str(seen.number) for seen in conversations.stray[:10])
        notes.append(f"{len(conversations.stray)} messages belong to no request in the capture: frames {numbers}")
    notes += [f"{count} {what} could not be read" for what, count in graded.unreadable.items()]
    return notes
