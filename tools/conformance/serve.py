"""`python -m tools.conformance serve`: test a client, by what it sends and how it takes what comes."""

from __future__ import annotations

import argparse
import re
import time
from importlib import import_module

from minicoap.errors import UsageError
from tools.conformance.model import (
    FAIL,
    INCONCLUSIVE,
    NOT_APPLICABLE,
    PASS,
    Failure,
    Inconclusive,
    NotApplicable,
    Result,
)
from tools.conformance.outputs import DONE, Output, add_arguments
from tools.conformance.reports.model import CLIENT, of_result
from tools.conformance.serving.client import Client, Port
from tools.conformance.serving.model import CLIENT_TESTS, ClientTest, Command, Driver, by_hand

for _name in ("core", "block", "observe", "messages"):
    import_module(f"tools.conformance.serving.{_name}")


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Enter the command."""
    parser = commands.add_parser(
        "serve",
        help="test a client",
        description="Test a client: it is told what to ask of us, by a line for you to read or by running COMMAND.",
        epilog="Of COMMAND's words {method} (get, put, post, delete, observe, ping), {uri}, {kind} (con, non), {size} "
        "of the payload in bytes, {accept} (or -), {block} (bytes, or 0) and {seconds} to observe are filled in.",
    )
    parser.add_argument("address", nargs="?", default="127.0.0.1:5683", metavar="HOST:PORT", help="where to listen")
    parser.add_argument("-t", "--tests", action="append", metavar="ID", help="only these, or ids that begin so")
    parser.add_argument("--all", action="store_true", help="also those that take longer than a minute")
    parser.add_argument("--list", action="store_true", help="list the tests, and end")
    parser.add_argument("--client", metavar="COMMAND", help="what to run for each request")
    parser.add_argument("--patience", type=float, metavar="S", help="for what has to come (default 60, or 15 s)")
    parser.add_argument("--grace", type=float, default=1.0, metavar="S", help="for what must not come (default 1)")
    add_arguments(parser, records=True)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Test a client. Raises UsageError or OSError if that cannot be."""
    tests = CLIENT_TESTS.chosen(options.tests, with_long=options.all)
    if options.list:
        for test in tests:
            print(f"{test.id:<24} {test.level:<7} {test.title}  ({test.section})")
        return DONE
    driver: Driver = by_hand if options.client is None else Command(options.client)
    patience = options.patience or (60.0 if options.client is None else 15.0)
    host, number = _address(options.address)
    port = Port(host, number)
    try:
        with Output(options, f"a client at {port.uri('')}", port.address) as output:
            port.record = output.record
            output.terminal.heading(f"listening on {port.uri('')}")
            for done, test in enumerate(tests):
                output.terminal.progress(done, len(tests), f"{test.id} {test.title}")
                output.take(of_result(carry_out(test, port, driver, patience=patience, grace=options.grace), CLIENT))
            return output.end()
    finally:
        port.close()


def carry_out(test: ClientTest, port: Port, driver: Driver, *, patience: float, grace: float) -> Result:
    """Carry a test out, again if it failed: a failure is believed when it came twice."""
    began = time.monotonic()
    result = _attempt(test, port, driver, patience, grace)
    if result.verdict == FAIL:
        again = _attempt(test, port, driver, patience, grace)
        if again.verdict != FAIL:
            reason = f"failed once ({result.reason}) and then not: {again.verdict}"
            again = Result(result.test, INCONCLUSIVE, reason, frames=[*result.frames, *again.frames])
        result = again
    result.seconds = time.monotonic() - began
    return result


def _attempt(test: ClientTest, port: Port, driver: Driver, patience: float, grace: float) -> Result:
    client = Client(port, driver, patience=patience, grace=grace)
    verdict, reason, section, offender = PASS, "", "", None
    try:
        try:
            test.function(client)
        except (Inconclusive, NotApplicable) as error:
            verdict = INCONCLUSIVE if isinstance(error, Inconclusive) else NOT_APPLICABLE
            reason = str(error)
        finally:
            client.end()
        client.judge_all()
    except Failure as failure:
        verdict, reason, section, offender = FAIL, failure.rule, failure.section, failure.frame
    return Result(test, verdict, reason, section, offender, client.frames)  # type: ignore[arg-type]


def _address(text: str) -> tuple[str, int]:
    found = re.fullmatch(r"(?:coap://)?(?:\[([^]]+)]|([^:]+))(?::(\d{1,5}))?/?", text)
    if found is None or int(found[3] or 0) > 65535:
        raise UsageError(f"{text!r} is not HOST:PORT")
    return found[1] or found[2], int(found[3]) if found[3] else 5683
