"""The fuzz target for a while, from a corpus of every message that the tables of the other tests have."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.minicoap.asyncio.test_malformed import ROWS
from tests.minicoap.codec.test_message import MALFORMED, WELL_FORMED

SECONDS = int(os.environ.get("FUZZ_SECONDS", "5"))
TARGET = Path(__file__).with_name("endpoint.py")
LONGEST = 2048
HELLO = bytes.fromhex(
    "16feff00000000000000000091010000850000000000000085fefdcb1eb7bbf48184c40c71937cf679fd921785411886cce99dc0050f771054"
    "782600000008cca9c02bc02cc0ae01000053ff01000100000b00020100000a000400020017002300000016000000170000000d0030002e0403"
    "05030603080708080809080a080b080408050806040105010601030302030301020103020202040205020602"
)  # of OpenSSL's


def seeds() -> Iterator[bytes]:
    """Each message to the codec, and to the endpoint alone and several in a row."""
    yield b"\x00" + HELLO
    messages = [bytes.fromhex(text) for text, _ in (*WELL_FORMED.values(), *MALFORMED.values())]
    messages += [data for _, data, _ in ROWS]
    messages = [data for data in messages if len(data) < 300]
    for data in messages:
        yield b"\x00" + data
        yield b"\x01" + framed(0, data)
    for first in range(0, len(messages), 7):
        yield b"\x01" + b"".join(framed(n * 37 & 0xFF, data) for n, data in enumerate(messages[first : first + 7]))


def framed(head: int, data: bytes) -> bytes:
    return bytes((head,)) + len(data).to_bytes(2, "big") + data


def test_nothing_is_found_in_a_while(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris is not installed: pip install '.[fuzz]' on Python 3.11 or newer")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(seeds()):
        (corpus / f"{number:04}").write_bytes(seed)
    done = subprocess.run(
        [sys.executable, str(TARGET), f"-max_total_time={SECONDS}", f"-max_len={LONGEST}", "-timeout=10", str(corpus)],
        cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS + 120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    print(done.stderr.strip().splitlines()[-1])
