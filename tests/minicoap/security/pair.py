"""A client and a server with DTLS between them, joined by a link that a test may cut, delay and reorder."""

from __future__ import annotations

import time
from typing import Any, Callable, Optional

from minicoap.codec import codes
from minicoap.core.endpoint import EndpointCore
from minicoap.core.request import Path, Request, Response
from minicoap.core.resource import Resource, Site
from minicoap.security.credentials import Credentials
from minicoap.security.sessions import SecureMachine, SecurityLimits
from minicoap.shell.entropy import SystemEntropy
from tests.minicoap.security.certificates import Authority, Pair

SERVER: Path = ("192.0.2.1", 5684)
CLIENT: Path = ("192.0.2.9", 40000)
HOST = "server.example"

AUTHORITY = Authority()
SERVER_PAIR = AUTHORITY.issue("server", hosts=[HOST, "127.0.0.1", "::1"], uris=["urn:fleet:server:main"])
NODE_PAIR = AUTHORITY.issue("n1", uris=["urn:fleet:node:n1"])


def server_credentials(pair: Pair = SERVER_PAIR, **arguments: Any) -> Credentials:
    arguments.setdefault("trust", AUTHORITY.certificate)
    return Credentials(certificate=pair.certificate, key=pair.key, **arguments)


def client_credentials(pair: Optional[Pair] = NODE_PAIR, **arguments: Any) -> Credentials:
    arguments.setdefault("trust", AUTHORITY.certificate)
    if pair is not None:
        arguments.update(certificate=pair.certificate, key=pair.key)
    return Credentials(**arguments)


def whoami(request: Request) -> Response:
    identity = request.identity
    return Response(payload=" ".join((identity.scheme, identity.subject, *identity.claims)).encode())


def with_cookie(hello: bytes, cookie: bytes) -> bytes:
    """The hello with which a client brings a cookie (RFC 6347 §4.2.1)."""
    at = 60 + hello[59]
    body = hello[25:at] + bytes((len(cookie),)) + cookie + hello[at + 1 :]
    length = len(body).to_bytes(3, "big")
    message = b"\x01" + length + b"\x00\x01" + bytes(3) + length + body
    return hello[:10] + b"\x01" + len(message).to_bytes(2, "big") + message


class SecurePair:
    """`server` and `client` are the machines, `paths` the address that each client's datagrams come from."""

    def __init__(
        self,
        server: Optional[Credentials] = None,
        client: Optional[Credentials] = None,
        *,
        site: Optional[Site] = None,
        limits: SecurityLimits = SecurityLimits(),  # noqa: B008  immutable
        wall: Callable[[], Optional[float]] = time.time,
    ) -> None:
        site = site if site is not None else Site(Resource("/whoami", get=whoami, observable=True))
        self.now = 1000.0
        self.server_core = EndpointCore(SystemEntropy(), site=site)
        self.server_credentials = server if server is not None else server_credentials()
        self.server = SecureMachine(self.server_core, self.server_credentials, SystemEntropy(), wall, limits=limits)
        self.client_core = EndpointCore(SystemEntropy())
        self.client_credentials = client if client is not None else client_credentials()
        self.client = SecureMachine(self.client_core, self.client_credentials, SystemEntropy(), wall)
        self.address = CLIENT
        self.path = self.client.path_to(SERVER, HOST)
        self.is_cut = False
        self.sent: list[tuple[bytes, str]] = []
        self.outcomes: list[Any] = []

    def get(self, *segments: str, deliver: bool = True) -> None:
        """Ask the server; the outcome is the response's text, or the error."""
        self.client_core.request(codes.GET, self.path, self._done, self.now, uri_path=segments or ("whoami",))
        if deliver:
            self.deliver()

    def _done(self, outcome: Any) -> None:
        self.outcomes.append(outcome.text if isinstance(outcome, Response) else outcome)

    def deliver(self) -> None:
        """Carry datagrams to and fro until there are no more."""
        while True:
            up, down = self.client.datagrams_to_send(), self.server.datagrams_to_send()
            if not up and not down:
                return
            if self.is_cut:
                continue
            for data, _ in up:
                self.sent.append((data, "up"))
                self.server.datagram_received(data, self.address, self.now)
            for data, path in down:
                self.sent.append((data, "down"))
                if path == self.address:
                    self.client.datagram_received(data, SERVER, self.now)

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and what is due then happen."""
        end = self.now + seconds
        while True:
            due = [when for when in (self.client.next_timeout(), self.server.next_timeout()) if when is not None]
            if not due or min(due) > end:
                break
            self.now = max(self.now, min(due))
            for machine in (self.client, self.server):
                when = machine.next_timeout()
                if when is not None and when <= self.now:
                    machine.handle_timeout(self.now)
            self.deliver()
        self.now = end
