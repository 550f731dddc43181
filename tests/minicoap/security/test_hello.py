"""Hellos: which are any, whom a cookie is good for, and what becomes of too many."""

from __future__ import annotations

import logging
import time
from collections import Counter

import pytest

from minicoap.core.request import Path
from minicoap.core.timers import Timers
from minicoap.security.dtls import Dtls
from minicoap.security.hello import (
    ADMITTED,
    ANSWERS_A_TURN,
    HELLOS_A_PERIOD,
    Admission,
    Reception,
    hello_random,
    read_hello,
)
from minicoap.shell.entropy import SystemEntropy
from tests.minicoap.security.pair import CLIENT, HOST, client_credentials, with_cookie

HELLO = Dtls(client_credentials(), time.time).connect(HOST).datagrams()[0]
OTHER_HELLO = Dtls(client_credentials(), time.time).connect(HOST).datagrams()[0]


def cookie_for(reception: Reception, hello: bytes, address: Path, now: float) -> bytes:
    answer = reception.receive(hello, address, now)
    assert answer
    assert answer[13:14] == b"\x03"
    return answer[28:]


def test_a_hello_is_answered_as_rfc_6347_has_it() -> None:
    hello = HELLO[:5] + b"\0\0\0\0\0\7" + HELLO[11:]
    answer = Reception(SystemEntropy(), Timers()).receive(hello, CLIENT, 1.0)
    assert answer is not None
    assert len(answer) == 44 < len(hello)
    record, message, body = answer[:13], answer[13:25], answer[25:]
    assert record == b"\x16\xfe\xff\0\0" + b"\0\0\0\0\0\7" + b"\0\x1f"  # the number of the hello's record
    assert message == b"\3" + b"\0\0\x13" + b"\0\0" + b"\0\0\0" + b"\0\0\x13"
    assert body[:3] == b"\xfe\xff\x10"


def test_a_cookie_is_good_for_its_address_and_its_hello_for_one_to_two_minutes() -> None:
    reception = Reception(SystemEntropy(), Timers())
    cookie = cookie_for(reception, HELLO, CLIENT, 60.0)
    brought = with_cookie(HELLO, cookie)
    assert reception.receive(brought, CLIENT, 60.0) == ADMITTED
    assert reception.receive(brought, CLIENT, 179.9) == ADMITTED
    for hello, address, now in (
        (brought, CLIENT, 180.0),
        (brought, (CLIENT[0], CLIENT[1] + 1), 60.0),
        (brought, ("192.0.2.8", CLIENT[1]), 60.0),
        (brought, (*CLIENT, "second socket"), 60.0),
        (with_cookie(OTHER_HELLO, cookie), CLIENT, 60.0),
        (with_cookie(HELLO, cookie[:-1]), CLIENT, 60.0),
        (with_cookie(HELLO, cookie + b"\0"), CLIENT, 60.0),
    ):
        assert reception.receive(hello, address, now), "a cookie that is not ours counts for none"
    assert Reception(SystemEntropy(), Timers()).receive(brought, CLIENT, 60.0) != ADMITTED


def test_a_cookie_answers_for_all_that_the_hello_offers_but_its_extensions() -> None:
    reception = Reception(SystemEntropy(), Timers())
    brought = with_cookie(HELLO, cookie_for(reception, HELLO, CLIENT, 60.0))
    end_of_parameters = 61 + 16 + 2 + int.from_bytes(brought[77:79], "big") + 2
    admitted = []
    for position in range(25, len(brought)):
        changed = bytearray(brought)
        changed[position] ^= 4
        if reception.receive(bytes(changed), CLIENT, 60.0 + position / 1000) == ADMITTED:
            admitted.append(position)
    assert admitted == list(range(end_of_parameters, len(brought)))


def broken(position: int, value: bytes) -> bytes:
    return HELLO[:position] + value + HELLO[position + len(value) :]


def with_session_id(size: int) -> bytes:
    body = HELLO[25:59] + bytes((size,)) + bytes(size) + HELLO[60:]
    length = len(body).to_bytes(3, "big")
    message = b"\1" + length + b"\0\0\0\0\0" + length + body
    return HELLO[:11] + len(message).to_bytes(2, "big") + message


def test_a_session_id_has_at_most_32_bytes() -> None:
    assert read_hello(with_session_id(0)) == read_hello(HELLO)
    assert read_hello(with_session_id(32)) is not None


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        HELLO[:-1],
        HELLO + b"\0",
        HELLO + HELLO,
        broken(0, b"\x17"),
        broken(1, b"\x03"),
        broken(3, b"\0\1"),
        broken(13, b"\2"),
        broken(14, b"\0\0\1"),
        broken(19, b"\0\0\1"),
        broken(22, b"\0\0\1"),  # a fragment
        with_session_id(33),
        broken(60, b"\xff"),  # a cookie that does not end
        broken(61, b"\xff\xff"),  # suites that do not
        broken(63 + int.from_bytes(HELLO[61:63], "big"), b"\xff"),  # methods of compression that do not
    ],
)
def test_what_is_no_hello_is_not_answered(datagram: bytes) -> None:
    reception = Reception(SystemEntropy(), Timers())
    assert read_hello(datagram) is None
    assert reception.receive(datagram, CLIENT, 1.0) is None


def test_bytes_of_any_kind_are_a_hello_or_none() -> None:
    entropy = SystemEntropy()
    for position in range(len(HELLO)):
        for value in (0, 1, 0x20, 0x7F, 0xFE, 0xFF):
            read_hello(broken(position, bytes((value,))))
        read_hello(HELLO[:position])
        hello_random(HELLO[:position])
        size = (position).to_bytes(2, "big")
        body = b"\1\0" + size + b"\0\0\0\0\0\0" + size + entropy.token(position)
        read_hello(HELLO[:11] + len(body).to_bytes(2, "big") + body)
    assert hello_random(HELLO[:58]) is None


def test_so_many_are_answered_in_a_turn_and_those_with_a_cookie_get_in_nevertheless() -> None:
    reception = Reception(SystemEntropy(), Timers())
    brought = with_cookie(HELLO, cookie_for(reception, HELLO, CLIENT, 0.0))
    answers = [reception.receive(HELLO, ("192.0.2.1", port), 1.0) for port in range(64)]
    assert [answer is not None for answer in answers] == [True] * ANSWERS_A_TURN + [False] * (64 - ANSWERS_A_TURN)
    assert reception.receive(with_cookie(HELLO, bytes(16)), CLIENT, 1.0) is None
    assert reception.receive(brought, CLIENT, 1.0) == ADMITTED
    assert reception.dropped == 64 - ANSWERS_A_TURN + 1
    assert reception.receive(HELLO, CLIENT, 1.001)


@pytest.mark.parametrize("kind", [0, 1], ids=["without cookie", "with a wrong one"])
def test_of_a_flood_a_part_is_asked_for_that_can_be_looked_at_and_all_again_when_it_is_over(
    kind: int, caplog: pytest.LogCaptureFixture
) -> None:
    timers = Timers()
    reception = Reception(SystemEntropy(), timers, lambda: "7 sessions")
    shares = [0, 0]
    history: list[int] = []

    def admit(admission: Admission) -> None:
        shares[:] = admission[:2]
        assert admission.ports is None
        history.append(shares[kind])

    reception.admit = admit
    hello = with_cookie(HELLO, bytes(16)) if kind else HELLO
    came: Counter[int] = Counter()
    now = 0.0
    with caplog.at_level(logging.WARNING):
        for period in range(10):
            for number in range(10_000):  # of 0.05 s
                if number % 64 == 0:
                    now = (period + 1 + number / 10_000) / 20
                    timers.run(now)
                if number % (1 << shares[kind]) == 0:
                    came[period] += 1
                    reception.receive(hello, ("192.0.2.1", number), now)
    assert shares[1 - kind] == 0
    assert came[0] == 10_000
    assert all(HELLOS_A_PERIOD / 4 <= came[period] <= 2 * HELLOS_A_PERIOD for period in range(3, 10)), came
    (record,) = caplog.records
    assert "7 sessions" in record.getMessage()
    while len(timers):
        now += 0.025
        timers.run(now)
    assert history[-1] == 0
    assert now < 2.0
    assert history[-2:] == [1, 0], "by and by: the flood may only pause"


def test_of_a_flood_of_records_those_reach_us_that_come_from_ports_of_sessions_and_new_ones_are_not_left_out() -> None:
    timers = Timers()
    ports = {7}
    reception = Reception(SystemEntropy(), timers, ports=lambda: ports)
    admitted: list[Admission] = []
    reception.admit = admitted.append
    for _ in range(500):
        reception.stray(1.0)
    assert len(timers) == 0, "what comes now and then is borne"
    for _ in range(2000):
        reception.stray(1.0)
    timers.run(1.051)
    assert admitted == [Admission(0, 0, frozenset({7}))]
    ports.add(8)
    timers.run(1.102)
    timers.run(1.153)
    assert admitted[1:] == [Admission(0, 0, frozenset({7, 8}))]
    now = 1.153
    while len(timers):
        now += 0.051
        timers.run(now)
    assert admitted[2:] == [Admission()]
    assert 11.0 < now < 12.0
