"""Keep the tables in docs/conformance.md current: the tests, from the catalogue; what peers did, from a file.

python -m tools.conformance.tables
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from tools.conformance import tests
from tools.conformance.model import CATALOGUE, VERDICTS

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs" / "conformance.md"
VERDICTS_OF_PEERS = ROOT / "tests" / "conformance" / "peers" / "verdicts.json"
SHORT = {"pass": "pass", "inconclusive": "open", "not applicable": "–"}

Verdicts = Mapping[str, Mapping[str, str]]


def tests_table() -> str:
    """Return the tests as a table."""
    lines = ["| test | what it is about | section | level | needs |", "|---|---|---|---|---|"]
    for test in CATALOGUE:
        title = test.title + (f". *{test.differs[:1].upper()}{test.differs[1:]}.*" if test.differs else "")
        needs = ", ".join(f"`{role}`" for role in test.needs)
        lines.append(f"| {test.id} | {title} | {test.section} | {test.level} | {needs} |")
    return "\n".join(lines)


def peers_table(verdicts: Verdicts) -> str:
    """Return what came of each test with each peer, as a table; what says nothing of any is left out."""
    peers = sorted(verdicts)
    lines = [f"| test | {' | '.join(peers)} |", "|---|" + "---|" * len(peers)]
    counts = {peer: Counter(verdict.partition(" (")[0] for verdict in verdicts[peer].values()) for peer in peers}
    for verdict in VERDICTS:
        lines.append(f"| *{verdict}* | {' | '.join(str(counts[peer][verdict]) for peer in peers)} |")
    for test in CATALOGUE:
        found = [verdicts[peer].get(test.id, "not applicable") for peer in peers]
        if any(verdict != "not applicable" for verdict in found):
            shown = [SHORT.get(verdict, verdict.replace("fail", "**fail**")) for verdict in found]
            lines.append(f"| {test.id} | {' | '.join(shown)} |")
    return "\n".join(lines)


def current(page: str, verdicts: Verdicts) -> str:
    """Return the page with its tables as they should be."""
    tests.load()
    for name, table in (("tests", tests_table()), ("peers", peers_table(verdicts))):
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- end of {name} -->)", re.DOTALL)
        page, count = pattern.subn(lambda match, table=table: f"{match[1]}\n{table}\n{match[2]}", page)  # type: ignore[misc]
        assert count == 1, f"there is no place for the table of {name}"
    return page


def main() -> int:
    """Run the command."""
    verdicts: Verdicts = json.loads(VERDICTS_OF_PEERS.read_text(encoding="utf-8"))
    PAGE.write_text(current(PAGE.read_text(encoding="utf-8"), verdicts), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
