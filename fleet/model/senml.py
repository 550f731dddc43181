"""SenML: measurements as records, written as Packs of JSON or CBOR and read back (RFC 8428).

A Record here is a resolved one (§4.6): it has its whole name and time and needs no other record to be understood.
Writing takes out what neighbours share: the name as a Base Name, the unit as a Base Unit, and the time of the first as
a Base Time that the others are counted from, so that a series costs little more than its values. Reading puts that
back, whoever wrote it.

Ratios are written in the unit "/", 0.155 for 15.5 %. The registry's "%" stands for that same ratio and not for a
percentage, and is not to be produced any more (§12.1, note 2); "%RH" and "%EL" are humidity and battery; and "/100"
(RFC 8798) is a secondary unit, with which a Pack gets the version 26 (RFC 9100 §4) that a reader of version 10 has to
refuse (§4.4).
"""

import base64
import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple, Optional, Union

from fleet.errors import InvalidError, UsageError
from minicoap.codec import cbor

from .formats import JSON, decode_cbor, decode_unambiguous, encode

SENML_JSON = 110
SENML_CBOR = 112

VERSION = 10
RATIO = "/"
CELSIUS = "Cel"
ABSOLUTE = 1 << 28
"""Times from here on are seconds since 1970 in UTC; smaller ones are relative to "now" (§4.5.3)."""

Value = Union[float, bool, str, bytes]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9:./_-]*\Z")
_BASE64 = re.compile(r"[A-Za-z0-9_-]*\Z")
_LABELS = ("bver", "bn", "bt", "bu", "bv", "bs", "n", "u", "v", "vs", "vb", "s", "t", "ut", "vd")
_CBOR_LABELS = dict(zip(_LABELS, (-1, -2, -3, -4, -5, -6, 0, 1, 2, 3, 4, 5, 6, 7, 8)))  # §6, Table 4
_LABEL_OF = {number: label for label, number in _CBOR_LABELS.items()}
_TEXTS = frozenset({"bn", "bu", "n", "u", "vs"})
_NUMBERS = frozenset({"bt", "bv", "bs", "v", "s", "t", "ut"})
_VALUES = ("v", "vs", "vb", "vd")


class Record(NamedTuple):
    """One measurement of what has this `name`.

    `value` is a number, a truth value, a text or octets, None where there is only a `sum` (the integral of the values
    over time). `time` is UTC in seconds, or relative to now if less than ABSOLUTE; `update_time` the seconds within
    which the next measurement is to be expected.
    """

    name: str
    value: Optional[Value]
    time: float = 0
    unit: Optional[str] = None
    sum: Optional[float] = None
    update_time: Optional[float] = None


def encode_senml(records: Iterable[Record], content_format: int = SENML_JSON, *, name: str = "") -> bytes:
    """Write records, in their order, as a Pack of JSON (110) or CBOR (112).

    A Pack is not empty (§11): without records it only says whose they would be, by the Base Name `name`. Raises
    UsageError for a record that SenML does not allow, and for another format.
    """
    if content_format not in (SENML_JSON, SENML_CBOR):
        raise UsageError(f"Content-Format {content_format} is neither SenML in JSON (110) nor in CBOR (112)")
    records = list(records)
    is_cbor = content_format == SENML_CBOR
    share_unit = all(record.unit is not None for record in records)  # a Base Unit cannot be taken back
    unit: Optional[str] = None
    known, base = "", 0.0
    pack: list[dict[str, Any]] = []
    for record in records:
        _check(record)
        entry: dict[str, Any] = {}
        if record.name != known:
            known = entry["bn"] = record.name
        offset = float(record.time) - base
        if not pack or base + offset != record.time:
            base, offset = float(record.time), 0.0
            if base or pack:
                entry["bt"] = _number(base)
        if record.unit != unit:
            entry["bu" if share_unit else "u"] = record.unit
            unit = record.unit if share_unit else None
        if record.value is not None:
            entry.update((_value(record.value, is_cbor),))
        if record.sum is not None:
            entry["s"] = _number(record.sum)
        if offset:
            entry["t"] = _number(offset)
        if record.update_time is not None:
            entry["ut"] = _number(record.update_time)
        pack.append(entry)
    pack = pack or [{"bn": name}]
    if not is_cbor:
        return encode(pack, JSON)
    numbered = [{_CBOR_LABELS[label]: value for label, value in entry.items()} for entry in pack]
    return cbor.encode(numbered)


def decode_senml(
    payload: bytes, content_format: Optional[int] = SENML_JSON, now: Optional[float] = None
) -> list[Record]:
    """Read a Pack of JSON (110) or CBOR (112) into resolved records, in its order.

    With `now`, UTC in seconds, relative times become absolute. Raises FormatError for what is no JSON or CBOR, and for
    CBOR tags (so for the decimal fractions that §6 allows); InvalidError naming the field for what is no SenML, or a
    version or field that has to be understood and is not; UsageError for another format.
    """
    if content_format == SENML_JSON:
        pack = decode_unambiguous(payload, JSON)
    elif content_format == SENML_CBOR:
        pack = decode_cbor(payload, integer_keys=True)
    else:
        raise UsageError(f"Content-Format {content_format} is neither SenML in JSON (110) nor in CBOR (112)")
    if not isinstance(pack, list) or not all(isinstance(entry, dict) for entry in pack):
        raise InvalidError("a SenML Pack is an array of records", "$")
    bases = _Bases()
    records = []
    for index, entry in enumerate(pack):
        field = f"$[{index}]"
        fields = _fields(entry, content_format == SENML_CBOR, field)
        bases.take(fields, field)
        if all(label.startswith("b") for label in fields):
            continue  # it only sets what follows, as in the example of §5.1.7
        records.append(bases.resolve(fields, field, now))
    return records


class _Bases:
    """The base fields in force (§4.1), each up to the next record that has it."""

    def __init__(self) -> None:
        self._name = ""
        self._unit: Optional[str] = None
        self._time = 0.0
        self._value: Optional[float] = None
        self._sum: Optional[float] = None
        self._version: Optional[int] = None

    def take(self, fields: dict[str, Any], field: str) -> None:
        self._name = fields.get("bn", self._name)
        self._unit = fields.get("bu", self._unit)
        self._time = fields.get("bt", self._time)
        self._value = fields.get("bv", self._value)
        self._sum = fields.get("bs", self._sum)
        version = fields.get("bver", self._version if self._version is not None else VERSION)
        if version > VERSION:
            raise InvalidError(f"SenML version {version} is not known, only up to {VERSION}", f"{field}.bver")
        if self._version is not None and version != self._version:
            raise InvalidError("all records of a Pack have the same version (RFC 8428 §4.4)", f"{field}.bver")
        self._version = version

    def resolve(self, fields: dict[str, Any], field: str, now: Optional[float]) -> Record:
        name = self._name + fields.get("n", "")
        if not _NAME.match(name):
            text = f"{name[:80]!r} is no name: use letters, digits, '-', ':', '.', '/' and '_', a letter or digit first"
            raise InvalidError(text, f"{field}.n")
        values = [label for label in _VALUES if label in fields]
        if len(values) > 1:
            raise InvalidError(f"a record has one value, not {' and '.join(values)}", f"{field}.{values[1]}")
        value: Optional[Value] = fields[values[0]] if values else self._value
        if values == ["v"]:
            value = _added(self._value, fields["v"], f"{field}.v")
        total = _added(self._sum, fields.get("s"), f"{field}.s")
        if value is None and total is None:
            raise InvalidError("a record needs a value, or a sum", f"{field}.v")
        time = _added(self._time, fields.get("t"), f"{field}.t") or 0.0
        if now is not None and time < ABSOLUTE:
            time += now
        return Record(name, value, time, fields.get("u", self._unit), total, fields.get("ut"))


def _fields(entry: dict[Any, Any], is_cbor: bool, field: str) -> dict[str, Any]:
    """The fields of an entry by their labels, each of its type; fields that nobody knows are left out."""
    fields: dict[str, Any] = {}
    for key, value in entry.items():
        label = _LABEL_OF.get(key) if is_cbor else key if key in _CBOR_LABELS else None
        where = f"{field}.{str(label or key)[:80]}"
        if label is None:
            if isinstance(key, str) and key.endswith("_"):  # §4.4
                raise InvalidError(f"the field {key[:80]!r} has to be understood, and is not", where)
        elif label == "vd":
            fields[label] = _octets(value, is_cbor, where)
        elif label == "vb":
            fields[label] = _typed(value, isinstance(value, bool), "true or false", where)
        elif label in _TEXTS:
            fields[label] = _typed(value, isinstance(value, str), "a text", where)
        elif label in _NUMBERS:
            fields[label] = _typed(value, _is_finite(value), "a number", where)
        else:
            is_version = isinstance(value, int) and not isinstance(value, bool) and value > 0
            fields[label] = _typed(value, is_version, "a positive integer", where)
    return fields


def _added(base: Optional[float], number: Optional[float], where: str) -> Optional[float]:
    """The sum of what is there, None if neither is (§4.5.4)."""
    if base is None or number is None:
        return number if base is None else base
    total = float(base) + float(number)
    return float(_typed(total, math.isfinite(total), "a sum that is a number", where))


def _typed(value: Any, is_right: bool, wanted: str, where: str) -> Any:
    if not is_right:
        raise InvalidError(f"expected {wanted}", where)
    return value


def _is_finite(value: Any) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond what a double holds
        return False


def _octets(value: Any, is_cbor: bool, where: str) -> bytes:
    if is_cbor:
        octets: bytes = _typed(value, isinstance(value, bytes), "a byte string", where)
        return octets
    text: str = _typed(value, isinstance(value, str), "base64 text", where)
    try:
        if not _BASE64.match(text):
            raise ValueError
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:  # binascii.Error is one
        raise InvalidError("expected base64 with the URL-safe alphabet, without padding", where) from None


def _check(record: Record) -> None:
    if not _NAME.match(record.name):
        raise UsageError(f"{record.name[:80]!r} is no name of SenML's (RFC 8428 §4.5.1)")
    if record.value is None and record.sum is None:
        raise UsageError(f"{record.name}: a record needs a value, or a sum")


def _value(value: Value, is_cbor: bool) -> tuple[str, Any]:
    if isinstance(value, bool):
        return "vb", value
    if isinstance(value, str):
        return "vs", value
    if isinstance(value, bytes):
        return "vd", value if is_cbor else base64.urlsafe_b64encode(value).rstrip(b"=").decode()
    return "v", _number(value)


def _number(value: float) -> float:
    """A number in its shortest form; raises UsageError for what is none."""
    if not math.isfinite(value):
        raise UsageError(f"SenML has no number {value}")
    return int(value) if abs(value) < 1 << 53 and value == int(value) else value
