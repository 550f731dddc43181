"""A client and a server in a world of their own: a protocol scenario in ten lines."""

from __future__ import annotations

from typing import Any, Optional, Union

from minicoap.codec.message import Message, decode
from minicoap.core.endpoint import EndpointCore
from minicoap.core.machine import DatagramMachine
from minicoap.core.parameters import Limits, TransmissionParameters
from minicoap.core.request import Path, Response, SecurePath
from minicoap.core.resource import Site
from minicoap.errors import CoapError
from minicoap.security.association import server_path
from minicoap.simulate.dtls import make_certificate, message_in, secured
from minicoap.simulate.link import Link
from minicoap.simulate.world import World

_TRUSTING = Limits(amplification=0)

Outcome = Union[Response, CoapError]


class Pair:
    """Two endpoints joined by two links.

    ::

        pair = Pair(Site(Resource("/time", get=read_time)), link=Link(loss=0.2))
        assert pair.request(codes.GET, "time").text == "noon"
        assert pair.world.now < 93.0

    `client` and `server` are the cores, `client_host` and `server_host` where they run; `there` is the link to the
    server, `back` the one to the client. Parameters and limits hold for both;
    without limits given, each believes the other's address, so that a scenario has no messages but its own.
    With `secure` they speak through pretended DTLS (`minicoap.simulate.dtls`), with certificates of their names both
    ways; `path` is what the client knows the server by.
    """

    def __init__(
        self,
        site: Optional[Site] = None,
        *,
        seed: int = 0,
        link: Optional[Link] = None,
        parameters: TransmissionParameters = TransmissionParameters(),  # noqa: B008  immutable
        limits: Limits = _TRUSTING,
        secure: bool = False,
    ) -> None:
        self.world = World(seed, link=link, trace=10_000)
        self.client_host = self.world.host(("client", 5683))
        self.server_host = self.world.host(("server", 5683))
        self.there = self.world.link(self.client_host, self.server_host)
        self.back = self.world.link(self.server_host, self.client_host)
        self.client = EndpointCore(self.world.entropy("client"), parameters=parameters, limits=limits)
        self.server = EndpointCore(self.world.entropy("server"), site=site, parameters=parameters, limits=limits)
        self.path: Path = self.server_host.address
        if secure:
            self.path = server_path(self.server_host.address, "server")
        self.client_host.boot(self._machine("client", self.client, secure))
        self.server_host.boot(self._machine("server", self.server, secure))

    def _machine(self, name: str, core: EndpointCore, secure: bool) -> DatagramMachine:
        if not secure:
            return core
        return secured(self.world, name, core, certificate=make_certificate(name, names=(name,)))

    def start(self, code: int, *uri_path: str, **arguments: Any) -> list[Outcome]:
        """Send a request and return the list that its outcome will be put into (see `EndpointCore.request`)."""
        outcomes: list[Outcome] = []
        self.client.request(code, self.path, outcomes.append, self.world.now, uri_path=uri_path, **arguments)
        self.client_host.wake()
        return outcomes

    def outcome(self, code: int, *uri_path: str, **arguments: Any) -> Outcome:
        """Send a request, run the world until its outcome is there, and return that."""
        outcomes = self.start(code, *uri_path, **arguments)
        if not self.world.run_until(lambda: bool(outcomes)):
            raise AssertionError("the request has no outcome, and nothing is left to happen")
        return outcomes[0]

    def request(self, code: int, *uri_path: str, **arguments: Any) -> Response:
        """Send a request and return its response; raises the error that it ended with."""
        outcome = self.outcome(code, *uri_path, **arguments)
        if isinstance(outcome, CoapError):
            raise outcome
        return outcome

    def messages(self) -> list[tuple[str, Message]]:
        """Return the messages sent so far, each with the name of its sender, "client" or "server"."""
        sent = [(datagram.source[0], datagram.data) for datagram in self.world.trace]
        if isinstance(self.path, SecurePath):
            sent = [(sender, message) for sender, data in sent if (message := message_in(data)) is not None]
        return [(sender, decode(data)) for sender, data in sent]
