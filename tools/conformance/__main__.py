"""`python -m tools.conformance`: test a server or a client, grade a capture, list the tests."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Optional

from minicoap.codec.uri import parse_uri
from minicoap.errors import UsageError
from tools.conformance import grade, serve, tests
from tools.conformance.capture.files import CaptureError
from tools.conformance.frames import Address
from tools.conformance.model import CATALOGUE, Inconclusive, Test
from tools.conformance.outputs import DONE, Output, add_arguments
from tools.conformance.peer import Peer
from tools.conformance.reports.model import of_result
from tools.conformance.resources import find, load_map
from tools.conformance.runner import Runner
from tools.conformance.secure import Secure

USED_WRONGLY, NO_ANSWER = 2, 3


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    tests.load()
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (UsageError, CaptureError, ValueError, OSError) as error:
        print(f"conformance: {error}", file=sys.stderr)
        return USED_WRONGLY


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.conformance",
        description="Test how CoAP servers and clients keep to the RFCs.",
        epilog="Exit codes: 0 as it should be, 1 failures, 2 used wrongly, 3 the server does not answer.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="test a server")
    run.add_argument("uri", metavar="URI", help="such as coap://192.0.2.7")
    run.add_argument("--resources", metavar="FILE", help="lines ROLE = /PATH: which resource plays which part")
    run.add_argument("--patience", type=float, default=20.0, metavar="S", help="for what has to come (default 20)")
    run.add_argument("--grace", type=float, default=1.0, metavar="S", help="for what must not come (default 1)")
    run.add_argument("--slow", action="store_true", help="let tests take minutes")
    run.add_argument("--secure", metavar="URI", help="where it speaks CoAPS, such as coaps://192.0.2.7")
    run.add_argument("--cert", default="", metavar="FILE", help="the certificate to show there (PEM)")
    run.add_argument("--key", default="", metavar="FILE", help="its private key (PEM)")
    add_arguments(run, records=True)
    run.set_defaults(run=_run)
    listing = commands.add_parser("list", help="the tests")
    listing.set_defaults(run=_list)
    for command in (run, listing):
        command.add_argument("-t", "--tests", action="append", metavar="ID", help="only these, or ids that begin so")
    grade.add_command(commands)
    serve.add_command(commands)
    return parser


def _chosen(prefixes: list[str] | None) -> list[Test]:
    if not prefixes:
        return list(CATALOGUE)
    found = [test for test in CATALOGUE if any(test.id.startswith(prefix) for prefix in prefixes)]
    if not found:
        raise UsageError(f"no test is called {' or '.join(prefixes)}; `list` shows them")
    return found


def _list(options: argparse.Namespace) -> int:
    for test in _chosen(options.tests):
        print(f"{test.id:<24} {test.level:<7} {test.title}  ({test.section})")
    return DONE


def _run(options: argparse.Namespace) -> int:
    chosen = _chosen(options.tests)
    target = parse_uri(options.uri)
    address: Address = (target.host, target.port)
    given = load_map(options.resources) if options.resources else {}
    with Output(options, options.uri, address) as output:
        scout = Peer(address, {}, patience=options.patience, grace=options.grace, record=output.record)
        try:
            scout.ping()
            roles = find(scout, given)
        except Inconclusive as error:
            print(f"conformance: {options.uri}: {error}", file=sys.stderr)
            return NO_ANSWER
        finally:
            scout.close()
        runner = Runner(
            address,
            roles,
            patience=options.patience,
            grace=options.grace,
            slow=options.slow,
            secure=_secure(options),
            record=output.record,
        )
        for done, test in enumerate(chosen):
            output.terminal.progress(done, len(chosen), f"{test.id} {test.title}")
            output.take(of_result(runner.run_one(test)))
        return output.end()


def _secure(options: argparse.Namespace) -> Optional[Secure]:
    if not options.secure:
        return None
    where = parse_uri(options.secure)
    return Secure((where.host, where.port), options.cert, options.key)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
