"""CoAP over DTLS between two machines: who is let in, what is kept, and what becomes of a session."""

from __future__ import annotations

import gc
import re
import shutil
import subprocess
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL

from minicoap.codec import codes
from minicoap.codec.options import NO_RESPONSE
from minicoap.core.request import Response, SecurePath
from minicoap.core.resource import Resource, Site
from minicoap.errors import RequestTimeout, SecurityError, UsageError
from minicoap.security.association import ASKED_IN_VAIN
from minicoap.security.credentials import Credentials
from minicoap.security.dtls import MTU, Dtls
from minicoap.security.lost import NOTICE, NOTICES_A_SECOND
from minicoap.security.sessions import SecureMachine, SecurityLimits
from minicoap.shell.entropy import SystemEntropy
from tests.minicoap.security.certificates import DAY, Authority
from tests.minicoap.security.pair import (
    AUTHORITY,
    CLIENT,
    HOST,
    NODE_PAIR,
    SERVER,
    SERVER_PAIR,
    SecurePair,
    client_credentials,
    server_credentials,
)

OTHER = Authority("another authority")
MIB = 1 << 20


def hello(host: str = HOST) -> bytes:
    """Return the first datagram of a client."""
    (datagram,) = Dtls(client_credentials(), time.time).connect(host).datagrams()
    return datagram


def test_a_request_comes_with_the_identity_that_the_certificate_proves() -> None:
    pair = SecurePair()
    pair.get()
    assert pair.outcomes == ["x509 n1 urn:fleet:node:n1"]
    (association,) = pair.server._associations.values()
    assert association.path.identity.expires_at == pytest.approx(time.time() + 30 * DAY, abs=3600)


def test_a_client_without_a_certificate_is_nobody() -> None:
    pair = SecurePair(client=client_credentials(None))
    pair.get()
    assert pair.outcomes == ["none "]
    assert [type(path) for path in pair.server._associations] == [SecurePath]


def test_the_first_suite_that_both_have_is_chacha_whose_records_are_29_bytes_longer() -> None:
    pair = SecurePair()
    pair.get()
    pair.sent.clear()
    pair.get()
    (association,) = pair.client._associations.values()
    assert association.channel.session.connection.get_cipher_name() == "ECDHE-ECDSA-CHACHA20-POLY1305"
    assert len(pair.sent[0][0]) == 29 + 4 + 4 + 7  # header, token, Uri-Path


@pytest.mark.parametrize(
    ("server", "client", "reason"),
    [
        ({"require_certificate": True}, {"pair": None}, "handshake failure"),
        ({}, {"pair": OTHER.issue("n1")}, "unknown ca"),
        ({}, {"pair": AUTHORITY.issue("n1", ends=-60.0)}, "certificate expired"),
        ({}, {"pair": AUTHORITY.issue("n1", begins=600.0)}, "bad certificate"),
        ({"revoked": AUTHORITY.revoke(NODE_PAIR.serial)}, {}, "certificate revoked"),
        (
            {"verify": lambda certificate: "no" if certificate.subject == "n1" else None},
            {},
            "internal error.*refuses our certificate",
        ),
        ({}, {"trust": OTHER.certificate}, "not trusted"),
        ({}, {"fingerprint": "00" * 32}, f"its fingerprint is {SERVER_PAIR.fingerprint}"),
        ({}, {"server": "urn:fleet:server:other"}, "does not belong to urn:fleet:server:other"),
        ({}, {"server": "urn:fleet:server:mai"}, "does not belong to urn:fleet:server:mai"),
        ({"pair": AUTHORITY.issue("server", hosts=["other.example"])}, {}, "it belongs to other.example"),
        ({"pair": AUTHORITY.issue("server", hosts=[HOST], ends=-60.0)}, {}, "certificate has expired"),
        ({"pair": AUTHORITY.issue(HOST)}, {}, "it belongs to no host"),
    ],
    ids=lambda value: None,
)
def test_whoever_does_not_belong_is_refused_and_told_why(server: dict, client: dict, reason: str) -> None:
    pair = SecurePair(server_credentials(**server), client_credentials(**client))
    pair.get()
    (error,) = pair.outcomes
    assert isinstance(error, SecurityError)

    assert re.search(reason, str(error)), str(error)
    assert pair.server.footprint()["associations"] == pair.client.footprint()["associations"] == 0
    assert pair.server.footprint()["channels"] == pair.client.footprint()["channels"] == 0


@pytest.mark.parametrize(
    "client",
    [
        {"fingerprint": SERVER_PAIR.fingerprint, "trust": b""},
        {"fingerprint": SERVER_PAIR.fingerprint.upper(), "trust": OTHER.certificate},
        {"server": "urn:fleet:server:main"},
        {"server": "urn:fleet:server:"},
        {"revoked": AUTHORITY.revoke(12345)},
        {"revoked": OTHER.revoke(12345)},
        {"verify_server": False, "trust": b""},
        {"verify_server": False, "trust": OTHER.certificate, "server": "urn:fleet:server:other"},
    ],
)
def test_a_server_is_believed_by_its_fingerprint_its_uri_or_its_authority(client: dict) -> None:
    pair = SecurePair(client=client_credentials(**client))
    pair.get()
    assert pair.outcomes == ["x509 n1 urn:fleet:node:n1"]


def test_dates_are_not_looked_at_before_the_time_is_known_and_then_end_the_session() -> None:
    clock: list = [None]
    pair = SecurePair(client=client_credentials(AUTHORITY.issue("n1", ends=-60.0)), wall=lambda: clock[0])
    pair.get()
    assert pair.outcomes == ["x509 n1"]
    clock[0] = time.time()
    pair.pass_time(31.0)
    assert pair.server.footprint()["associations"] == 0
    pair.get()
    pair.pass_time(4.0)
    assert isinstance(pair.outcomes[1], SecurityError)


def test_a_client_that_believes_nobody_says_what_is_missing() -> None:
    pair = SecurePair(client=client_credentials(trust=b""))
    pair.get()
    assert "give the certificates of authorities, or a fingerprint" in str(pair.outcomes[0])


def test_credentials_that_do_not_fit_are_refused() -> None:
    other = AUTHORITY.issue("n2")
    with pytest.raises(UsageError, match="not the certificate's"):
        Credentials(certificate=NODE_PAIR.certificate, key=other.key)
    with pytest.raises(UsageError, match="needs its private key"):
        Credentials(certificate=NODE_PAIR.certificate)
    with pytest.raises(UsageError, match="64 hexadecimal digits"):
        Credentials(fingerprint="ab:cd")
    with pytest.raises(UsageError, match="no private key"):
        Credentials(certificate=NODE_PAIR.certificate, key=b"-----BEGIN")


def test_a_key_has_to_be_of_the_curve_that_all_sides_have() -> None:
    key = ec.generate_private_key(ec.SECP384R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(UsageError, match="P-256"):
        Credentials(certificate=NODE_PAIR.certificate, key=key)


def test_a_certificate_that_is_signed_with_a_hash_that_can_be_forged_is_refused(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl is installed here")
    subject = AUTHORITY.issue("n1")
    names = ("authority.pem", "authority.key", "subject.key")
    for name, content in zip(names, (AUTHORITY.certificate, AUTHORITY.key, subject.key)):
        (tmp_path / name).write_bytes(content)
    signed = b""
    for arguments in (
        "req -new -key subject.key -subj /CN=n1 -out subject.csr",
        "x509 -req -in subject.csr -CA authority.pem -CAkey authority.key -CAcreateserial -sha1 -days 9",
    ):
        signed = subprocess.run([openssl, *arguments.split()], cwd=tmp_path, capture_output=True, check=True).stdout
    pair = SecurePair(client=client_credentials(subject._replace(certificate=signed)))
    pair.get()
    assert isinstance(pair.outcomes[0], SecurityError)
    assert pair.server.footprint()["associations"] == 0


def test_spoofed_hellos_leave_nothing_behind() -> None:
    pair = SecurePair()
    datagram = hello()
    for number in range(10_000):
        pair.now += 0.0001
        pair.server.datagram_received(datagram, (f"10.0.{number >> 8}.{number & 255}", 5000), pair.now)
        ((answer, _),) = pair.server.datagrams_to_send()
        assert len(answer) < len(datagram)
    assert pair.server.footprint() == {"half_open": 0, "channels": 0, "associations": 0, "anonymous": 0, "timers": 0}
    pair.get()
    assert pair.outcomes == ["x509 n1 urn:fleet:node:n1"]


def test_a_cookie_is_good_for_its_address_alone_and_not_for_ever() -> None:
    pair = SecurePair()
    pair.get()
    with_cookie = [data for data, way in pair.sent if way == "up"][1]
    for address, later in ((("192.0.2.66", 40000), 0.0), (("192.0.2.9", 40001), 0.0), (CLIENT, 130.0)):
        pair.server.end(next(iter(pair.server._associations), ()), "test", pair.now)
        pair.server.datagrams_to_send()
        pair.server.datagram_received(with_cookie, address, pair.now + later)
        assert pair.server.footprint()["half_open"] == 0, address
    pair.server.datagram_received(with_cookie, CLIENT, pair.now)
    assert pair.server.footprint()["half_open"] == 1


def address_of(number: int) -> tuple[str, int]:
    return (f"10.0.{number >> 8}.{number & 255}", 5000)


def proven(pair: SecurePair, address: tuple[str, int]) -> list[bytes]:
    """Return the hello of a client at `address` with the cookie that it was sent."""
    session = Dtls(client_credentials(), time.time).connect(HOST)
    pair.now += 0.0001
    for data in session.datagrams():
        pair.server.datagram_received(data, address, pair.now)
    for data, path in pair.server.datagrams_to_send():
        if path == address:
            session.receive(data)
    return session.datagrams()


def half_open(pair: SecurePair, *addresses: tuple[str, int]) -> None:
    for data, address in [(data, each) for each in addresses for data in proven(pair, each)]:
        pair.server.datagram_received(data, address, pair.now)
    pair.server.datagrams_to_send()
    pair.now += 0.01  # the next ones have a turn of their own


def test_half_open_handshakes_are_bounded_and_end_by_themselves() -> None:
    pair = SecurePair(limits=SecurityLimits(half_open=5))
    for number in range(20):
        half_open(pair, address_of(number))
    assert pair.server.footprint()["half_open"] == pair.server.footprint()["channels"] == 5
    pair.get()
    assert pair.outcomes == ["x509 n1 urn:fleet:node:n1"]
    pair.pass_time(61.0)
    assert pair.server.footprint()["half_open"] == 0


def test_handshakes_are_begun_a_few_at_a_time_and_the_others_wait_for_their_turn() -> None:
    pair = SecurePair()
    half_open(pair, *(address_of(number) for number in range(20)))
    begun = [pair.server.footprint()["half_open"]]
    while begun[-1] < 20:
        (pair.now,) = {pair.server.next_timeout()}
        pair.server.handle_timeout(pair.now)
        pair.server.datagrams_to_send()
        begun.append(pair.server.footprint()["half_open"])
    assert begun == [4, 8, 12, 16, 20]
    assert pair.now < 1000.1
    assert pair.server.footprint()["timers"] == 20


def test_those_that_wait_are_bounded_of_one_host_and_in_all_and_repeated_hellos_count_once() -> None:
    pair = SecurePair(limits=SecurityLimits(half_open=1000))
    hellos = [proven(pair, ("10.9.9.9", port)) for port in range(1, 201)]
    for _ in range(2):
        for port, (data,) in enumerate(hellos, 1):
            pair.server.datagram_received(data, ("10.9.9.9", port), pair.now)
    half_open(pair, address_of(1))
    pair.pass_time(0.2)
    assert pair.server.footprint()["half_open"] == 4 + 128 + 1
    half_open(pair, *(address_of(number) for number in range(100, 500)))
    pair.pass_time(0.2)
    assert pair.server.footprint()["half_open"] == 4 + 128 + 1 + 4 + 256
    half_open(pair, *(("10.9.9.9", port) for port in range(300, 305)))
    pair.pass_time(0.2)
    assert pair.server.footprint()["half_open"] == 4 + 128 + 1 + 4 + 256 + 5, "there is room again"


def test_the_host_with_most_handshakes_under_way_makes_room() -> None:
    pair = SecurePair(limits=SecurityLimits(half_open=6))
    half_open(pair, ("10.0.0.1", 1))
    for port in range(4):
        half_open(pair, ("10.0.0.2", port))
    half_open(pair, ("10.0.0.3", 1))
    half_open(pair, ("10.0.0.4", 1))
    assert sorted(channel.address for channel in pair.server._handshakes) == [
        ("10.0.0.1", 1),
        *(("10.0.0.2", port) for port in range(1, 4)),
        ("10.0.0.3", 1),
        ("10.0.0.4", 1),
    ]
    assert pair.server.footprint()["channels"] == 6


def test_failed_handshakes_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    pair = SecurePair(limits=SecurityLimits(half_open=2))
    with caplog.at_level("INFO"):
        for number in range(100):
            half_open(pair, address_of(number))
        assert len(caplog.records) == 10
        assert "10.0.0.0 port 5000 failed: it had to make room" in caplog.records[0].getMessage()
        pair.now += 20.0
        half_open(pair, address_of(200))
    assert len(caplog.records) == 12
    assert (
        "88 more DTLS handshakes failed; 0 sessions; 1 handshakes under way, 99 had to make room"
        in caplog.records[10].getMessage()
    )


def test_the_session_silent_for_longest_makes_room_and_its_observations_end() -> None:
    pair = SecurePair(limits=SecurityLimits(sessions=2))
    states: list = []
    pair.client_core.observe(pair.path, states.append, pair.now, uri_path=("whoami",))
    pair.deliver()
    assert len(states) == 1
    assert pair.server_core.footprint()["observers"] == 1
    for number in range(2):
        other = SecurePair(client=client_credentials(AUTHORITY.issue(f"n{number}")))
        other.server, other.address = pair.server, ("192.0.2.50", 1000 + number)
        other.get()
        assert other.outcomes == [f"x509 n{number}"]
    assert pair.server.footprint()["associations"] == 2
    assert pair.server_core.footprint()["observers"] == 0


def test_the_nameless_push_out_one_another_only() -> None:
    pair = SecurePair(limits=SecurityLimits(sessions=4, anonymous_sessions=2))
    pair.get()
    for number in range(5):
        other = SecurePair(client=client_credentials(None))
        other.server, other.address, other.now = pair.server, ("192.0.2.50", 1000 + number), pair.now + number
        other.get()
        assert other.outcomes == ["none "]
    assert pair.server.footprint()["anonymous"] == 2
    assert pair.server.footprint()["associations"] == 3


def test_of_the_nameless_it_is_the_one_silent_for_longest_that_makes_room() -> None:
    pair = SecurePair(client=client_credentials(None), limits=SecurityLimits(anonymous_sessions=2))
    others = []
    for number in range(2):
        other = SecurePair(client=client_credentials(None))
        other.server, other.address, other.now = pair.server, ("192.0.2.50", 1000 + number), pair.now + number
        others.append(other)
        other.get()
    others[0].get()
    pair.now += 5.0
    pair.get()
    assert [path.address for path in pair.server._associations] == [("192.0.2.50", 1000), CLIENT]


def test_who_has_no_certificate_is_no_server() -> None:
    pair = SecurePair(server_credentials(), client_credentials(None))
    pair.client.datagram_received(hello(), SERVER, pair.now)
    assert pair.client.datagrams_to_send() == []


def test_what_belongs_together_is_sent_in_datagrams_that_every_network_carries() -> None:
    pair = SecurePair()
    pair.get()
    flight = [len(data) for data, way in pair.sent if way == "down"][1:-1]
    assert sum(flight) > MTU >= max(flight)
    assert len(flight) == 2


def test_an_idle_session_is_closed_and_resumed_when_it_is_needed_again() -> None:
    pair = SecurePair(limits=SecurityLimits(idle_lifetime=600.0))
    pair.get()
    pair.pass_time(700.0)
    assert pair.server.footprint()["associations"] == 0
    pair.sent.clear()
    pair.get()
    assert pair.outcomes == ["x509 n1 urn:fleet:node:n1"] * 2
    assert is_resumed(pair)


def is_resumed(pair: SecurePair) -> bool:
    """Whether the last handshake took place without certificates."""
    return (
        all(SERVER_PAIR.certificate not in data for data, _ in pair.sent) and sum(len(d) for d, _ in pair.sent) < 2000
    )


def test_a_client_that_hears_nothing_resumes_its_session_from_its_new_address_and_is_still_observed() -> None:
    pair = SecurePair()
    states: list = []
    pair.client_core.observe(pair.path, states.append, pair.now, uri_path=("whoami",))
    pair.deliver()
    (path,) = pair.server._associations
    pair.address = ("198.51.100.7", 1)  # the router has forgotten it; records from a new address mean nothing
    pair.get()
    assert not pair.outcomes
    pair.sent.clear()
    pair.pass_time(3.1)
    assert pair.outcomes == ["x509 n1 urn:fleet:node:n1"]
    assert is_resumed(pair)
    assert pair.server._associations.keys() == {path}
    assert next(iter(pair.server._associations)).address == pair.address
    assert pair.server.footprint()["channels"] == pair.client.footprint()["channels"] == 1
    pair.server_core.site.changed("/whoami")
    pair.pass_time(4.0)
    assert len(states) == 2


def test_who_never_asks_for_confirmation_resumes_too_and_less_and_less_often_where_nobody_answers() -> None:
    pair = SecurePair()
    pair.get()
    pair.address = ("198.51.100.7", 1)
    pair.server._notices.answer = lambda data, now: None  # another server, which does not say that it has no session

    def ask(**arguments: Any) -> int:
        """Ask and wait for longer than the probing rate demands (RFC 7252 §4.7); return how many datagrams passed."""
        pair.sent.clear()
        pair.client_core.request(
            codes.GET,
            pair.path,
            pair._done,
            pair.now,
            uri_path=("whoami",),
            confirmable=False,
            timeout=5.0,
            **arguments,
        )
        pair.deliver()
        pair.pass_time(60.0)
        return len(pair.sent)

    assert [ask() for _ in range(ASKED_IN_VAIN - 1)] == [1] * 7
    assert [type(outcome) for outcome in pair.outcomes[1:]] == [RequestTimeout] * 7
    assert ask() > 2
    assert is_resumed(pair)
    assert pair.outcomes[-1] == "x509 n1 urn:fleet:node:n1"
    assert [ask() for _ in range(10)] == [2] * 10, "it is at home again"
    unwanted = [(NO_RESPONSE, bytes((2,)))]
    passed = [ask(options=unwanted) for _ in range(25)]
    assert [number for number, count in enumerate(passed, 1) if count > 1] == [8, 24]


def test_a_server_that_lost_its_state_gets_a_new_handshake_and_the_request_again() -> None:
    pair = SecurePair()
    pair.get()
    pair.server = SecurePair().server
    pair.get()
    assert len(pair.outcomes) == 1
    pair.pass_time(3.1)
    assert pair.outcomes == ["x509 n1 urn:fleet:node:n1"] * 2


def report(pair: SecurePair) -> list[str]:
    """Send what is not to be confirmed; returns the ways of the datagrams that it led to."""
    before = len(pair.sent)
    pair.client_core.request(
        codes.GET, pair.path, pair.outcomes.append, pair.now, uri_path=("whoami",), confirmable=False, no_response=2,
        timeout=1.0,
    )  # fmt: skip
    pair.deliver()
    ways = [way for _, way in pair.sent[before:]]
    pair.pass_time(60.0)  # in which no answer comes; then the next may be sent (PROBING_RATE)
    return ways


def test_a_server_that_lost_its_state_says_so_to_who_asks_for_no_answer_and_gets_a_new_session_at_once() -> None:
    pair = SecurePair()
    pair.get()
    lost = SecurePair()
    pair.server = lost.server

    ways = report(pair)

    assert ways[:2] == ["up", "down"]
    assert NOTICE in [data for data, way in pair.sent if way == "down"]
    assert pair.server.footprint()["associations"] == 1
    assert report(pair) == ["up"], "the session is there"
    pair.get()
    assert pair.outcomes[-1] == "x509 n1 urn:fleet:node:n1"


def test_a_client_whose_address_has_changed_resumes_its_session_when_the_server_does_not_know_it_there() -> None:
    pair = SecurePair()
    pair.get()
    pair.address = ("192.0.2.77", 4321)

    report(pair)

    assert pair.server.footprint() == {**pair.server.footprint(), "associations": 1, "channels": 1}
    assert report(pair) == ["up"]


def test_a_forged_notice_ends_nothing_and_is_minded_once_a_minute() -> None:
    pair = SecurePair()
    pair.get()
    handshakes = []
    for _ in range(5):
        pair.client.datagram_received(NOTICE, SERVER, pair.now)
        handshakes.append(len(pair.client.datagrams_to_send()))  # which do not arrive
        pair.get()
    assert handshakes == [1, 0, 0, 0, 0]
    assert pair.outcomes == ["x509 n1 urn:fleet:node:n1"] * 6

    pair.pass_time(61.0)
    pair.client.datagram_received(NOTICE, SERVER, pair.now)
    pair.deliver()
    pair.get()
    assert pair.outcomes[-1] == "x509 n1 urn:fleet:node:n1"
    assert pair.client.footprint()["channels"] == 1


def test_servers_ignore_notices_and_nobody_answers_what_is_no_data_of_a_session() -> None:
    pair = SecurePair()
    pair.get()
    before = pair.server.footprint()
    record = next(data for data, way in reversed(pair.sent) if way == "up")
    short = record[: len(NOTICE)]
    before_keys = record[:3] + b"\0\0" + record[5:]
    alert = b"\x15" + record[1:]

    for data in (NOTICE, short, before_keys, alert, alert[:14], b"\x17"):
        for address in (CLIENT, ("192.0.2.200", 9)):
            pair.server.datagram_received(data, address, pair.now)
    assert pair.server.datagrams_to_send() == []
    assert pair.server.footprint() == before


def test_no_more_than_so_many_are_told_in_a_second() -> None:
    pair = SecurePair()
    pair.get()
    record = next(data for data, way in reversed(pair.sent) if way == "up")
    for _ in range(2):
        for number in range(NOTICES_A_SECOND + 50):
            pair.server.datagram_received(record, ("192.0.2.200", number + 1), pair.now)
        assert len(pair.server.datagrams_to_send()) == NOTICES_A_SECOND
        pair.now += 1.0


def test_a_client_that_lost_its_state_is_let_in_again_and_its_former_session_ended() -> None:
    pair = SecurePair()
    pair.get()
    again = SecurePair()
    again.server = pair.server
    again.get()
    assert again.outcomes == ["x509 n1 urn:fleet:node:n1"]
    assert pair.server.footprint()["associations"] == pair.server.footprint()["channels"] == 1


def test_records_repeated_reordered_or_replayed_do_no_harm() -> None:
    pair = SecurePair()
    pair.get()
    recorded = [data for data, way in pair.sent if way == "up"]
    before = pair.server.footprint()
    for data in recorded * 2 + recorded[::-1]:
        pair.server.datagram_received(data, CLIENT, pair.now)
        pair.server.datagrams_to_send()
    assert pair.server.footprint() == before
    for position in range(len(recorded[-1])):
        broken = bytearray(recorded[-1])
        broken[position] ^= 0x55
        pair.server.datagram_received(bytes(broken), CLIENT, pair.now)
    pair.get()
    assert pair.outcomes == ["x509 n1 urn:fleet:node:n1"] * 2


def test_a_handshake_goes_on_though_datagrams_are_lost() -> None:
    pair = SecurePair()
    pair.is_cut = True
    pair.get()
    pair.is_cut = False
    time.sleep(1.1)  # OpenSSL repeats its hello after a second of the real clock, which nothing else can move
    pair.pass_time(1.5)
    assert pair.outcomes == ["x509 n1 urn:fleet:node:n1"]


@pytest.mark.parametrize(("times", "is_agreed"), [(1, True), (3, True), (10, False)])
def test_a_handshake_into_which_the_network_puts_what_was_said_in_an_earlier_one_is_begun_anew_but_not_for_ever(
    times: int, is_agreed: bool
) -> None:
    earlier = SecurePair()
    earlier.get()
    repeated = [data for data, way in earlier.sent if way == "down" and data[13] != 3]
    pair = SecurePair()
    received = pair.client.datagram_received
    left = times

    def disturbed(data: bytes, path: Any, now: float) -> None:
        nonlocal left
        if data[13] == 2 and left:  # a server's hello
            left -= 1
            for before in repeated:
                received(before, path, now)
        received(data, path, now)

    pair.client.datagram_received = disturbed
    pair.get()
    pair.pass_time(0.5)
    assert left == 0 or not is_agreed
    if is_agreed:
        assert pair.outcomes == ["x509 n1 urn:fleet:node:n1"]
    else:
        assert "bad signature" in str(pair.outcomes[0])
        assert pair.client.footprint()["channels"] == 0


def test_no_handshake_takes_place_within_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = SecurePair()
    with monkeypatch.context() as patched:
        patched.setattr(SSL, "OP_NO_RENEGOTIATION", 0)  # or our own side would not ask for any
        pair.client._engine = Dtls(client_credentials(), time.time)
    pair.get()
    (association,) = pair.client._associations.values()
    connection = association.channel.session.connection
    connection.renegotiate()
    with pytest.raises(SSL.WantReadError):
        connection.do_handshake()
    pair.client._flush(association.channel)
    pair.sent.clear()
    pair.deliver()
    assert pair.sent[0][1] == "up"
    assert len(pair.sent[0][0]) > 150
    assert sum(len(data) for data, way in pair.sent if way == "down") < 100, "an alert, and no server's hello"
    pair.get()
    pair.pass_time(4.0)
    assert pair.outcomes == ["x509 n1 urn:fleet:node:n1"] * 2


class Inside:
    """A machine that sends what is put into `outbox`, and remembers what came."""

    def __init__(self) -> None:
        self.outbox: list[Any] = []
        self.received: list[bytes] = []

    def datagram_received(self, data: bytes, path: Any, now: float) -> None:
        self.received.append(data)

    def path_failed(self, path: Any, error: OSError, now: float) -> None:
        raise error

    def datagrams_to_send(self) -> list[Any]:
        outbox, self.outbox = self.outbox, []
        return outbox

    def next_timeout(self) -> None:
        return None

    def handle_timeout(self, now: float) -> None:
        pass


def test_so_many_messages_wait_for_a_handshake_and_the_same_one_waits_once() -> None:
    pair = SecurePair()
    pair.server.inner = Inside()
    pair.client = SecureMachine(
        Inside(), client_credentials(), SystemEntropy(), time.time, limits=SecurityLimits(queued=5)
    )
    path = pair.client.path_to(SERVER, HOST)
    pair.client.inner.outbox = [(b"\x50\x01" + (number // 2).to_bytes(2, "big"), path) for number in range(40)]
    pair.deliver()
    assert [data[3] for data in pair.server.inner.received] == [0, 1, 2, 3, 4]


def test_good_byes_are_said_both_ways() -> None:
    pair = SecurePair()
    pair.get()
    pair.client.close(pair.now)
    pair.deliver()
    assert pair.server.footprint()["associations"] == pair.server.footprint()["channels"] == 0
    pair = SecurePair()
    pair.get()
    pair.server.close(pair.now)
    pair.deliver()
    assert pair.client.footprint()["channels"] == 0
    pair.get()
    assert len(pair.outcomes) == 2


def test_changed_credentials_cut_off_who_is_not_believed_any_more() -> None:
    pair = SecurePair()
    pair.get()
    pair.server_credentials.change(revoked=AUTHORITY.revoke(77))
    pair.server.credentials_changed(pair.now)
    assert pair.server.footprint()["associations"] == 1
    pair.server_credentials.change(revoked=AUTHORITY.revoke(NODE_PAIR.serial))
    pair.server.credentials_changed(pair.now)
    pair.deliver()
    assert pair.server.footprint()["associations"] == 0
    pair.get()
    assert isinstance(pair.outcomes[1], SecurityError)


def test_a_client_shows_its_new_certificate_in_a_session_that_follows_with_nothing_lost_on_the_way() -> None:
    pair = SecurePair()
    pair.get()
    renewed = AUTHORITY.issue("n1", uris=["urn:fleet:node:n1"], ends=60 * DAY)
    pair.client_credentials.change(certificate=renewed.certificate, key=renewed.key)
    pair.client.credentials_changed(pair.now)
    pair.get()

    def ends() -> list:
        return [path.identity.expires_at for path in pair.server._associations]

    assert ends() == [pytest.approx(time.time() + 60 * DAY, abs=3600)]
    assert pair.outcomes == ["x509 n1 urn:fleet:node:n1"] * 2
    assert pair.server.footprint()["channels"] == pair.client.footprint()["channels"] == 1
    pair.sent.clear()
    pair.client.credentials_changed(pair.now)
    pair.deliver()
    assert pair.sent == [], "the certificate is the same"
    pair.get()
    assert pair.outcomes[2:] == ["x509 n1 urn:fleet:node:n1"]


def test_a_client_whose_new_session_comes_to_nothing_goes_on_by_the_one_it_has() -> None:
    pair = SecurePair()
    pair.get()
    stranger = OTHER.issue("n1")
    pair.client_credentials.change(certificate=stranger.certificate, key=stranger.key)
    pair.client.credentials_changed(pair.now)
    pair.deliver()
    pair.get()

    assert pair.outcomes == ["x509 n1 urn:fleet:node:n1"] * 2


def test_a_session_from_before_the_credentials_changed_is_not_resumed() -> None:
    pair = SecurePair()
    pair.get()
    (association,) = pair.client._associations.values()
    engine = pair.client._engine

    def hello(resume: Any) -> int:
        (datagram,) = engine.connect(HOST, resume).datagrams()
        return len(datagram)

    assert hello(association.resume) > hello(None), "it carries the ticket"
    pair.client_credentials.change(trust=AUTHORITY.certificate + OTHER.certificate)
    assert hello(association.resume) == hello(None)


def test_a_new_certificate_is_shown_to_the_next_client() -> None:
    pair = SecurePair()
    renewed = AUTHORITY.issue("server", hosts=[HOST])
    pair.server_credentials.change(certificate=renewed.certificate, key=renewed.key)
    with pytest.raises(UsageError):
        pair.server_credentials.change(key=NODE_PAIR.key)
    pair.get()
    (association,) = pair.client._associations.values()
    assert association.channel.session.certificate.fingerprint == renewed.fingerprint


def test_a_request_without_dtls_is_not_answered_unless_it_is_wanted() -> None:
    pair = SecurePair()
    plain = b"\x40\x01\x00\x01\xb6whoami"
    ping = b"\x40\x00\x00\x02"
    for data in (plain, ping):
        pair.server.datagram_received(data, CLIENT, pair.now)
    assert pair.server.datagrams_to_send() == []
    pair.server.serves_plain = True
    pair.server.datagram_received(plain, CLIENT, pair.now)
    assert len(pair.server.datagrams_to_send()) == 1


def test_a_plain_message_from_a_session_s_address_is_not_taken_for_the_session_s() -> None:
    pair = SecurePair()
    pair.server.serves_plain = True
    pair.get()
    pair.server.datagram_received(b"\x40\x01\x00\x01\xb6whoami", CLIENT, pair.now)
    ((answer, path),) = pair.server.datagrams_to_send()
    assert path == CLIENT
    assert b"none" in answer


def test_bytes_of_any_kind_are_borne() -> None:
    pair = SecurePair()
    pair.get()
    entropy = SystemEntropy()
    for first in range(256):
        for size in (0, 1, 12, 13, 14, 40, 59, 60, 200):
            pair.server.datagram_received((bytes([first]) + b"\xfe\xfd" + entropy.token(size))[:size], CLIENT, pair.now)
            pair.client.datagram_received((bytes([first]) + b"\xfe\xfd" + entropy.token(size))[:size], SERVER, pair.now)
            pair.client.datagrams_to_send()
            pair.server.datagrams_to_send()
    pair.get()
    assert pair.outcomes == ["x509 n1 urn:fleet:node:n1"] * 2


def test_an_error_that_the_system_reports_ends_the_handshake() -> None:
    pair = SecurePair()
    pair.is_cut = True
    pair.get()
    pair.client.path_failed(SERVER, ConnectionRefusedError(111, "Connection refused"), pair.now)
    assert "Connection refused" in str(pair.outcomes[0])
    assert pair.client.footprint()["channels"] == 0


def test_a_silent_server_is_given_up() -> None:
    pair = SecurePair()
    pair.is_cut = True
    pair.get()
    pair.pass_time(100.0)
    (error,) = pair.outcomes
    assert isinstance(error, SecurityError)
    assert "no agreement within 60 s" in str(error)
    assert pair.client.footprint()["associations"] == 0


def test_a_long_answer_needs_no_proof_of_address_behind_a_handshake() -> None:
    body = b"x" * 1000
    pair = SecurePair(site=Site(Resource("/long", get=lambda request: Response(payload=body))))
    pair.get("long")
    pair.sent.clear()
    pair.get("long")
    assert pair.outcomes == [body.decode()] * 2
    assert len(pair.sent) == 2


def test_responses_are_responses() -> None:
    pair = SecurePair()
    pair.client_core.request(1, pair.path, pair.outcomes.append, pair.now, uri_path=("nothing",))
    pair.deliver()
    assert isinstance(pair.outcomes[0], Response)
    assert pair.outcomes[0].code == 0x84


def test_the_memory_of_ended_sessions_does_not_wait_for_the_collector_of_cycles() -> None:
    gc.collect()
    gc.disable()
    try:
        pair = SecurePair(limits=SecurityLimits(half_open=2))
        pair.get()
        (association,) = pair.server._associations.values()
        sessions = [weakref.ref(association.channel.session.connection)]
        del association
        for number in range(5):
            half_open(pair, address_of(number))
            sessions += [weakref.ref(channel.session.connection) for channel in pair.server._handshakes]
        pair.server.close(pair.now)
        pair.server.datagrams_to_send()
        assert [reference() for reference in sessions if reference() is not None] == []
    finally:
        gc.enable()
