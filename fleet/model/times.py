"""Times between the wire and the store: ISO 8601 text outside, UTC milliseconds inside."""

from datetime import datetime, timedelta, timezone
from functools import lru_cache

from fleet.errors import InvalidError

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MILLISECOND = timedelta(milliseconds=1)


@lru_cache(maxsize=16)  # a busy server answers a hundred in a millisecond
def iso_from_ms(at: int) -> str:
    """UTC milliseconds as text: `2025-09-17T10:00:00.000Z`."""
    return f"{_second(at // 1000)}.{at % 1000:03d}Z"


@lru_cache(maxsize=16)  # what happens now happens in the same second
def _second(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")


def ms_from_iso(text: str, field: str = "$") -> int:
    """ISO 8601 text as UTC milliseconds; without a zone it is UTC. Raises InvalidError naming `field`."""
    try:
        # Python before 3.11 does not read the Z.
        moment = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith(("Z", "z")) else text)
    except ValueError:
        raise InvalidError(f"{text!r} is no ISO 8601 time; write 2025-09-17T10:00:00Z", field) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return (moment - _EPOCH) // _MILLISECOND
