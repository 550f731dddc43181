"""The authority: what it signs, what `openssl` reads in it, what it keeps secret, what a crash leaves."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from fleet.errors import FormatError, NotFoundError, UsageError
from fleet.host import files
from fleet.model.roles import NODE, OPERATOR, ROLES, SERVER, Principal
from fleet.pki import authority as authority_module
from fleet.pki.authority import create_authority, is_locked, open_authority
from fleet.pki.certificates import DAY, LIFETIMES, SKEW, decode_der, encode_pem
from fleet.pki.keys import make_key
from fleet.pki.names import hosts_of, principal_in
from fleet.pki.requests import checked_key, load_request
from tests.fleet.pki.certified import AT, an_authority, openssl

PUMP = Principal(NODE, "pump-7")


@pytest.mark.parametrize("role", ROLES)
def test_a_certificate_names_its_holder_and_openssl_verifies_it(tmp_path: Path, role: str) -> None:
    authority = an_authority(tmp_path)
    principal = Principal(role, "ännä 7" if role != NODE else "pump-7")

    issued = authority.issue(principal, make_key().public_key(), AT, "test")

    certificate = decode_der(issued.der)
    assert principal_in(certificate) == principal
    (tmp_path / "it.pem").write_bytes(encode_pem(certificate))
    purpose = "sslserver" if role == SERVER else "sslclient"
    checked = ["verify", "-attime", str(AT), "-CAfile", str(tmp_path / "ca.pem")]
    assert "OK" in openssl(*checked, "-purpose", purpose, str(tmp_path / "it.pem"))
    other = "sslclient" if role == SERVER else "sslserver"
    refused = "certificate purpose" in openssl(*checked, "-purpose", other, str(tmp_path / "it.pem"), check=False)
    assert refused == (role != NODE), "a node is asked as well"
    text = openssl("x509", "-in", str(tmp_path / "it.pem"), "-noout", "-text")
    for wanted in (f"URI:{principal.uri}", "ecdsa-with-SHA256", "CA:FALSE", "prime256v1"):
        assert wanted in text
    assert key_usage(text) == "Digital Signature"
    authoritys = openssl("x509", "-in", str(tmp_path / "ca.pem"), "-noout", "-text")
    assert key_usage(authoritys) == "Certificate Sign, CRL Sign"
    assert "CA:TRUE, pathlen:0" in authoritys
    for critical, names in (
        (True, ("Basic Constraints", "Key Usage")),
        (False, ("Extended Key Usage", "Alternative Name")),
    ):
        assert all((f"{name}: critical" in text) is critical for name in names)
    serial = openssl("x509", "-in", str(tmp_path / "it.pem"), "-noout", "-serial").strip()
    assert serial == f"serial={issued.serial}"
    assert int(issued.serial, 16).bit_length() > 96
    authority.close()


def key_usage(text: str) -> str:
    lines = [line.strip() for line in text.splitlines()]
    return lines[lines.index("X509v3 Key Usage: critical") + 1]


def test_validity_allows_for_late_clocks_and_ends_with_the_authority(tmp_path: Path) -> None:
    authority = create_authority(str(tmp_path), "Test CA", AT, lifetime=100 * DAY)

    first = authority.issue(PUMP, make_key().public_key(), AT + DAY, "test")
    last = authority.issue(PUMP, make_key().public_key(), AT + 50 * DAY, "test")

    assert (first.not_before, first.not_after) == (AT + DAY - SKEW, AT + DAY + LIFETIMES[NODE])
    assert last.not_after == AT + 100 * DAY
    with pytest.raises(UsageError, match="not valid"):
        authority.issue(PUMP, make_key().public_key(), AT + 101 * DAY, "test")
    with pytest.raises(UsageError, match="clock"):
        authority.issue(PUMP, make_key().public_key(), 0, "test")
    authority.close()


def test_a_servers_certificate_has_its_names_and_addresses(tmp_path: Path) -> None:
    authority = an_authority(tmp_path)
    hosts = ("fleet.example.com", "192.0.2.7", "2001:db8::1")

    issued = authority.issue(Principal(SERVER, "server"), make_key().public_key(), AT, "test", hosts=hosts)

    certificate = decode_der(issued.der)
    assert hosts_of(certificate) == hosts
    text = openssl("x509", "-noout", "-text", data=encode_pem(certificate))
    assert "DNS:fleet.example.com, IP Address:192.0.2.7, IP Address:2001:DB8:0:0:0:0:0:1" in text
    for wrong in ("no name", "-x", "x" * 300):
        with pytest.raises(UsageError, match="neither"):
            authority.issue(Principal(SERVER, "s"), make_key().public_key(), AT, "test", hosts=(wrong,))
    with pytest.raises(UsageError, match="only a server"):
        authority.issue(PUMP, make_key().public_key(), AT, "test", hosts=("x",))
    authority.close()


def test_what_is_revoked_is_refused_by_openssl_too(tmp_path: Path) -> None:
    authority = an_authority(tmp_path)
    for name in ("kept", "gone"):
        issued = authority.issue(Principal(NODE, name), make_key().public_key(), AT, "test")
        (tmp_path / f"{name}.pem").write_bytes(encode_pem(decode_der(issued.der)))

    revoked = authority.revoke(authority.find(NODE, "gone", AT), AT + 5, "key-compromise")

    assert [one.name for one in revoked] == ["gone"]
    both = tmp_path / "both.pem"
    both.write_bytes((tmp_path / "ca.pem").read_bytes() + (tmp_path / "crl.pem").read_bytes())
    checked = ["verify", "-attime", str(AT + 10), "-crl_check", "-CAfile", str(both)]
    assert "OK" in openssl(*checked, str(tmp_path / "kept.pem"))
    assert "certificate revoked" in openssl(*checked, str(tmp_path / "gone.pem"), check=False)
    text = openssl("crl", "-in", str(tmp_path / "crl.pem"), "-noout", "-text", "-CAfile", str(tmp_path / "ca.pem"))
    for wanted in ("verify OK", "Key Compromise", revoked[0].serial, "CRL Number"):
        assert wanted in text
    authority.close()


def test_revoking_goes_by_name_and_number_and_once(tmp_path: Path) -> None:
    authority = an_authority(tmp_path)
    two = [authority.issue(PUMP, make_key().public_key(), AT, "test") for _ in range(2)]
    old = authority.issue(PUMP, make_key().public_key(), AT, "test", lifetime=5)

    spelled = ":".join(two[0].serial[i : i + 2] for i in range(0, len(two[0].serial), 2)).lower()
    by_number = authority.revoke(authority.find("serial", spelled, AT + 10), AT + 10)
    by_name = authority.revoke(authority.find(NODE, "pump-7", AT + 11), AT + 11, "superseded")

    assert [one.serial for one in by_number] == [two[0].serial]
    assert [one.serial for one in by_name] == [two[1].serial]
    assert authority.revoke(authority.find(NODE, "pump-7", AT + 12), AT + 12) == []
    assert {one.serial: one.state(AT + 12) for one in authority.register.of(PUMP)} == {
        two[0].serial: "revoked",
        two[1].serial: "revoked",
        old.serial: "expired",
    }
    with pytest.raises(UsageError, match="is no reason"):
        authority.revoke(two, AT + 12, "whim")
    for role, name in ((NODE, "nobody"), ("serial", "ABCD"), (OPERATOR, "pump-7")):
        with pytest.raises(NotFoundError):
            authority.find(role, name, AT)
    authority.close()


def test_the_key_is_of_nobody_else_and_encrypted_if_asked(tmp_path: Path) -> None:
    os.umask(0)
    try:
        an_authority(tmp_path / "open").close()
        an_authority(tmp_path / "closed", passphrase=b"correct horse").close()
    finally:
        os.umask(0o022)

    for directory in (tmp_path / "open", tmp_path / "closed"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        for name in ("ca.key", "register.sqlite"):
            assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600
    assert b"ENCRYPTED" in (tmp_path / "closed" / "ca.key").read_bytes()
    assert is_locked(str(tmp_path / "closed"))
    assert not is_locked(str(tmp_path / "open"))
    locked = open_authority(str(tmp_path / "closed"))
    with pytest.raises(UsageError, match="locked"):
        locked.issue(PUMP, make_key().public_key(), AT, "test")
    with pytest.raises(UsageError, match="passphrase is wrong") as wrong:
        open_authority(str(tmp_path / "closed"), b"battery staple")
    assert "battery" not in str(wrong.value)
    unlocked = open_authority(str(tmp_path / "closed"), b"correct horse")
    unlocked.issue(PUMP, make_key().public_key(), AT, "test")
    for one in (locked, unlocked):
        one.close()


def test_an_authority_is_never_made_over_another(tmp_path: Path) -> None:
    an_authority(tmp_path).close()
    before = (tmp_path / "ca.key").read_bytes()

    with pytest.raises(UsageError, match="already"):
        an_authority(tmp_path)

    assert (tmp_path / "ca.key").read_bytes() == before


def test_a_crash_while_it_is_made_leaves_none_or_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The power fails at each rename, one after the other, until it does not fail any more."""

    class PowerCut(BaseException):
        pass

    for cut in range(10):
        left = [cut]

        def replace_file(path: str, data: bytes, mode: int = 0o666, left: list[int] = left) -> None:
            if not left[0]:
                raise PowerCut
            left[0] -= 1
            files.replace_file(path, data, mode)

        monkeypatch.setattr(authority_module, "replace_file", replace_file)
        directory = str(tmp_path / str(cut))
        try:
            create_authority(directory, "Test CA", AT).close()
            assert cut == 3, "a write that was not cut"
            break
        except PowerCut:
            pass
        monkeypatch.setattr(authority_module, "replace_file", files.replace_file)
        with pytest.raises(UsageError, match="no authority"):
            open_authority(directory)
        create_authority(directory, "Test CA", AT).close()
    opened = open_authority(directory)
    assert opened.key is not None
    opened.close()


def test_a_missing_or_damaged_authority_is_told_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fleet pki init"):
        open_authority(str(tmp_path))
    an_authority(tmp_path / "x").close()
    an_authority(tmp_path / "y").close()
    (tmp_path / "x" / "ca.key").write_bytes((tmp_path / "y" / "ca.key").read_bytes())
    with pytest.raises(UsageError, match="is not the key of"):
        open_authority(str(tmp_path / "x"))
    (tmp_path / "x" / "ca.key").write_text("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n")
    with pytest.raises(UsageError, match="damaged") as damaged:
        open_authority(str(tmp_path / "x"))
    assert "c2VjcmV0" not in str(damaged.value)
    (tmp_path / "x" / "ca.pem").write_text("nothing")
    with pytest.raises(UsageError, match="cannot be read"):
        open_authority(str(tmp_path / "x"))


@pytest.mark.parametrize("form", ["PEM", "DER"])
def test_requests_made_by_openssl_are_read(tmp_path: Path, form: str) -> None:
    key = tmp_path / "key.pem"
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(key))
    made = str(tmp_path / "request")
    openssl("req", "-new", "-key", str(key), "-subj", "/CN=alice", "-outform", form, "-out", made)

    checked_key(load_request(Path(made).read_bytes()))


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        (["ecparam", "-name", "secp384r1", "-genkey", "-noout"], "P-256"),
        (["genrsa", "1024"], "P-256"),
        (["genpkey", "-algorithm", "ed25519"], "P-256"),
    ],
)
def test_requests_for_other_keys_are_refused(tmp_path: Path, kind: list[str], complaint: str) -> None:
    key = tmp_path / "key.pem"
    key.write_text(openssl(*kind))
    made = str(tmp_path / "request")
    openssl("req", "-new", "-key", str(key), "-subj", "/CN=alice", "-out", made)

    with pytest.raises(FormatError, match=complaint):
        checked_key(load_request(Path(made).read_bytes()))
