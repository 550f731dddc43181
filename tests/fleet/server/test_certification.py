"""A running server's certificates: its own, renewed in time; what others revoke; the list that is kept fresh."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import pytest

from fleet.errors import UsageError
from fleet.model.roles import NODE, Principal
from fleet.pki.authority import open_authority
from fleet.pki.certificates import DAY
from fleet.pki.keys import make_key
from fleet.pki.names import hosts_of
from fleet.server.certification import UPKEEP_INTERVAL, WATCH_INTERVAL, Certification, issue_server, server_keystore
from tests.fleet.pki.certified import AT, an_authority, openssl

PUMP = Principal(NODE, "pump-7")


class Running:
    """A certification with a clock that is moved by hand."""

    def __init__(self, data: Path, passphrase: Optional[bytes] = None) -> None:
        self.now = 1000.0
        self.is_trusted = True
        self.changes = 0
        self.revoked: list[str] = []
        self.certification = Certification(str(data), self, passphrase=passphrase, revoked=self._revoked)
        self.certification.changed = self._changed

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return AT - 1000 + self.now

    def is_wall_trusted(self) -> bool:
        return self.is_trusted

    def _changed(self) -> None:
        self.changes += 1

    def _revoked(self, serials: Sequence[str]) -> None:
        self.revoked += serials

    def run_for(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            due = self.certification.next_due_at()
            if due > end:
                break
            self.now = max(self.now, due)
            self.certification.run(self.now)
        self.now = end

    def skip(self, seconds: float) -> None:
        self.now += seconds
        self.certification.run(self.now)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    an_authority(tmp_path / "pki").close()
    return tmp_path


def test_a_server_that_has_no_certificate_makes_one_when_it_starts(data: Path) -> None:
    running = Running(data)

    assert running.certification.holder.principal == ("server", "server")
    serial = running.certification.holder.certificate.serial_number
    running.certification.close()
    again = Running(data)
    assert again.certification.holder.certificate.serial_number == serial
    again.certification.close()
    identity = str(data / "pki" / "server" / "identity.pem")
    assert "OK" in openssl("verify", "-attime", str(AT), "-CAfile", str(data / "pki" / "ca.pem"), identity)


def test_it_renews_its_certificate_at_two_thirds_with_the_same_hosts(data: Path) -> None:
    authority = open_authority(str(data / "pki"))
    issue_server(authority, server_keystore(str(data / "pki")), AT, ("fleet.example.com", "192.0.2.7"))
    authority.close()
    running = Running(data)
    first = running.certification.holder.certificate
    running.run_for(60)

    running.skip(240 * DAY)
    assert running.changes == 0
    running.skip(34 * DAY)

    assert running.changes == 1
    second = running.certification.holder.certificate
    assert second.serial_number != first.serial_number
    assert second.public_key() != first.public_key()
    assert hosts_of(second) == ("fleet.example.com", "192.0.2.7")
    running.certification.close()


def test_what_another_process_revokes_is_known_within_half_a_second(data: Path) -> None:
    running = Running(data)
    pki = open_authority(str(data / "pki"))
    with pki.register.change():
        issued = pki.issue(PUMP, make_key().public_key(), AT, "test")
    running.run_for(5)
    assert running.revoked == []

    pki.revoke([issued], AT + 6)
    running.run_for(WATCH_INTERVAL)

    assert running.revoked == [issued.serial]
    assert running.certification.is_revoked(issued.serial)
    running.run_for(5)
    assert running.revoked == [issued.serial]  # told once
    pki.close()
    running.certification.close()
    again = Running(data)
    assert again.certification.revoked == {issued.serial}
    again.certification.close()


def test_what_the_server_itself_revokes_is_known_as_well(data: Path) -> None:
    running = Running(data)
    registrar, authority = running.certification.registrar, running.certification.authority
    with authority.register.change():
        issued = authority.issue(PUMP, make_key().public_key(), AT, "test")
    running.run_for(1)

    registrar.authority.revoke([issued], AT + 2)
    running.run_for(WATCH_INTERVAL)

    assert running.revoked == [issued.serial]
    running.certification.close()


def test_the_list_is_signed_anew_each_day(data: Path) -> None:
    running = Running(data)
    numbers = []
    for _ in range(3):
        running.run_for(DAY)
        text = openssl("crl", "-in", str(data / "pki" / "crl.pem"), "-noout", "-crlnumber")
        numbers.append(int(text.partition("=")[2], 16))

    assert numbers[2] - numbers[0] == 2
    running.certification.close()


def test_a_locked_authority_serves_with_the_certificate_that_there_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = an_authority(tmp_path / "pki", passphrase=b"secret")
    with pytest.raises(UsageError, match="locked"):
        Running(tmp_path)
    issue_server(authority, server_keystore(str(tmp_path / "pki")), AT)
    authority.close()

    running = Running(tmp_path)
    running.run_for(UPKEEP_INTERVAL)

    assert "locked" in caplog.text
    running.certification.close()
    unlocked = Running(tmp_path, b"secret")
    unlocked.run_for(UPKEEP_INTERVAL)
    unlocked.certification.close()


def test_a_server_that_does_not_know_the_time_dates_nothing(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    running = Running(data)
    before: Any = (data / "pki" / "crl.pem").read_bytes()
    running.is_trusted = False

    running.run_for(2 * DAY)

    assert (data / "pki" / "crl.pem").read_bytes() == before
    running.certification.close()


def test_a_full_disk_is_told_and_tried_again(
    data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    running = Running(data)

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fleet.pki.authority.replace_file", fail)
    running.run_for(10)
    assert "No space left" in caplog.text
    monkeypatch.undo()
    before = (data / "pki" / "crl.pem").read_bytes()

    running.run_for(UPKEEP_INTERVAL)

    assert (data / "pki" / "crl.pem").read_bytes() != before
    running.certification.close()
