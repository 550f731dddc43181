"""Concise problem details: an error's body that a machine can read (RFC 9290). Needs cbor2, imported when used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from minicoap.errors import PeerError, UsageError

_TITLE, _DETAIL, _INSTANCE, _RESPONSE_CODE = -1, -2, -3, -4
_MISSING = "problem details are CBOR: pip install cbor2"


class Problem(NamedTuple):
    """What went wrong: `title` names the kind of problem, `detail` this case of it.

    `custom` are custom entries (§3.2): a registered number or a URI leads to a map.
    """

    title: str = ""
    detail: str = ""
    custom: Mapping[Any, Mapping[Any, Any]] = {}


def encode_problem(problem: Problem) -> bytes:
    """Return the problem as application/concise-problem-details+cbor; raises UsageError where cbor2 is missing."""
    try:
        import cbor2
    except ImportError as error:
        raise UsageError(_MISSING) from error
    item: dict[Any, Any] = {}
    if problem.title:
        item[_TITLE] = problem.title
    if problem.detail:
        item[_DETAIL] = problem.detail
    item.update(problem.custom)
    encoded: bytes = cbor2.dumps(item)
    return encoded


def decode_problem(data: bytes) -> Problem:
    """Return the problem in `data`, entries that this code does not know left out (§3).

    Raises PeerError for what is no problem details item, UsageError where cbor2 is missing.
    """
    try:
        import cbor2
    except ImportError as error:
        raise UsageError(_MISSING) from error
    try:
        item = cbor2.loads(data)
    except (cbor2.CBORDecodeError, ValueError, OverflowError, RecursionError) as error:
        raise PeerError(f"the problem details are no CBOR: {error}") from error
    if not isinstance(item, dict):
        raise PeerError("the problem details are no CBOR map")
    custom = {
        key: value
        for key, value in item.items()
        if isinstance(value, dict) and (isinstance(key, str) or (isinstance(key, int) and key >= 0))
    }
    return Problem(_text(item.get(_TITLE)), _text(item.get(_DETAIL)), custom)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
