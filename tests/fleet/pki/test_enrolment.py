"""A device on its way to a certificate: killed at any point, told to wait, lied to; and when it renews."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path
from typing import Any, Optional

import pytest

from fleet.errors import FleetError, NetworkError, PeerError, RefusedError, UsageError
from fleet.host import files
from fleet.model.roles import NODE, Principal
from fleet.pki import keystore as keystore_module
from fleet.pki.certificates import DAY, decode_der, encode_bundle, encode_der, make_certificate
from fleet.pki.enrolment import EstRequest, Exchange, Retry, enrol, read_authority, read_certificate
from fleet.pki.keys import grouped, make_key, parse_fingerprint
from fleet.pki.keystore import Holder, Keystore
from fleet.pki.registrar import Registrar, Wait
from fleet.pki.renewal import KnownTime, renewal_due_at
from fleet.pki.requests import read_request
from minicoap.codec import codes
from minicoap.codec.contentformats import PKCS7_CERTS_ONLY, PKIX_CERTIFICATE
from minicoap.core.request import Response
from tests.fleet.pki.certified import AT, an_authority

PUMP = Principal(NODE, "pump-7")


class Fleet:
    """A registrar that is asked without a network; `heard` are the requests."""

    def __init__(self, directory: Path) -> None:
        self.authority = an_authority(directory)
        self.registrar = Registrar(self.authority)
        self.trust = [self.authority.certificate]
        self.heard: list[bytes] = []
        self.failures: list[Exception] = []

    async def exchange(self, request: EstRequest) -> Response:
        self.heard.append(request.payload)
        if self.failures:
            raise self.failures.pop()
        try:
            decision = self.registrar.enrol(read_request(request.payload), "192.0.2.1", AT)
        except RefusedError as error:
            return Response(error.code, str(error).encode())
        if isinstance(decision, Wait):
            return Response(codes.SERVICE_UNAVAILABLE, decision.reason.encode(), max_age=decision.seconds)
        return Response(codes.CHANGED, decision.der, PKIX_CERTIFICATE)


def enrolled(
    fleet: Fleet,
    keystore: Keystore,
    token: Optional[str] = None,
    waits: Any = None,
    exchange: Optional[Exchange] = None,
) -> Holder:
    async def nobody_waits(key: str, retry: Retry) -> None:
        raise AssertionError(retry)

    return asyncio.run(
        enrol(exchange or fleet.exchange, keystore, PUMP, fleet.trust, token=token, waits=waits or nobody_waits)
    )


def test_a_token_leads_to_a_key_and_certificate_that_nobody_else_can_read(tmp_path: Path) -> None:
    fleet, keystore = Fleet(tmp_path / "pki"), Keystore(str(tmp_path / "node"))
    token, _ = fleet.authority.make_token(AT)

    before = os.umask(0)
    try:
        holder = enrolled(fleet, keystore, token)
    finally:
        os.umask(before)

    assert holder.principal == PUMP
    assert keystore.holder() is not None
    assert sorted(os.listdir(tmp_path / "node")) == ["identity.pem", "trust.pem"]
    assert stat.S_IMODE((tmp_path / "node").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "node" / "identity.pem").stat().st_mode) == 0o600
    assert token.encode() not in (tmp_path / "node" / "identity.pem").read_bytes()


def test_a_device_that_waits_repeats_the_very_same_request_and_survives_a_restart(tmp_path: Path) -> None:
    fleet, keystore = Fleet(tmp_path / "pki"), Keystore(str(tmp_path / "node"))
    shown: list[str] = []

    class Killed(Exception):
        pass

    async def waits(key: str, retry: Retry) -> None:
        shown.append(key)
        if len(shown) == 2:
            raise Killed
        if len(shown) == 3:
            fleet.registrar.accept("pump-7", AT, "alice", key=key)

    with pytest.raises(Killed):
        enrolled(fleet, keystore, waits=waits)
    assert keystore.holder() is None
    assert stat.S_IMODE((tmp_path / "node" / "request.pem").stat().st_mode) == 0o600
    holder = enrolled(fleet, Keystore(str(tmp_path / "node")), waits=waits)

    assert len(set(fleet.heard)) == 1  # RFC 9148 §4.7: the identical request
    assert len(fleet.heard) == 4
    assert set(shown) == {read_request(fleet.heard[0]).key}
    assert holder.principal == PUMP


def test_no_answer_ends_it_only_before_it_was_told_to_wait(tmp_path: Path) -> None:
    fleet, keystore = Fleet(tmp_path / "pki"), Keystore(str(tmp_path / "node"))
    fleet.failures = [NetworkError("no answer")]
    with pytest.raises(NetworkError):
        enrolled(fleet, keystore)
    reasons = []

    async def waits(key: str, retry: Retry) -> None:
        reasons.append(retry.reason)
        if len(reasons) == 1:
            fleet.failures = [NetworkError("no answer")]
        else:
            fleet.registrar.accept("pump-7", AT, "alice")

    assert enrolled(fleet, keystore, waits=waits).principal == PUMP
    assert reasons[1] == "no answer"


def test_another_token_is_used_with_the_same_key(tmp_path: Path) -> None:
    fleet, keystore = Fleet(tmp_path / "pki"), Keystore(str(tmp_path / "node"))
    with pytest.raises(RefusedError, match="unknown"):
        enrolled(fleet, keystore, "mistyped")

    enrolled(fleet, keystore, fleet.authority.make_token(AT)[0])

    assert len({read_request(der).key for der in fleet.heard}) == 1


def test_a_certificate_for_others_or_by_others_is_not_kept(tmp_path: Path) -> None:
    fleet, keystore = Fleet(tmp_path / "pki"), Keystore(str(tmp_path / "node"))
    stranger = an_authority(tmp_path / "stranger")
    key = stranger.key
    assert key is not None
    assert fleet.authority.key is not None

    def answering(authority: Any, authority_key: Any, principal: Principal, own: bool) -> Exchange:
        async def exchange(request: EstRequest) -> Response:
            public_key = read_request(request.payload).public_key if own else make_key().public_key()
            made = make_certificate(authority.certificate, authority_key, principal, public_key, AT, DAY)
            return Response(codes.CHANGED, encode_der(made), PKIX_CERTIFICATE)

        return exchange

    for exchange, complaint in (
        (answering(stranger, key, PUMP, True), "not by the fleet's authority"),
        (answering(fleet.authority, fleet.authority.key, Principal(NODE, "other"), True), "not in our name"),
        (answering(fleet.authority, fleet.authority.key, PUMP, False), "not for our key"),
    ):
        with pytest.raises(PeerError, match=complaint):
            enrolled(fleet, keystore, exchange=exchange)
        assert keystore.holder() is None


@pytest.mark.parametrize(
    "response",
    [
        Response(codes.CHANGED, b"", PKIX_CERTIFICATE),
        Response(codes.CHANGED, b"\x30\x03\x02\x01\x01", PKIX_CERTIFICATE),
        Response(codes.CHANGED, b"junk", PKCS7_CERTS_ONLY),
        Response(codes.FORBIDDEN, b"no"),
        Response(codes.INTERNAL_SERVER_ERROR),
    ],
)
def test_answers_that_are_none_are_told_as_such(response: Response) -> None:
    with pytest.raises(FleetError):
        read_certificate(response)
    with pytest.raises(FleetError):
        read_authority(response)


def test_the_wait_is_what_the_server_says_within_reason() -> None:
    for said, meant in ((0, 1), (15, 15), (10**9, 3600), (None, 60)):
        answer = read_certificate(Response(codes.SERVICE_UNAVAILABLE, b"later", max_age=said))
        assert answer == Retry(meant, "later")


def test_only_the_authority_with_the_right_fingerprint_is_believed(tmp_path: Path) -> None:
    ours, other = an_authority(tmp_path / "ours"), an_authority(tmp_path / "other")
    told = Response(codes.CONTENT, encode_bundle([other.certificate, ours.certificate]), PKCS7_CERTS_ONLY)

    spelled = parse_fingerprint(f" {grouped(ours.fingerprint)} ")
    assert read_authority(told, spelled) == [ours.certificate]
    with pytest.raises(PeerError, match="not the fleet that was meant"):
        read_authority(told, "00" * 32)
    for wrong in ("", "abc", "zz" * 32, "00" * 31):
        with pytest.raises(UsageError, match="64 hex digits"):
            parse_fingerprint(wrong)


def test_a_crash_at_each_write_leaves_a_device_that_enrols(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class PowerCut(BaseException):
        pass

    fleet = Fleet(tmp_path / "pki")
    cuts = 0
    for cut in range(10):
        left = [cut]

        def replace_file(path: str, data: bytes, mode: int = 0o666, left: list[int] = left) -> None:
            if not left[0]:
                raise PowerCut
            left[0] -= 1
            files.replace_file(path, data, mode)

        directory = str(tmp_path / str(cut))
        token, _ = fleet.authority.make_token(AT)
        principal = Principal(NODE, f"n{cut}")

        async def nobody_waits(key: str, retry: Retry) -> None:
            raise AssertionError(retry)

        def run(principal: Principal = principal, token: str = token, directory: str = directory) -> Holder:
            keystore = Keystore(directory)
            return asyncio.run(enrol(fleet.exchange, keystore, principal, fleet.trust, token=token, waits=nobody_waits))

        monkeypatch.setattr(keystore_module, "replace_file", replace_file)
        try:
            run()
        except PowerCut:
            cuts += 1
        else:
            break
        monkeypatch.setattr(keystore_module, "replace_file", files.replace_file)
        assert run().principal == principal
        assert len(fleet.authority.register.of(principal)) == 1
    assert cuts == 3


def test_files_that_are_damaged_are_told_without_what_is_in_them(tmp_path: Path) -> None:
    fleet, keystore = Fleet(tmp_path / "pki"), Keystore(str(tmp_path / "node"))
    enrolled(fleet, keystore, fleet.authority.make_token(AT)[0])
    good = (tmp_path / "node" / "identity.pem").read_text()
    other = Keystore(str(tmp_path / "other"))
    key = make_key()
    other.put(key, fleet.authority.certificate, fleet.trust)

    for damaged in (
        good.replace("A", "B", 3),
        good[: good.index("-----BEGIN CERTIFICATE")],
        "nonsense",
        (tmp_path / "other" / "identity.pem").read_text(),
    ):
        (tmp_path / "node" / "identity.pem").write_text(damaged)
        with pytest.raises(UsageError) as told:
            keystore.holder()
        assert good[40:60] not in str(told.value)


# Renewal and time


class ManualClock:
    def __init__(self, wall: float, is_trusted: bool = True) -> None:
        self.at, self.now, self.is_trusted = wall, 0.0, is_trusted

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.at + self.now

    def is_wall_trusted(self) -> bool:
        return self.is_trusted


def test_renewal_is_due_at_two_thirds_and_spread(tmp_path: Path) -> None:
    authority = an_authority(tmp_path)
    due = set()
    for _ in range(20):
        issued = authority.issue(PUMP, make_key().public_key(), AT, "test", lifetime=90 * DAY)
        holder = Holder(PUMP, make_key(), decode_der(issued.der), ())
        life = issued.not_after - issued.not_before
        due.add(renewal_due_at(holder))
        assert issued.not_before + life * 2 / 3 <= renewal_due_at(holder) <= issued.not_before + life * 3 / 4
    assert max(due) - min(due) > DAY
    authority.close()


def test_a_device_without_a_clock_refuses_what_has_ended_before_what_it_knows() -> None:
    time = KnownTime(ManualClock(1000.0, is_trusted=False), floor=AT)

    assert time.now() is None
    assert time.is_valid(AT + 5 * DAY, AT + 10 * DAY)  # it cannot know better
    assert not time.is_valid(AT - 10 * DAY, AT - 1)

    time.told(AT + 20 * DAY)
    assert time.now() == AT + 20 * DAY
    assert not time.is_valid(AT + 5 * DAY, AT + 10 * DAY)
    assert time.is_valid(AT + 5 * DAY, AT + 21 * DAY)
    time.told(AT - DAY)  # a server that is wrong does not make what is expired good again
    assert time.floor == AT + 20 * DAY


def test_a_clock_that_is_set_decides_with_an_hours_allowance() -> None:
    time = KnownTime(ManualClock(AT))

    assert time.now() == AT
    assert time.is_valid(AT + 3000, AT + DAY)
    assert not time.is_valid(AT + 4000, AT + DAY)
    assert not time.is_valid(AT - DAY, AT - 1)
    time.passed(AT + 10 * DAY)  # a clock that is behind what has passed is not right
    assert time.now() is None


def test_a_damaged_request_is_told_with_the_remedy(tmp_path: Path) -> None:
    keystore = Keystore(str(tmp_path))
    keystore.begin(PUMP)
    whole = (tmp_path / "request.pem").read_text()
    start = whole.index("-----BEGIN CERTIFICATE REQUEST")

    for damaged in (whole[:start], whole[:start] + whole[start:].replace("A", "B"), "", whole[start:]):
        (tmp_path / "request.pem").write_text(damaged)
        with pytest.raises(UsageError, match=r"request\.pem"):
            keystore.begin(PUMP)
