"""Missing blocks (RFC 9177 §5): what a 4.08 in application/missing-blocks+cbor-seq lists.

A CBOR sequence (RFC 8742) of block numbers as unsigned integers (RFC 8949 §3.1), in ascending order. So little of CBOR
needs no package.
"""

from __future__ import annotations

from collections.abc import Iterable

from minicoap.errors import PeerError, UsageError

_MAX_NUMBER = (1 << 20) - 1  # §4.2: NUM has 20 bits


def encode_missing(numbers: Iterable[int], limit: int) -> bytes:
    """Return as many of the block `numbers`, which ascend, as fit into `limit` bytes (§5: a single packet).

    Raises UsageError if they do not ascend, are no block numbers, or not even one is there and fits: the list has one
    at least.
    """
    encoded = bytearray()
    last = -1
    for number in numbers:
        if not last < number <= _MAX_NUMBER:
            raise UsageError(f"block {number} after {last}: missing blocks ascend, and end at {_MAX_NUMBER}")
        item = _encode(number)
        if len(encoded) + len(item) > limit:
            break
        encoded += item
        last = number
    if not encoded:
        raise UsageError("a list of missing blocks has one at least")
    return bytes(encoded)


def decode_missing(payload: bytes, limit: int) -> list[int]:
    """Return the first `limit` block numbers that `payload` lists; further ones are checked all the same.

    Raises PeerError for anything but ascending block numbers, which §5 advises to drop, save that a number that comes
    again at once is ignored (§5: duplicates). Integers that take more bytes than they need are well-formed CBOR and
    taken.
    """
    numbers: list[int] = []
    last = -1
    offset = 0
    while offset < len(payload):
        number, offset = _decode(payload, offset)
        if number == last:
            continue
        if not last < number <= _MAX_NUMBER:
            raise PeerError(f"missing blocks: {number} after {last}; they ascend, and end at {_MAX_NUMBER}")
        last = number
        if len(numbers) < limit:
            numbers.append(number)
    if last < 0:
        raise PeerError("missing blocks: the list is empty")
    return numbers


def _encode(number: int) -> bytes:
    if number < 24:
        return bytes((number,))
    if number < 1 << 8:
        return bytes((24, number))
    if number < 1 << 16:
        return b"\x19" + number.to_bytes(2, "big")
    return b"\x1a" + number.to_bytes(4, "big")


def _decode(payload: bytes, offset: int) -> tuple[int, int]:
    """Return the unsigned integer at `offset`, and where the next item begins."""
    first = payload[offset]
    offset += 1
    if first < 24:
        return first, offset
    if first > 27:  # another major type, or a length that no integer has
        raise PeerError(f"missing blocks: no unsigned integer begins with byte 0x{first:02x}")
    end = offset + (1 << (first - 24))
    if end > len(payload):
        raise PeerError("missing blocks: the last integer is cut off")
    return int.from_bytes(payload[offset:end], "big"), end
