"""The register: whole after a crash at any point, right under several processes, private."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fleet.errors import UsageError
from fleet.model.roles import NODE, Principal
from fleet.pki.authority import open_authority
from fleet.pki.keys import make_key
from fleet.pki.register import Register
from fleet.pki.registrar import Registrar
from tests.fleet.pki.certified import AT, a_request, an_authority

ROOT = Path(__file__).parents[3]
PUMP = Principal(NODE, "pump-7")

# Enrols by a token; the process ends, as by SIGKILL, before its n-th statement to the database.
CUT = """
import os, sys
sys.path.insert(0, sys.argv[1])
from fleet.pki.authority import open_authority
from fleet.pki.registrar import Registrar
from fleet.pki.requests import read_request
directory, left, der, at = sys.argv[2], [int(sys.argv[3])], bytes.fromhex(sys.argv[4]), int(sys.argv[5])
authority = open_authority(directory)
def count(statement):
    if not left[0]:
        os._exit(9)
    left[0] -= 1
authority.register._database.set_trace_callback(count)
Registrar(authority).enrol(read_request(der), "192.0.2.1", at)
"""

# Makes and revokes certificates while others do the same.
BUSY = """
import sys
sys.path.insert(0, sys.argv[1])
from fleet.pki.authority import open_authority
from fleet.pki.keys import make_key
from fleet.model.roles import Principal
authority, who, at = open_authority(sys.argv[2]), sys.argv[3], int(sys.argv[4])
key = make_key().public_key()
for number in range(25):
    with authority.register.change():
        issued = authority.issue(Principal("node", f"{who}-{number}"), key, at, who)
    if number % 5 == 0:
        authority.revoke([issued], at)
"""


def test_a_crash_while_a_token_is_spent_leaves_all_of_it_or_nothing(tmp_path: Path) -> None:
    lives = []
    for cut in range(60):
        directory = tmp_path / str(cut)
        authority = an_authority(directory)
        token, stored = authority.make_token(AT, lifetime=600)
        authority.close()
        request = a_request("pump-7", token)
        arguments = [str(ROOT), str(directory), str(cut), request.der.hex(), str(AT)]
        ended = subprocess.run([sys.executable, "-c", CUT, *arguments], check=False, capture_output=True)
        assert ended.returncode in (0, 9), ended.stderr

        reopened = open_authority(str(directory))
        found = reopened.register.token(stored.hash)
        assert found is not None
        certificates = reopened.register.of(PUMP)
        assert (found.uses_left, len(certificates)) in ((1, 0), (0, 1))
        lives.append(len(certificates))
        # Whichever it was, the same request leads to one certificate.
        issued = Registrar(reopened).enrol(request, "192.0.2.1", AT)
        assert reopened.register.of(PUMP) == [issued]
        reopened.close()
        if ended.returncode == 0:
            break
    assert lives[-1] == 1
    assert lives.index(1) >= 5, "nothing was cut"


def test_several_processes_write_it_at_the_same_time(tmp_path: Path) -> None:
    authority = an_authority(tmp_path)
    arguments = [[sys.executable, "-c", BUSY, str(ROOT), str(tmp_path), who, str(AT)] for who in ("server", "pki")]

    processes = [subprocess.Popen(each, stderr=subprocess.PIPE) for each in arguments]
    for process in processes:
        _, error = process.communicate(timeout=60)
        assert process.returncode == 0, error

    assert len(authority.register.certificates()) == 50
    assert len(authority.register.revoked(AT)) == 10
    text = subprocess.run(
        ["openssl", "crl", "-in", str(tmp_path / "crl.pem"), "-noout", "-text"], check=True, capture_output=True
    ).stdout.decode()
    assert text.count("Serial Number:") == 10
    authority.close()


def test_it_tells_that_something_changed_whoever_did_it(tmp_path: Path) -> None:
    ours, theirs = an_authority(tmp_path), open_authority(str(tmp_path))
    assert ours.register.is_changed()
    assert not ours.register.is_changed()

    ours.make_token(AT)
    assert ours.register.is_changed()
    assert not ours.register.is_changed()
    theirs.make_token(AT)
    assert ours.register.is_changed()
    assert not ours.register.is_changed()

    for one in (ours, theirs):
        one.close()


def test_what_was_committed_is_on_the_disk(tmp_path: Path) -> None:
    authority = an_authority(tmp_path)
    assert authority.register._database.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    authority.close()


def test_what_is_raised_within_a_change_undoes_it(tmp_path: Path) -> None:
    authority = an_authority(tmp_path)

    with pytest.raises(RuntimeError), authority.register.change():
        authority.issue(PUMP, make_key().public_key(), AT, "test")
        raise RuntimeError

    assert authority.register.certificates() == []
    authority.close()


def test_a_register_that_another_keeps_or_that_is_damaged_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleet.pki.register._PATIENCE", 0.0)
    path = str(tmp_path / "register.sqlite")
    register = Register(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(UsageError, match="locked"), register.change():
        pass
    other.execute("ROLLBACK")
    with register.change():
        pass
    other.execute("PRAGMA user_version = 99")
    other.close()
    register.close()
    with pytest.raises(UsageError, match="newer version"):
        Register(path)
    for name in os.listdir(tmp_path):
        os.remove(tmp_path / name)
    Path(path).write_bytes(b"this is no database at all" * 100)
    with pytest.raises(UsageError, match="cannot be opened"):
        Register(path)


def test_tokens_that_are_no_use_are_forgotten(tmp_path: Path) -> None:
    authority = an_authority(tmp_path)
    _, used = authority.make_token(AT)
    authority.register.spend(used.hash)
    _, old = authority.make_token(AT, lifetime=5)
    _, good = authority.make_token(AT + 10)

    assert authority.register.tokens(AT + 10) == [good]
    assert authority.register.token(used.hash) is None
    assert authority.register.token(old.hash) is None
    authority.register.withdraw([good.hash])
    assert authority.register.tokens(AT + 10) == []
    authority.close()


@pytest.mark.parametrize(
    "limits", [{"uses": 0}, {"uses": 1_000_000}, {"lifetime": 0}, {"lifetime": 1e9}, {"uses": 2, "node_id": "a"}]
)
def test_tokens_without_sense_are_not_made(tmp_path: Path, limits: dict[str, object]) -> None:
    authority = an_authority(tmp_path)
    with pytest.raises(UsageError):
        authority.make_token(AT, **limits)  # type: ignore[arg-type]
    authority.close()


def test_neither_it_nor_its_journals_can_be_read_by_others_or_hold_a_token(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        authority = an_authority(tmp_path)
        token, _ = authority.make_token(AT)
    finally:
        os.umask(before)

    for name in os.listdir(tmp_path):
        if name.startswith("register"):
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600, name
        assert token.encode() not in (tmp_path / name).read_bytes()
    authority.close()
