"""Series of measurements as lines of text: a table with a curve each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from fleet.cli.output import table
from fleet.model.senml import CELSIUS, RATIO, Record

COLUMNS = 48
_BLOCKS = "▁▂▃▄▅▆▇█"
_PLAIN = "_.-~=+*#"  # for terminals without those


def metrics_table(records: Sequence[Record], node_id: str, hours: int, encoding: Optional[str]) -> str:
    """The series of a node over the last `hours`, up to the newest of the records, for an output in this encoding."""
    steps = _BLOCKS if (encoding or "").lower().startswith("utf") else _PLAIN
    series: dict[str, dict[float, float]] = {}
    units: dict[str, Optional[str]] = {}
    prefix = f"node:{node_id}:"
    for record in records:
        if isinstance(record.value, (int, float)):
            name = record.name[len(prefix) :] if record.name.startswith(prefix) else record.name
            series.setdefault(name, {})[record.time] = record.value
            units[name] = record.unit
    if not series:
        return "no measurements yet"
    end = max(max(values) for values in series.values())
    rows = []
    for name, values in series.items():
        if name.endswith((":min", ":max")):
            continue
        # Curves of percentages are of 0 to 100, so that they can be compared; others of what there was.
        bounds = (0.0, 1.0) if units[name] == RATIO else (min(values.values()), max(values.values()))
        shown = (
            values[max(values)],
            min(series.get(f"{name}:min", values).values()),
            sum(values.values()) / len(values),
            max(series.get(f"{name}:max", values).values()),
        )
        curve = _curve(_columns(values, end, hours * 3600.0), *bounds, steps)
        rows.append((name, *(_text(value, units[name]) for value in shown), curve))
    return table(("METRIC", ">LAST", ">MIN", ">MEAN", ">MAX", f"{hours} H"), rows)


def _columns(values: dict[float, float], end: float, length: float) -> list[Optional[float]]:
    """The means of equal parts of the time, None where there was nothing."""
    columns: list[list[float]] = [[] for _ in range(COLUMNS)]
    for time, value in values.items():
        columns[max(0, COLUMNS - 1 - int((end - time) * COLUMNS / length))].append(value)
    return [sum(column) / len(column) if column else None for column in columns]


def _curve(columns: Sequence[Optional[float]], least: float, greatest: float, steps: str) -> str:
    height = (greatest - least) or 1.0
    return "".join(
        " " if value is None else steps[min(max(int((value - least) / height * len(steps)), 0), len(steps) - 1)]
        for value in columns
    ).rstrip()


def _text(value: float, unit: Optional[str]) -> str:
    if unit == RATIO:
        return f"{value * 100:.1f} %"
    return f"{value:.1f} {'°C' if unit == CELSIUS else unit or ''}".rstrip()
