"""Concise problem details: an error's body that a machine can read (RFC 9290)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from minicoap.codec import cbor
from minicoap.errors import PeerError

_TITLE, _DETAIL, _INSTANCE, _RESPONSE_CODE = -1, -2, -3, -4


class Problem(NamedTuple):
    """What went wrong: `title` names the kind of problem, `detail` this case of it.

    `custom` are custom entries (§3.2): a registered number or a URI leads to a map.
    """

    title: str = ""
    detail: str = ""
    custom: Mapping[Any, Mapping[Any, Any]] = {}


def encode_problem(problem: Problem) -> bytes:
    """Return the problem as application/concise-problem-details+cbor."""
    item: dict[Any, Any] = {}
    if problem.title:
        item[_TITLE] = problem.title
    if problem.detail:
        item[_DETAIL] = problem.detail
    item.update(problem.custom)
    return cbor.encode(item)


def decode_problem(data: bytes) -> Problem:
    """Return the problem in `data`, entries that this code does not know left out (§3).

    Raises PeerError for what is no problem details item.
    """
    try:
        item = cbor.decode(data, integer_keys=True, tags=True)
    except PeerError as error:
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
    if isinstance(value, list) and len(value) > 1:  # under tag 38: the language, the text (RFC 9290 appendix A)
        value = value[1]
    return value if isinstance(value, str) else ""
