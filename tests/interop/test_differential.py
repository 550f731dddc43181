"""The same bytes read by aiocoap, scapy, tshark and ours. Where they disagree, it is said why, message by message.

A row that is not among the explained ones has to be read alike; one that is has to be read otherwise, so that a
disagreement that ceases is noticed too.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from minicoap.codec import codes
from minicoap.codec.message import Message, Options, encode
from tests.interop.readers import Verdict, read_by_aiocoap, read_by_ours, read_by_scapy, read_by_tshark
from tests.minicoap.codec.test_message import MALFORMED, WELL_FORMED

LONGEST = 1400  # bytes: what an Ethernet carries, and tshark's capture here

LONG_TOKENS = (
    "the shortest token with one more byte", "the longest token with one more byte",
    "the shortest token with two more bytes",
)  # fmt: skip
BROKEN_TOKENS = ("token length 15", "extended token cut off")
BROKEN_LENGTHS = (
    "extended token length cut off", "doubly extended token length cut off", "doubly extended token cut off",
)  # fmt: skip
CUT_TOKENS = ("a token missing", "a token cut off")
NOT_EMPTY = (
    "an empty message with a token", "an empty message with an option", "an empty message with a payload",
    "an empty message with a marker",
)  # fmt: skip
BARE_MARKERS = (
    "a marker without a payload", "a marker without a payload after an option",
    "a marker without a payload after a token",
)  # fmt: skip
MARKER_BEHIND_MARKER = "a marker without a payload after a marker in a value"
HIGH_NUMBERS = ("an option number above 65535", "option numbers that add up to more than 65535")

DISAGREEMENTS: dict[str, dict[str, tuple[str, ...]]] = {
    "aiocoap": {
        "it has no extended tokens (RFC 8974): it takes 13, 14 and the reserved 15 for so many bytes of token": (
            *LONG_TOKENS, *BROKEN_TOKENS, *BROKEN_LENGTHS,
        ),
        "it takes what is there of a token that is cut off; RFC 7252 §3: a message format error": CUT_TOKENS,
        "it takes empty messages that are not; RFC 7252 §4.1: a message format error": NOT_EMPTY,
        "it takes a marker with nothing behind it; RFC 7252 §3: a message format error": BARE_MARKERS,
        "it counts option numbers past 16 bits; RFC 7252 §12.2 ends at 65535": HIGH_NUMBERS,
        "it reads string options as UTF-8 at once and fails; ours leaves that to who wants the path, for a 4.00": (
            "a marker byte in an option's value",
        ),
    },
    "scapy": {
        "it sees an option 0 where there is none, right behind the token": (
            "an empty acknowledgement", "a reset", "a ping", "a non-confirmable response",
            "the longest token of RFC 7252", "a token of nine bytes", "the longest plain token",
            "a token of marker bytes", "a code of a reserved class",
        ),
        "it takes a marker right behind the token for an option 15": (
            "its piggybacked response", "a response with that token", "marker bytes in the payload",
        ),
        "it has no extended tokens (RFC 8974)": (*LONG_TOKENS, *BROKEN_TOKENS, *BROKEN_LENGTHS),
        "it takes any version; RFC 7252 §3 has others silently ignored": (
            "version 0", "version 2", "version 3", "version 2 with a reserved token length",
        ),
        "it takes what is there of a token or value that is cut off": (
            *CUT_TOKENS, "a value missing", "a value cut off", "a long value cut off",
            "a value cut off after a good option",
        ),
        "it takes empty messages that are not": NOT_EMPTY,
        "it only warns of nibble 15 and reads on": (
            "option delta 15", "option delta 15, with what 14 would need", "option length 15 meant as it stands",
            "option length 15, with what 13 would need", "option length 15, with what 14 would need",
            "option length 15 after an extended delta",
        ),
        "it takes a marker with nothing behind it": (*BARE_MARKERS, MARKER_BEHIND_MARKER),
        "it counts option numbers past 16 bits": HIGH_NUMBERS,
    },
    "tshark": {
        "it has no extended tokens (RFC 8974)": (*LONG_TOKENS, *BROKEN_TOKENS),
        "it takes empty messages that are not": NOT_EMPTY,
        "it takes a marker with nothing behind it": (*BARE_MARKERS, MARKER_BEHIND_MARKER),
        "it calls a message malformed for an elective option that nobody registered; RFC 7252 §5.4.1: ignored": (
            "the reserved option 0", "the smallest delta of one more byte", "the largest delta of one more byte",
            "the smallest delta of two more bytes", "a marker byte in an extended delta",
        ),
        "it calls a message malformed for an option of a forbidden length; RFC 7252 §5.4.3: as one not recognised": (
            "the longest of one more byte", "the shortest of two more bytes", "delta and length extended",
        ),
    },
}  # fmt: skip


def written_by_hand() -> dict[str, bytes]:
    rows = {name: bytes.fromhex(text) for name, (text, _) in (*WELL_FORMED.items(), *MALFORMED.items())}
    return {name: data for name, data in rows.items() if 0 < len(data) <= LONGEST}


def drawn() -> dict[str, bytes]:
    """Messages as they travel every day, from a seed; nobody should disagree about those."""
    chance = random.Random(7252)
    kinds = ((4, 1, 8), (6, 0, 3), (11, 1, 20), (12, 0, 2), (14, 0, 4), (15, 1, 20), (17, 0, 2), (23, 0, 3), (28, 0, 4))
    rows = {}
    for number in range(500):
        items = [(11, b"some")]
        for option, shortest, longest in chance.sample(kinds, chance.randrange(1, 5)):
            length = chance.randrange(shortest, longest + 1)
            text = option in (11, 15)
            items.append((option, b"x" * length if text else bytes([1]) * length))
        code = chance.choice((codes.GET, codes.PUT, codes.CONTENT, codes.CHANGED, codes.NOT_FOUND))
        message = Message(
            chance.randrange(2), code, chance.randrange(65536), chance.randbytes(chance.randrange(9)), Options(items),
            chance.randbytes(chance.randrange(1, 1000)) if chance.randrange(2) else b"",
        )  # fmt: skip
        rows[f"drawn {number}"] = encode(message)
    return rows


ROWS = {**written_by_hand(), **drawn()}


def check(name: str, theirs: dict[str, Verdict]) -> None:
    ours = read_by_ours(ROWS)
    explained = [row for rows in DISAGREEMENTS[name].values() for row in rows]
    assert len(explained) == len(set(explained))
    disagreed = [row for row in ROWS if theirs[row] != ours[row]]
    assert sorted(disagreed) == sorted(explained)


def test_ours_reads_what_is_well_formed_and_nothing_else() -> None:
    ours = read_by_ours(ROWS)
    assert {row for row in ROWS if ours[row] is None} == {row for row in MALFORMED if row in ROWS}


def test_aiocoap_disagrees_only_where_it_is_explained() -> None:
    check("aiocoap", read_by_aiocoap(ROWS))


@pytest.mark.filterwarnings("ignore")
def test_scapy_disagrees_only_where_it_is_explained() -> None:
    check("scapy", read_by_scapy(ROWS))


def test_tshark_disagrees_only_where_it_is_explained(tmp_path: Path) -> None:
    check("tshark", read_by_tshark(ROWS, tmp_path))
