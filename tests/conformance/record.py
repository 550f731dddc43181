"""Run the conformance tests against the servers of others, three times each, and keep what came of it.

    python -m tests.conformance.record [PEER ...]

Writes `tests/conformance/peers/verdicts.json`, which the tables in docs/conformance.md are made of,
if all three runs say the same; says where they do not otherwise. Takes about a quarter of an hour.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor

from tests.conformance.servers import HERE, PEERS, RUN, catalogue, roles
from tools.conformance.model import FAIL
from tools.conformance.runner import Runner

FILE = HERE / "peers" / "verdicts.json"
RUNS = 3
PATIENCE, GRACE = 12.0, 0.5


def run(peer: str) -> dict[str, str]:
    """Return the verdict of each test on a server that was just started; that of a failure with its level."""
    verdicts = {}
    with RUN[peer]() as address:
        runner = Runner(address, roles(address, peer), patience=PATIENCE, grace=GRACE, slow=True)
        for result in runner.run(catalogue()):
            failed = result.verdict == FAIL
            verdicts[result.test.id] = f"{FAIL} ({result.level})" if failed else result.verdict
            if result.reason:
                print(
                    f"{peer} {verdicts[result.test.id]} {result.test.id}: {result.reason}; {result.offender}",
                    flush=True,
                )
    return verdicts


def main() -> int:
    """Run the command."""
    chosen = sys.argv[1:] or PEERS
    kept = json.loads(FILE.read_text()) if FILE.exists() else {}
    code = 0
    with ThreadPoolExecutor(len(chosen) * RUNS) as pool:
        runs = {peer: [pool.submit(run, peer) for _ in range(RUNS)] for peer in chosen}
        for peer in chosen:
            first, *others = (future.result() for future in runs[peer])
            for id, verdict in first.items():
                different = [other[id] for other in others if other[id] != verdict]
                if different:
                    print(f"{peer} {id}: {verdict}, then {', '.join(different)}")
                    code = 1
            kept[peer] = first
    FILE.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
