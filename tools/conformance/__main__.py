"""`python -m tools.conformance`: run tests against a server, list them."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence

from minicoap.codec.uri import parse_uri
from minicoap.errors import UsageError
from tools.conformance import tests
from tools.conformance.frames import Address
from tools.conformance.model import CATALOGUE, FAIL, LEVELS, VERDICTS, Inconclusive, Result, Test
from tools.conformance.peer import Peer
from tools.conformance.resources import find, load_map
from tools.conformance.runner import Runner
from tools.conformance.secure import Secure

DONE, FAILED, USED_WRONGLY, NO_ANSWER = 0, 1, 2, 3


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    tests.load()
    options = _parser().parse_args(arguments)
    try:
        chosen = _chosen(options.tests)
        if options.command == "list":
            _list(chosen)
            return DONE
        return _run(options, chosen)
    except (UsageError, ValueError, OSError) as error:
        print(f"conformance: {error}", file=sys.stderr)
        return USED_WRONGLY


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.conformance",
        description="Test how a CoAP server keeps to the RFCs.",
        epilog="Exit codes: 0 as it should be, 1 failures, 2 used wrongly, 3 the server does not answer.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="test a server")
    run.add_argument("uri", metavar="URI", help="such as coap://192.0.2.7")
    run.add_argument("--resources", metavar="FILE", help="lines ROLE = /PATH: which resource plays which part")
    run.add_argument("--patience", type=float, default=20.0, metavar="S", help="for what has to come (default 20)")
    run.add_argument("--grace", type=float, default=1.0, metavar="S", help="for what must not come (default 1)")
    run.add_argument("--secure", metavar="URI", help="where it speaks CoAPS, such as coaps://192.0.2.7")
    run.add_argument("--cert", default="", metavar="FILE", help="the certificate to show there (PEM)")
    run.add_argument("--key", default="", metavar="FILE", help="its private key (PEM)")
    run.add_argument("--slow", action="store_true", help="let tests take minutes")
    run.add_argument("--fail-on", choices=LEVELS, default="must", help="the least level that counts (default must)")
    run.add_argument("--json", action="store_true", help="print the results as JSON")
    for command in (run, commands.add_parser("list", help="the tests")):
        command.add_argument("-t", "--tests", action="append", metavar="ID", help="only these, or ids that begin so")
    return parser


def _chosen(prefixes: list[str] | None) -> list[Test]:
    if not prefixes:
        return list(CATALOGUE)
    found = [test for test in CATALOGUE if any(test.id.startswith(prefix) for prefix in prefixes)]
    if not found:
        raise UsageError(f"no test is called {' or '.join(prefixes)}; `list` shows them")
    return found


def _list(chosen: Iterable[Test]) -> None:
    for test in chosen:
        print(f"{test.id:<24} {test.level:<7} {test.title}  ({test.section})")


def _run(options: argparse.Namespace, chosen: list[Test]) -> int:
    target = parse_uri(options.uri)
    address: Address = (target.host, target.port)
    given = load_map(options.resources) if options.resources else {}
    scout = Peer(address, {}, patience=options.patience, grace=options.grace)
    try:
        scout.ping()
        roles = find(scout, given)
    except Inconclusive as error:
        print(f"conformance: {options.uri}: {error}", file=sys.stderr)
        return NO_ANSWER
    finally:
        scout.close()
    results = []
    secure = None
    if options.secure:
        where = parse_uri(options.secure)
        secure = Secure((where.host, where.port), options.cert, options.key)
    runner = Runner(address, roles, patience=options.patience, grace=options.grace, slow=options.slow, secure=secure)
    for result in runner.run(chosen):
        results.append(result)
        if not options.json:
            _show(result)
    if options.json:
        print(json.dumps([_document(result) for result in results], indent=2))
    else:
        counts = Counter(result.verdict for result in results)
        print(", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS))
    counted = LEVELS[: LEVELS.index(options.fail_on) + 1]
    return FAILED if any(r.verdict == FAIL and r.level in counted for r in results) else DONE


def _show(result: Result) -> None:
    test = result.test
    print(f"{result.verdict:<15} {test.id:<24} {test.title}")
    if result.reason:
        print(f"{'':15} {result.reason}" + (f" ({result.section})" if result.section else ""))
    if result.offender is not None:
        print(f"{'':15} {result.offender}")


def _document(result: Result) -> dict[str, object]:
    return {
        "id": result.test.id, "title": result.test.title, "level": result.level, "verdict": result.verdict,
        "reason": result.reason, "section": result.section or result.test.section,
        "offender": None if result.offender is None else str(result.offender), "seconds": round(result.seconds, 3),
        "at": time.time(),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
