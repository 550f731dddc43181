"""Series of what nodes measure: the running hour in memory, packed, and the rows that are made of it.

Health reports are averaged over five minutes; an hour of a node, twelve such means of each metric, is one row, and its
summary (least, mean and greatest value) another. Once an hour all rows are handed over to the ledger together. They
are samples: a crash costs the hour that was running, a stop does not. Five-minute means are kept for two days, hourly
summaries for thirty.

A value is an integer of tenths, of a percent or of a degree, in 16 bits. A node's running hour is 137 bytes in arrays
shared by all, so that a hundred thousand nodes cost little memory and nothing to the garbage collector, and a report a
few additions. The rows are made only when they are written, in the ledger's thread; by the time the next hour has a
first mean to keep, five minutes later, those of the last one are gone.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Sequence
from typing import Callable, NamedTuple, Optional

from fleet.model.health import HealthReport

FIVE_MINUTES, HOUR = 300, 3600
RESOLUTIONS = (FIVE_MINUTES, HOUR)
"""Seconds that one point of a series stands for."""
KEPT_HOURS = {FIVE_MINUTES: 48, HOUR: 720}
METRICS = ("cpu", "memory", "disk", "temperature")
HOUR_MS = HOUR * 1000

_SLOT_MS = FIVE_MINUTES * 1000
_SLOTS = HOUR // FIVE_MINUTES
_WIDTH = len(METRICS)
_ROW = _SLOTS * _WIDTH
_ABSENT, _GREATEST = -32768, 32767
_LIMIT = 3276.0  # what can be held in tenths; anything beyond is no percentage, nor a temperature of a thing that runs
_MOST_REPORTS = 0xFFFF  # in five minutes; further ones are not counted
_RUNNING = struct.Struct("<" + _WIDTH * "iHhh")
_NOTHING = _RUNNING.pack(*(_WIDTH * (0, 0, _GREATEST, _ABSENT)))
_MEANS = struct.Struct(f"<{_ROW}h")
_SUMMARY = struct.Struct(f"<{3 * _WIDTH}h{_WIDTH}B")


Values = tuple[Optional[float], Optional[float], Optional[float], Optional[float]]
"""A report's, in the order of METRICS."""


class Point(NamedTuple):
    """A metric over one interval that began at `at` (UTC seconds): its mean, and in an hour its least and greatest."""

    at: int
    metric: str
    mean: float
    least: Optional[float] = None
    greatest: Optional[float] = None


class HourRow(NamedTuple):
    """One node's hour: its five-minute means and its summary, packed."""

    means: bytes
    summary: bytes

    def body(self, resolution: int) -> bytes:
        """What is kept of it at this resolution."""
        return self.means if resolution == FIVE_MINUTES else self.summary


class Hour:
    """What all nodes measured in one hour; `number` counts hours since 1970. Each node has a row."""

    def __init__(self, number: int, rows: int) -> None:
        self.number = number
        self._means = array("h")  # of slots that are over; none before the first one is
        self._slots = bytearray(rows)
        self._running = bytearray(
            _NOTHING * rows
        )  # by metric: sum and count of the slot, least and greatest of the hour

    def add_row(self) -> None:
        """A further row at the end."""
        if self._means:
            self._means.extend((_ABSENT,) * _ROW)
        self._slots.append(0)
        self._running += _NOTHING

    def clear_row(self, row: int) -> None:
        """Forget what was recorded in a row."""
        if self._means:
            self._means[row * _ROW : (row + 1) * _ROW] = array("h", (_ABSENT,)) * _ROW
        self._slots[row] = 0
        self._running[row * _RUNNING.size : (row + 1) * _RUNNING.size] = _NOTHING

    def record(self, row: int, slot: int, values: Values) -> None:
        """Take one report's values, in the order of METRICS; a clock set back does not reopen a closed slot."""
        if slot > self._slots[row]:
            self._close_slot(row)
            self._slots[row] = slot
        place = row * _RUNNING.size
        # Spelt out for each metric, and without calls: a loop over them would double what a report costs.
        (
            cpu, cpu_count, cpu_least, cpu_greatest, memory, memory_count, memory_least, memory_greatest,
            disk, disk_count, disk_least, disk_greatest, heat, heat_count, heat_least, heat_greatest,
        ) = _RUNNING.unpack_from(self._running, place)  # fmt: skip
        of_cpu, of_memory, of_disk, of_heat = values
        if of_cpu is not None and -_LIMIT <= of_cpu <= _LIMIT and cpu_count < _MOST_REPORTS:
            tenths = round(of_cpu * 10)
            cpu += tenths
            cpu_count += 1
            if tenths < cpu_least:  # noqa: PLR1730
                cpu_least = tenths
            if tenths > cpu_greatest:  # noqa: PLR1730
                cpu_greatest = tenths
        if of_memory is not None and -_LIMIT <= of_memory <= _LIMIT and memory_count < _MOST_REPORTS:
            tenths = round(of_memory * 10)
            memory += tenths
            memory_count += 1
            if tenths < memory_least:  # noqa: PLR1730
                memory_least = tenths
            if tenths > memory_greatest:  # noqa: PLR1730
                memory_greatest = tenths
        if of_disk is not None and -_LIMIT <= of_disk <= _LIMIT and disk_count < _MOST_REPORTS:
            tenths = round(of_disk * 10)
            disk += tenths
            disk_count += 1
            if tenths < disk_least:  # noqa: PLR1730
                disk_least = tenths
            if tenths > disk_greatest:  # noqa: PLR1730
                disk_greatest = tenths
        if of_heat is not None and -_LIMIT <= of_heat <= _LIMIT and heat_count < _MOST_REPORTS:
            tenths = round(of_heat * 10)
            heat += tenths
            heat_count += 1
            if tenths < heat_least:  # noqa: PLR1730
                heat_least = tenths
            if tenths > heat_greatest:  # noqa: PLR1730
                heat_greatest = tenths
        _RUNNING.pack_into(
            self._running, place,
            cpu, cpu_count, cpu_least, cpu_greatest, memory, memory_count, memory_least, memory_greatest,
            disk, disk_count, disk_least, disk_greatest, heat, heat_count, heat_least, heat_greatest,
        )  # fmt: skip

    def _close_slot(self, row: int) -> None:
        if not self._means:
            self._means = array("h", (_ABSENT,)) * (len(self._slots) * _ROW)
        slot = row * _ROW + self._slots[row] * _WIDTH
        place = row * _RUNNING.size
        running = list(_RUNNING.unpack_from(self._running, place))
        for index in range(0, 4 * _WIDTH, 4):
            count = running[index + 1]
            if count:
                self._means[slot] = round(running[index] / count)
                running[index] = running[index + 1] = 0
            slot += 1
        _RUNNING.pack_into(self._running, place, *running)

    def packed(self, row: int) -> Optional[HourRow]:
        """A row as it stands, None where nothing was recorded."""
        means = self._means[row * _ROW : (row + 1) * _ROW] or array("h", (_ABSENT,)) * _ROW
        slot = self._slots[row] * _WIDTH
        running = _RUNNING.unpack_from(self._running, row * _RUNNING.size)
        summary: list[int] = []
        numbers: list[int] = []
        for metric in range(_WIDTH):
            sum_, count, least, greatest = running[4 * metric : 4 * metric + 4]
            if count:
                means[slot + metric] = round(sum_ / count)
            column = means[metric::_WIDTH]
            absent = column.count(_ABSENT)
            present = _SLOTS - absent
            numbers.append(present)
            if present:
                mean = round((sum(column) - absent * _ABSENT) / present)
                summary += (least, mean, greatest)
            else:
                summary += (_ABSENT, _ABSENT, _ABSENT)
        return HourRow(_MEANS.pack(*means), _SUMMARY.pack(*summary, *numbers)) if any(numbers) else None


class HourBlock:
    """An hour that is over, or what there was of one at a stop: what the ledger is handed. It does not change."""

    def __init__(self, hour: Hour, node_ids: Sequence[str]) -> None:
        self._hour = hour
        self._node_ids = node_ids  # by row; "" where a node was removed

    @property
    def number(self) -> int:
        """The hour, counted since 1970."""
        return self._hour.number

    def rows(self) -> Iterator[tuple[str, HourRow]]:
        """The rows of all nodes that reported, by node id."""
        for row in sorted(range(len(self._node_ids)), key=self._node_ids.__getitem__):
            packed = self._hour.packed(row) if self._node_ids[row] else None
            if packed is not None:
                yield self._node_ids[row], packed

    def row(self, node_id: str) -> Optional[HourRow]:
        """One node's row."""
        return self._hour.packed(self._node_ids.index(node_id)) if node_id in self._node_ids else None


class Series:
    """The running hour of all registered nodes; `hand_over` takes each hour that is over."""

    def __init__(self, hand_over: Callable[[HourBlock], None]) -> None:
        self._hand_over = hand_over
        self._node_ids: list[str] = []  # by row; "" where a node was removed
        self._free: list[int] = []
        self._hour = Hour(0, 0)
        self._is_empty = True  # nothing was recorded in this hour

    def add(self, node_id: str) -> int:
        """A node is registered; returns its row."""
        if self._free:
            row = self._free.pop()
            self._node_ids[row] = node_id
            return row
        self._node_ids.append(node_id)
        self._hour.add_row()
        return len(self._node_ids) - 1

    def remove(self, row: int) -> None:
        """A node is not registered any more; its running hour is forgotten."""
        self._node_ids[row] = ""
        self._hour.clear_row(row)
        self._free.append(row)

    def node_ids(self) -> tuple[str, ...]:
        """Return the ids of the nodes by row; an empty one where a node was removed."""
        return tuple(self._node_ids)

    def record(self, row: int, at: int, report: HealthReport) -> None:
        """Take the values of a node's report that came at `at` (UTC ms)."""
        number, within = divmod(at, HOUR_MS)
        if number != self._hour.number:
            if number == self._hour.number - 1:
                within = 0  # the clock was set back a little: the hour that is over stays so
            else:
                self._begin(number)
        self._is_empty = False
        self._hour.record(
            row,
            within // _SLOT_MS,
            (report.cpu_percent, report.memory_percent, report.disk_percent, report.temperature),
        )

    def advance(self, at: int) -> None:
        """Hand over the running hour if it is over at `at` (UTC ms)."""
        if self._hour.number < at // HOUR_MS:
            self._begin(at // HOUR_MS)

    def next_due_at(self) -> Optional[int]:
        """When (UTC ms) the running hour is over; None while there is nothing to hand over."""
        return None if self._is_empty else (self._hour.number + 1) * HOUR_MS

    def close(self) -> None:
        """Hand over what there is of the running hour, before a stop."""
        self._begin(self._hour.number)

    def running(self, row: int) -> Optional[tuple[int, HourRow]]:
        """The running hour and what a node has of it so far; None where that is nothing."""
        packed = self._hour.packed(row)
        return None if packed is None else (self._hour.number, packed)

    def _begin(self, number: int) -> None:
        over = self._hour
        self._hour = Hour(number, len(self._node_ids))
        if not self._is_empty:
            self._is_empty = True
            self._hand_over(HourBlock(over, self.node_ids()))


def merge(resolution: int, first: bytes, second: bytes) -> bytes:
    """Two packed parts of the same hour of a node as one: a server was restarted within it."""
    if resolution == FIVE_MINUTES:
        pairs = zip(_MEANS.unpack(first), _MEANS.unpack(second))
        return _MEANS.pack(*(_mean(one, 1, other, 1) for one, other in pairs))
    before, after = _SUMMARY.unpack(first), _SUMMARY.unpack(second)
    summary: list[int] = []
    numbers: list[int] = []
    for metric in range(_WIDTH):
        least, mean, greatest = before[3 * metric : 3 * metric + 3]
        other_least, other_mean, other_greatest = after[3 * metric : 3 * metric + 3]
        count, other_count = before[3 * _WIDTH + metric], after[3 * _WIDTH + metric]
        if not other_count:
            summary += (least, mean, greatest)
        elif not count:
            summary += (other_least, other_mean, other_greatest)
        else:
            mean = _mean(mean, count, other_mean, other_count)
            summary += (min(least, other_least), mean, max(greatest, other_greatest))
        numbers.append(min(count + other_count, _SLOTS))
    return _SUMMARY.pack(*summary, *numbers)


def _mean(one: int, weight: int, other: int, other_weight: int) -> int:
    """The mean of two means by their weights; one that is absent has none."""
    if other == _ABSENT:
        return one
    if one == _ABSENT:
        return other
    return round((one * weight + other * other_weight) / (weight + other_weight))


def points(resolution: int, hour: int, body: bytes) -> Iterator[Point]:
    """What a packed row holds, by time and then in the order of METRICS; percent and degrees."""
    start = hour * HOUR
    if resolution == FIVE_MINUTES:
        for index, mean in enumerate(_MEANS.unpack(body)):
            if mean != _ABSENT:
                slot, metric = divmod(index, _WIDTH)
                yield Point(start + slot * FIVE_MINUTES, METRICS[metric], mean / 10)
        return
    summary = _SUMMARY.unpack(body)
    for metric, name in enumerate(METRICS):
        least, mean, greatest = summary[3 * metric : 3 * metric + 3]
        if mean != _ABSENT:
            yield Point(start, name, mean / 10, least / 10, greatest / 10)
