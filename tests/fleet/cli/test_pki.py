"""`fleet pki`: the ceremonies, tried right and wrong, and that no secret shows."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from fleet.cli.main import main
from fleet.pki.authority import open_authority
from fleet.pki.certificates import decode_pem
from fleet.pki.keystore import Keystore
from fleet.pki.names import hosts_of, principal_in
from tests.fleet.cli.conftest import Ran
from tests.fleet.pki.certified import openssl

Pki = Callable[..., Ran]


@pytest.fixture
def pki(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Pki:
    """Run `fleet pki` with a data directory of its own; a word that begins with "-" ends up as it is."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Ran:
        try:
            code = main(["pki", *arguments[:1], "--data-dir", "data", *arguments[1:]])
        except SystemExit as ended:
            code = int(ended.code or 0)
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return run


@pytest.fixture
def authority(pki: Pki) -> Pki:
    assert pki("init", "--host", "fleet.example.com").code == 0
    return pki


def test_init_makes_an_authority_and_the_servers_certificate(pki: Pki, tmp_path: Path) -> None:
    ran = pki("init", "--name", "Pumps", "--host", "fleet.example.com", "--host", "192.0.2.7")

    assert ran.code == 0
    fingerprint = openssl("x509", "-in", "data/pki/ca.pem", "-noout", "-fingerprint", "-sha256")
    assert ran.out.splitlines()[1] == fingerprint.strip().partition("=")[2]
    assert pki("fingerprint").out.strip() == ran.out.splitlines()[1]
    (server,) = decode_pem((tmp_path / "data/pki/server/identity.pem").read_bytes())
    assert hosts_of(server) == ("fleet.example.com", "192.0.2.7")
    assert "OK" in openssl("verify", "-CAfile", "data/pki/ca.pem", "data/pki/server/identity.pem")
    assert pki("init").code == 2
    assert stat.S_IMODE(os.stat("data/pki/ca.key").st_mode) == 0o600


def test_issue_makes_a_directory_to_carry_away(authority: Pki) -> None:
    ran = authority("issue", "operator", "alice", "--lifetime", "30d")

    assert ran.code == 0
    assert "operator-alice" in ran.out
    holder = Keystore("operator-alice").holder()
    assert holder is not None
    assert holder.principal == ("operator", "alice")
    assert holder.not_after - holder.not_before == 30 * 86400 + 3600
    assert stat.S_IMODE(os.stat("operator-alice/identity.pem").st_mode) == 0o600
    again = authority("issue", "operator", "alice")
    assert (again.code, "exists already" in again.err) == (2, True)
    assert authority("issue", "operator", "alice", "--out", "second").code == 0


def test_issue_certifies_a_key_made_elsewhere(authority: Pki) -> None:
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key.pem")
    openssl("req", "-new", "-key", "key.pem", "-subj", "/CN=somebody else", "-out", "request.pem")

    ran = authority("issue", "viewer", "bob", "--csr", "request.pem")

    assert ran.code == 0
    (certificate,) = decode_pem(ran.out.encode())
    assert principal_in(certificate) == ("viewer", "bob")  # as the authority says, and not the request
    assert openssl("pkey", "-in", "key.pem", "-pubout") == openssl("x509", "-pubkey", "-noout", data=ran.out.encode())
    assert not os.path.exists("viewer-bob")
    for file, complaint in (("none.pem", "cannot be read"), ("key.pem", "no certification request")):
        wrong = authority("issue", "viewer", "bob", "--csr", file)
        assert (wrong.code, complaint in wrong.err) == (2, True)


def test_list_shows_what_is_good_until_when(authority: Pki) -> None:
    authority("issue", "node", "pump-7")
    authority("issue", "operator", "alice")
    authority("revoke", "operator", "alice", "--reason", "cessation-of-operation")

    lines = authority("list").out.splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["ROLE", "NAME", "STATE"],
        ["node", "pump-7", "valid"],
        ["operator", "alice", "revoked"],
        ["server", "server", "valid"],
    ]
    assert "cessation-of-operation" in lines[2]
    listed = json.loads(authority("list", "--json", "--state", "valid").out)["certificates"]
    assert [one["name"] for one in listed] == ["pump-7", "server"]
    assert authority("list", "--role", "viewer").out == "no certificates\n"


def test_revoke_goes_by_name_or_number_and_writes_the_list(authority: Pki) -> None:
    authority("issue", "node", "pump-7")
    serial = json.loads(authority("list", "--json", "--role", "node").out)["certificates"][0]["serial"]

    ran = authority("revoke", "serial", serial.lower(), "--json")

    assert json.loads(ran.out)["revoked"][0]["state"] == "revoked"
    assert serial in openssl("crl", "-in", "data/pki/crl.pem", "-noout", "-text")
    assert authority("export", "crl").out == Path("data/pki/crl.pem").read_text()
    assert authority("export", "ca").out == Path("data/pki/ca.pem").read_text()
    assert "nothing to do" in authority("revoke", "node", "pump-7").out
    unknown = authority("revoke", "node", "nobody")
    assert (unknown.code, "no certificate was ever issued to node 'nobody'" in unknown.err) == (1, True)


def test_a_token_is_told_once_and_withdrawn_by_its_label(authority: Pki, tmp_path: Path) -> None:
    ran = authority("token", "--count", "20", "--lifetime", "8h")

    token = ran.out.strip()
    assert len(token) == 26
    assert "20 nodes" in ran.err
    listed = authority("tokens")
    assert token not in listed.out
    label = listed.out.splitlines()[1].split()[0]
    assert authority("tokens", "--withdraw", "00000000").code == 2
    assert authority("tokens", "--withdraw", label).code == 0
    assert authority("tokens").out == "no tokens\n"
    for file in Path("data").rglob("*"):
        assert file.is_dir() or token.encode() not in file.read_bytes()


def test_a_token_for_a_file_is_its_owners_alone_and_replaces_nothing(authority: Pki, tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        made = authority("token", "--out", "token")
    finally:
        os.umask(umask)

    assert (made.code, made.out) == (0, "token\n")
    assert stat.S_IMODE(os.stat("token").st_mode) == 0o600
    token = Path("token").read_text().strip()
    assert len(token) == 26 and token not in made.err
    again = authority("replace", "pump-7", "--out", "token")
    assert (again.code, "is there already" in again.err) == (2, True)
    assert Path("token").read_text().strip() == token
    nowhere = authority("token", "--out", "missing/token")
    assert (nowhere.code, "--out missing/token: No such file" in nowhere.err) == (2, True)


def test_replace_revokes_and_makes_a_token_for_that_node(authority: Pki) -> None:
    authority("issue", "node", "pump-7")
    again = authority("issue", "node", "pump-7", "--out", "again")
    assert (again.code, "fleet pki replace pump-7" in again.err) == (2, True)

    told = json.loads(authority("replace", "pump-7", "--json").out)

    assert (told["node_id"], told["revoked"], len(told["token"])) == ("pump-7", 1, 26)
    assert "revoked (superseded)" in authority("list", "--role", "node").out
    assert authority("replace", "nobody").code == 1


@pytest.mark.parametrize("source", ["file", "environment", "terminal"])
def test_a_passphrase_comes_from_a_file_the_environment_or_the_terminal(
    pki: Pki, source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "words").write_text("correct horse\n")
    options = ["--passphrase-file", str(tmp_path / "words")] if source == "file" else []
    if source == "environment":
        monkeypatch.setenv("FLEET_CA_PASSPHRASE", "correct horse")
    if source == "terminal":
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
        monkeypatch.setattr("getpass.getpass", lambda prompt: "correct horse")

    assert pki("init", "--encrypt", *options).code == 0
    assert pki("issue", "node", "pump-7", *options).code == 0

    assert b"ENCRYPTED" in Path("data/pki/ca.key").read_bytes()
    monkeypatch.setattr("getpass.getpass", lambda prompt: "")
    monkeypatch.delenv("FLEET_CA_PASSPHRASE", raising=False)
    assert pki("token").code == 0  # for which the key is not needed
    locked = pki("issue", "node", "pump-8")
    assert (locked.code, "locked: give its passphrase" in locked.err) == (2, True)
    (tmp_path / "wrong").write_text("battery staple")
    wrong = pki("issue", "node", "pump-8", "--passphrase-file", str(tmp_path / "wrong"))
    assert (wrong.code, "the passphrase is wrong" in wrong.err, "battery" in wrong.err) == (2, True, False)


def test_two_passphrases_that_differ_make_nothing(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = iter(["one", "two"])
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("getpass.getpass", lambda prompt: next(typed))

    assert "not the same" in pki("init", "--encrypt").err
    assert not os.path.exists("data/pki/ca.pem")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("conjure",), "invalid choice"),
        (("issue", "king", "arthur"), "invalid choice"),
        (("issue", "node", "../etc"), "is no node id"),
        (("issue", "operator", ""), "is no name"),
        (("issue", "operator", "x" * 65), "is no name"),
        (("issue", "node", "pump-7", "--lifetime", "forever"), "write 90s, 30m, 8h or 7d"),
        (("issue", "node", "pump-7", "--lifetime", "0"), "write 90s"),
        (("issue", "node", "pump-7", "--host", "x"), "only a server"),
        (("issue", "server", "two", "--host", "no name"), "neither a DNS name nor an address"),
        (("revoke", "node"), "required"),
        (("revoke", "node", "pump-7", "--reason", "whim"), "invalid choice"),
        (("token", "--count", "0"), "1 to 100000 nodes"),
        (("token", "--count", "many"), "invalid int"),
        (("token", "--lifetime", "9999d"), "90 days"),
        (("token", "--node", "a", "--count", "2"), "good once"),
        (("token", "--node", "..."), "is no node id"),
        (("export", "key"), "invalid choice"),
    ],
)
def test_wrong_use_is_told_with_the_remedy(authority: Pki, arguments: tuple[str, ...], complaint: str) -> None:
    ran = authority(*arguments)

    assert (ran.code, ran.out) == (2, "")
    assert complaint in ran.err, ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    "arguments", [("list",), ("token",), ("issue", "node", "a"), ("fingerprint",), ("export", "ca")]
)
def test_without_an_authority_it_says_how_to_make_one(pki: Pki, arguments: tuple[str, ...]) -> None:
    ran = pki(*arguments)

    assert (ran.code, "fleet pki init" in ran.err) == (2, True)


def test_init_that_cannot_write_or_was_named_badly_says_so(
    pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "--name" in pki("init", "--name", "x" * 100).err
    assert "neither" in pki("init", "--host", "no name").err
    (tmp_path / "file").write_text("")
    assert main(["pki", "init", "--data-dir", str(tmp_path / "file")]) == 2
    monkeypatch.setattr("fleet.host.clock.time.time", lambda: 5.0)
    assert "clock is not set" in pki("init").err
    monkeypatch.undo()


def test_a_missing_package_is_told_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(name: str, package: Optional[str] = None) -> Any:
        raise ModuleNotFoundError("no", name="cryptography.x509")

    monkeypatch.setattr("fleet.cli.main.importlib.import_module", fail)

    assert main(["pki", "list"]) == 2
    assert capsys.readouterr().err == (
        "fleet pki: the package cryptography is missing; pip install 'minicoap[fleet,dtls]'\n"
    )


def test_the_register_is_the_one_that_a_server_uses(authority: Pki) -> None:
    serving = open_authority("data/pki")
    assert not serving.register.is_changed()

    authority("issue", "node", "pump-7")

    assert serving.register.is_changed()
    serving.close()
