"""Pretended DTLS: its handshakes, records and certificates, and what becomes of sessions that are lost in mid-work."""

from __future__ import annotations

from typing import Any

import pytest

from minicoap.codec import codes
from minicoap.core.endpoint import EndpointCore
from minicoap.core.request import Request, Response
from minicoap.core.resource import Resource, Site
from minicoap.core.timers import Timers
from minicoap.errors import NetworkError
from minicoap.security.association import server_path
from minicoap.security.credentials import Credentials
from minicoap.security.hello import ADMITTED, Reception
from minicoap.security.sessions import SecurityLimits
from minicoap.simulate.dtls import OVERHEAD, PretendedDtls, PretendedSession, make_certificate, secured
from minicoap.simulate.entropy import SeededEntropy
from minicoap.simulate.link import Link
from minicoap.simulate.pair import Pair
from minicoap.simulate.world import World

BODY = bytes(range(256)) * 200
SERVER = ("server", 5684)
SERVER_CERTIFICATE = make_certificate("s", names=["server"])


def whoami(request: Request) -> Response:
    return Response(payload=f"{request.identity.scheme} {request.identity.subject}".encode())


def site() -> Site:
    return Site(
        Resource("/whoami", get=whoami, observable=True), Resource("/body", get=lambda request: Response(payload=BODY))
    )


def test_a_pair_speaks_through_dtls_and_each_message_costs_29_bytes_more() -> None:
    pair = Pair(site(), secure=True)
    assert pair.request(codes.GET, "whoami").text == "x509 client"
    assert [message.code for _, message in pair.messages()] == [codes.GET, codes.CONTENT]
    assert len(pair.world.trace[-1].data) == OVERHEAD + 4 + 4 + 1 + len("x509 client")
    assert OVERHEAD == 29
    assert pair.request(codes.GET, "body").body == BODY


def test_a_handshake_has_six_flights_in_several_datagrams() -> None:
    pair = Pair(site(), secure=True, link=Link(delay=0.1))
    pair.request(codes.GET, "whoami")
    senders = "".join(datagram.source[0][0] for datagram in pair.world.trace)
    assert senders == "cs" + "c" + "ss" + "cc" + "ss" + "cs"
    assert pair.world.now == pytest.approx(0.8)


@pytest.mark.parametrize("lost", range(10))
def test_whichever_datagram_of_a_handshake_is_lost_it_comes_to_its_end(lost: int) -> None:
    pair = Pair(site(), secure=True)
    sent: list[bytes] = []

    def admits(data: bytes) -> bool:
        sent.append(data)
        return len(sent) != lost + 1

    pair.there.admits = pair.back.admits = admits
    assert pair.request(codes.GET, "whoami").text == "x509 client"
    assert pair.world.now < 7.0


def engine(name: str, now: list[float], **arguments: Any) -> PretendedDtls:
    credentials = arguments.pop("credentials", None) or Credentials()
    return PretendedDtls(credentials, SeededEntropy(1, name), lambda: now[0], **arguments)


def shake(client: PretendedSession, server: PretendedDtls) -> Any:
    """Carry a handshake to its end, the cookie included; return the server's session."""
    session = None
    reception = Reception(SeededEntropy(1, "reception"), Timers())
    for number in range(10):
        for data in client.datagrams():
            if session is not None:
                session.receive(data)
            else:
                answer = reception.receive(data, ("client", 1), float(number))
                if answer == ADMITTED:
                    session = server.accept(data)
                else:
                    client.receive(answer or b"")
            for answer in session.datagrams() if session is not None else ():
                client.receive(answer)
    return session


def open_pair(**arguments: Any) -> tuple[PretendedSession, PretendedSession, PretendedDtls, PretendedDtls]:
    now = [0.0]
    ours = engine("client", now, certificate=make_certificate("c", serial=7))
    theirs = engine("server", now, certificate=SERVER_CERTIFICATE, **arguments)
    client = ours.connect("server")
    return client, shake(client, theirs), ours, theirs


def sent_by(session: PretendedSession, message: bytes) -> bytes:
    assert session.send(message)
    (datagram,) = session.datagrams()
    return datagram


def test_records_are_taken_once_in_any_order_and_not_when_they_are_too_old() -> None:
    client, server, _, _ = open_pair()
    records = [sent_by(client, b"%d" % number) for number in range(100)]
    assert server.receive(records[70]) == [b"70"]
    assert server.receive(records[70]) == []
    assert server.receive(records[7]) == [b"7"]
    assert server.receive(records[7]) == []
    assert server.receive(records[6]) == []  # behind the window of 64
    assert server.receive(records[99]) == [b"99"]
    assert server.receive(records[69]) == [b"69"]
    assert server.receive(records[36]) == [b"36"]
    assert server.receive(records[35]) == []


def test_what_is_forged_is_none() -> None:
    client, server, _, _ = open_pair()
    record = sent_by(client, b"hello")
    for position in range(len(record)):
        broken = bytearray(record)
        broken[position] ^= 1
        assert server.receive(bytes(broken)) == [], position
    other = open_pair()[0]
    assert server.receive(sent_by(client, b"hello")) == [b"hello"]
    assert client.receive(sent_by(other, b"hello")) == []
    assert server.state == client.state == "open"


def test_a_session_is_resumed_with_its_certificate_and_its_key_but_not_after_the_ticket_key_has_changed() -> None:
    client, server, ours, theirs = open_pair()
    again = ours.connect("server", client.resumable())
    session = shake(again, theirs)
    assert (session.key, session.certificate) == (server.key, server.certificate)
    assert again.certificate == SERVER_CERTIFICATE
    theirs.change()
    full = ours.connect("server", client.resumable())
    session = shake(full, theirs)
    assert session.state == full.state == "open"
    assert session.key != server.key


def test_a_hello_is_one_to_the_reception_of_a_real_server_too() -> None:
    reception = Reception(SeededEntropy(1, "reception"), Timers())
    client = engine("client", [0.0]).connect("server")
    (hello,) = client.datagrams()
    verify = reception.receive(hello, ("client", 1), 0.0)
    assert verify
    client.receive(verify)
    (with_cookie,) = client.datagrams()
    assert reception.receive(with_cookie, ("other", 1), 0.0) != ADMITTED
    assert reception.receive(with_cookie, ("client", 1), 50.0) == ADMITTED


@pytest.mark.parametrize(
    ("server", "client", "reason"),
    [
        ({"authorities": ["other"]}, {}, "alert unknown ca"),
        ({"revoked": [7]}, {}, "alert certificate revoked"),
        ({"wall": lambda: 5e9}, {}, "alert certificate expired"),
        ({"credentials": Credentials(require_certificate=True)}, {"certificate": None}, "alert handshake failure"),
        ({}, {"authorities": ["other"]}, "not trusted"),
        ({}, {"revoked": [1]}, "revoked"),
        ({}, {"wall": lambda: -1.0}, "not yet valid"),
        ({}, {"credentials": Credentials(fingerprint="00" * 32)}, "the one that is pinned"),
        ({}, {"credentials": Credentials(server="urn:fleet:server:main")}, "does not belong to urn:fleet:server:main"),
    ],
    ids=lambda value: None,
)
def test_whoever_does_not_belong_is_refused_and_told_why(server: Any, client: Any, reason: str) -> None:
    now = [0.0]
    theirs = engine("server", now, **{"certificate": SERVER_CERTIFICATE, **server})
    session = engine("client", now, **{"certificate": make_certificate("c", serial=7), **client}).connect("server")
    other = shake(session, theirs)
    assert session.state == "closed"
    assert reason in session.reason
    assert other.state == "closed"


def test_a_goodbye_ends_both_sides() -> None:
    client, server, _, _ = open_pair()
    client.close()
    (goodbye,) = client.datagrams()
    server.receive(goodbye)
    assert server.state == client.state == "closed"
    assert (server.reason, server.send(b"more")) == ("", False)


# In worlds


class Served:
    """A server that remembers few sessions, and clients of it."""

    def __init__(self, seed: int, sessions: int, **link: float) -> None:
        self.world = World(seed, link=Link(**link))
        self.sessions = sessions
        self.lives = 0
        self.host = self.world.host(SERVER)
        self.boot()

    def boot(self) -> None:
        self.lives += 1
        name = f"server {self.lives}"
        self.site = site()
        self.core = EndpointCore(self.world.entropy(name), site=self.site)
        limits = SecurityLimits(sessions=self.sessions)
        self.machine = secured(self.world, name, self.core, certificate=SERVER_CERTIFICATE, limits=limits)
        self.host.boot(self.machine)

    def client(self, name: str) -> Client:
        return Client(self, name)


class Client:
    """One who asks; `outcomes` are what came of it."""

    def __init__(self, served: Served, name: str) -> None:
        self.world = world = served.world
        self.host = world.host((name, 5683))
        self.core = EndpointCore(world.entropy(name))
        self.machine = secured(world, name, self.core, certificate=make_certificate(name))
        self.path = server_path(SERVER, "server")
        self.outcomes: list[Any] = []
        self.host.boot(self.machine)

    def get(self, *path: str) -> None:
        self.core.request(codes.GET, self.path, self.outcomes.append, self.world.now, uri_path=path)
        self.host.wake()

    def observe(self) -> None:
        self.core.observe(self.path, self.outcomes.append, self.world.now, uri_path=("whoami",), patience=10_000.0)
        self.host.wake()


def test_a_transfer_goes_on_though_its_session_has_to_make_room_in_the_midst_of_it() -> None:
    served = Served(3, sessions=1, loss=0.05, delay=0.05, jitter=0.05)
    first, other = served.client("first"), served.client("other")
    first.get("body")
    served.world.run_for(2.0)
    assert not first.outcomes
    other.get("whoami")
    assert served.world.run_until(lambda: bool(other.outcomes and first.outcomes), 600.0)
    assert first.outcomes[0].body == BODY
    assert served.machine.footprint()["associations"] == 1


def test_an_observation_goes_on_after_its_session_had_to_make_room() -> None:
    served = Served(4, sessions=1, delay=0.05)
    first, other = served.client("first"), served.client("other")
    first.observe()
    served.world.run_for(2.0)
    assert len(first.outcomes) == 1
    other.get("whoami")
    served.world.run_for(1.0)
    assert served.core.footprint()["observers"] == 0
    served.world.run_for(120.0)  # Max-Age and a registration anew
    assert served.core.footprint()["observers"] == 1
    served.site.changed("/whoami")
    count = len(first.outcomes)
    served.host.wake()
    served.world.run_for(10.0)
    assert len(first.outcomes) > count


@pytest.mark.parametrize("seed", range(10))
def test_a_server_that_lost_all_sessions_is_found_again_in_mid_transfer_and_mid_observation(seed: int) -> None:
    served = Served(seed, sessions=64, loss=0.1, duplicate=0.1, delay=0.05, jitter=0.3)
    clients = [served.client(f"client-{index}") for index in range(6)]
    for index, client in enumerate(clients):
        if index % 2:
            client.observe()
        else:
            client.get("body")
    served.world.call_at(4.0 + seed / 2, served.boot)
    served.world.run_for(400.0)
    for index, client in enumerate(clients):
        if index % 2:
            continue
        (outcome,) = client.outcomes
        assert isinstance(outcome, NetworkError) or outcome.body == BODY
    assert served.core.footprint()["observers"] == 3
    assert sum(isinstance(client.outcomes[0], Response) for client in clients[::2]) >= 2


def test_a_handshake_begun_at_one_address_and_ended_at_another_does_not_wait_for_its_deadline() -> None:
    served = Served(5, sessions=4, delay=0.5)
    client = served.client("first")
    client.get("whoami")
    served.world.run_for(1.6)  # the cookie has come back
    client.host.rebind(("first", 6000))
    assert served.world.run_until(lambda: bool(client.outcomes), 60.0)
    assert client.outcomes[0].text == "x509 first"
    assert served.world.now < 30.0
