"""The journal gives back what was made durable, whatever a crash or a full disk did to its end."""

from __future__ import annotations

import errno
import logging
import struct
import zlib
from pathlib import Path
from typing import Optional

import msgspec
import pytest

from fleet.agent.journal import RESERVE_BYTES, Journal
from fleet.agent.machine import Accepted, CancelAsked, Entered, Progressed, Record
from fleet.host.files import SystemFiles
from tests.fleet.agent.simdisk import SimDisk

PATH = "data/journal"
RECORDS: tuple[Record, ...] = (
    Accepted("job-1", 2, msgspec.Raw(b'{"name":"app","packages":["app==1.2"]}')),
    Entered("downloading", 1, 65536),
    Progressed(1, 4096, "boot-1"),
    CancelAsked(),
    Entered("cancelling", 1, 131072, "hash_mismatch", "zuletzt: \u00fcber den Rand\n"),
)


def written(disk: SimDisk, records: tuple[Record, ...] = RECORDS) -> Journal:
    journal = Journal(disk, PATH)
    journal.open()
    for record in records:
        journal.append(record, sync=True)
    return journal


def reopened(disk: SimDisk) -> list[Record]:
    return Journal(disk, PATH).open()


class SmallDisk(SimDisk):
    """A disk with so many bytes left."""

    def __init__(self, space: int) -> None:
        super().__init__()
        self.space = space

    def write_at(self, path: str, offset: int, data: bytes) -> None:
        fits = data[: self.space - sum(map(len, self.written.values()))]
        super().write_at(path, offset, fits)
        if len(fits) < len(data):
            raise OSError(errno.ENOSPC, "no space left on device")

    def replace(self, path: str, data: bytes) -> None:
        if sum(map(len, self.written.values())) + len(data) > self.space:
            raise OSError(errno.ENOSPC, "no space left on device")
        super().replace(path, data)


def test_what_was_appended_comes_back_in_order() -> None:
    disk = SimDisk()
    written(disk)
    assert reopened(disk) == list(RECORDS)


def test_it_works_on_real_files(tmp_path: Path) -> None:
    files = SystemFiles()
    path = str(tmp_path / "journal")
    journal = Journal(files, path)
    assert journal.open() == []
    for record in RECORDS:
        journal.append(record, sync=True)
    assert Journal(SystemFiles(), path).open() == list(RECORDS)
    journal.rewrite(RECORDS[:1])
    journal.append(RECORDS[1], sync=False)
    files.close()
    assert Journal(SystemFiles(), path).open() == list(RECORDS[:2])


def test_a_tail_torn_at_any_byte_costs_the_last_record_only_and_later_appends_are_kept() -> None:
    disk = SimDisk()
    written(disk)
    whole = disk.read(PATH)
    disk = SimDisk()
    written(disk, RECORDS[:-1])
    shorter = len(disk.read(PATH))
    for size in range(shorter, len(whole)):
        disk.written[PATH] = disk.durable[PATH] = whole[:size]
        journal = Journal(disk, PATH)
        assert journal.open() == list(RECORDS[:-1])
        journal.append(CancelAsked(), sync=True)
        assert reopened(disk) == [*RECORDS[:-1], CancelAsked()]


def test_zeros_behind_the_last_record_are_no_records() -> None:
    disk = SimDisk()
    written(disk)
    disk.append(PATH, bytes(4096))
    assert reopened(disk) == list(RECORDS)
    assert set(disk.durable[PATH][-8:]) != {0}


def test_a_damaged_byte_anywhere_drops_its_record_and_all_behind_it(caplog: pytest.LogCaptureFixture) -> None:
    disk = SimDisk()
    ends = [0]
    journal = Journal(disk, PATH)
    journal.open()
    for record in RECORDS:
        journal.append(record, sync=True)
        ends.append(len(disk.read(PATH)))
    whole = disk.read(PATH)
    for at in range(len(whole)):
        disk.written[PATH] = whole[:at] + bytes([whole[at] ^ 0x01]) + whole[at + 1 :]
        intact = sum(end <= at for end in ends) - 1
        assert reopened(disk) == list(RECORDS[:intact]), at
    disk.written[PATH] = whole[:20] + b"\xff" + whole[21:]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert reopened(disk) == []
    assert f"damaged at byte 0, {len(whole)} bytes" in caplog.text


def test_a_torn_tail_is_nothing_to_warn_of(caplog: pytest.LogCaptureFixture) -> None:
    disk = SimDisk()
    written(disk)
    disk.truncate(PATH, len(disk.read(PATH)) - 1)
    with caplog.at_level(logging.WARNING):
        assert reopened(disk) == list(RECORDS[:-1])
    assert caplog.text == ""


def test_a_record_of_a_kind_from_the_future_ends_what_can_be_read() -> None:
    disk = SimDisk()
    written(disk, RECORDS[:2])
    payload = b'{"type":"unheard_of"}'
    length = struct.pack("<I", len(payload))
    disk.append(PATH, length + struct.pack("<I", zlib.crc32(payload, zlib.crc32(length))) + payload)
    assert reopened(disk) == list(RECORDS[:2])


@pytest.mark.parametrize("sync", [True, False])
def test_only_a_synced_append_is_durable_and_takes_those_before_it_along(sync: bool) -> None:
    disk = SimDisk()
    journal = Journal(disk, PATH)
    journal.open()
    journal.append(RECORDS[0], sync=False)
    journal.append(RECORDS[1], sync=sync)
    assert reopened(disk.after_power_cut()[0]) == (list(RECORDS[:2]) if sync else [])


def test_what_a_killed_process_left_is_made_durable_when_it_is_read() -> None:
    disk = SimDisk()
    journal = Journal(disk, PATH)
    journal.open()
    journal.append(RECORDS[0], sync=False)
    assert reopened(disk) == [RECORDS[0]]
    assert reopened(disk.after_power_cut()[0]) == [RECORDS[0]]


def test_rewriting_replaces_everything_at_once() -> None:
    disk = SimDisk()
    journal = written(disk)
    journal.rewrite(RECORDS[:2])
    journal.append(RECORDS[2], sync=True)
    assert reopened(disk.after_power_cut()[0]) == list(RECORDS[:3])
    journal.rewrite(())
    assert reopened(disk) == []
    assert disk.size(PATH) == 0


def test_a_full_disk_takes_the_reserve_and_rewriting_makes_it_anew() -> None:
    disk = SmallDisk(RESERVE_BYTES + 100)
    journal = written(disk)
    assert disk.size(PATH + ".reserve") is None
    assert reopened(disk) == list(RECORDS)
    disk.space += 1000
    journal.rewrite(())
    assert disk.size(PATH + ".reserve") == RESERVE_BYTES


def test_without_a_reserve_a_full_disk_is_the_callers_error_and_nothing_is_half_written() -> None:
    disk = SmallDisk(150)
    journal = Journal(disk, PATH)
    journal.open()
    failed_at: Optional[int] = None
    for number, record in enumerate(RECORDS):
        try:
            journal.append(record, sync=True)
        except OSError as error:
            assert error.errno == errno.ENOSPC
            failed_at = number
            break
    assert failed_at is not None
    assert reopened(disk) == list(RECORDS[:failed_at])
    disk.space = 10_000
    journal.append(RECORDS[failed_at], sync=True)
    assert reopened(disk) == list(RECORDS[: failed_at + 1])


def test_a_record_whose_fsync_failed_is_not_in_the_journal() -> None:
    disk = SimDisk()
    journal = written(disk, RECORDS[:1])
    disk.failing = 2  # the append is the first call, the fsync the second
    with pytest.raises(OSError, match="no space"):
        journal.append(RECORDS[1], sync=True)
    journal.append(RECORDS[2], sync=True)
    assert reopened(disk) == [RECORDS[0], RECORDS[2]]
