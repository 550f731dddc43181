"""The ETSI test descriptions TD_COAP_OBS_01 to 14, our client against our server; 03 was withdrawn.

They are of 2014 and follow drafts: where RFC 7641 differs it wins, and the test says so. "Display" is what the caller
of `observe` is told. The resources change every five seconds.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Optional

import pytest

from minicoap.codec import codes
from minicoap.codec.message import ACK, CON, NON, RST, Message
from minicoap.codec.options import BLOCK2, CONTENT_FORMAT, OBSERVE
from minicoap.core.endpoint import EndpointCore
from minicoap.core.request import Request, Response
from minicoap.core.resource import Resource, Site
from minicoap.simulate.link import Link
from minicoap.simulate.pair import Pair

DESCRIPTIONS = Path(__file__).parents[4] / "shared/reference/etsi-td-coap4/block.yml"
PERIOD = 5.0


class Observed:
    """A client that observes /obs, and a server that changes it."""

    def __init__(self, *, link: Optional[Link] = None, seed: int = 0, sizes: tuple[int, ...] = (0,), **resource: Any):
        self.value = 0
        self.sizes = sizes
        self.content_format = 0
        self.exists = True
        self.resource = resource
        self.changes = True
        self.pair = Pair(self.site(), link=link, seed=seed)
        self.world = self.pair.world
        self.displayed: list[Response] = []
        self.since = 0
        self.world.call_later(PERIOD, self.period)

    def site(self) -> Site:
        self.current_site = Site(
            Resource("/obs", get=self.get, put=self.put, delete=self.delete, observable=True, **self.resource)
        )
        return self.current_site

    def body(self) -> bytes:
        return (b"%d;" % self.value).ljust(self.sizes[self.value % len(self.sizes)], b".")

    def get(self, request: Request) -> Response:
        if not self.exists:
            return Response(codes.NOT_FOUND)
        return Response(payload=self.body(), content_format=self.content_format)

    def put(self, request: Request) -> Response:
        self.value = int(request.payload)
        self.content_format = request.content_format or 0
        self.current_site.changed("/obs")
        return Response(codes.CHANGED)

    def delete(self, request: Request) -> Response:
        self.exists = False
        self.current_site.changed("/obs")
        return Response(codes.DELETED)

    def period(self) -> None:
        self.world.call_later(PERIOD, self.period)
        if self.changes:
            self.value += 1
            self.current_site.changed("/obs")
            self.pair.server_host.wake()

    def observe(self, **arguments: Any) -> Message:
        """Register; return the request, checked as step 2 has it."""
        path = self.pair.server_host.address
        self.observation = self.pair.client.observe(
            path,
            self.displayed.append,
            self.world.now,
            uri_path=("obs",),
            **arguments,  # type: ignore[arg-type]
        )
        self.pair.client_host.wake()
        ((sender, request),) = self.news()
        assert (sender, request.code) == ("client", codes.GET)
        assert request.type == (CON if arguments.get("confirmable", True) else NON)
        assert request.token
        assert request.options.all(OBSERVE) == (b"",)
        return request

    def news(self) -> list[tuple[str, Message]]:
        """What was sent since it was asked for last."""
        messages = self.pair.messages()
        new, self.since = messages[self.since :], len(messages)
        return new

    def first_response(self, request: Message) -> Message:
        """The answer to the registration, checked as step 3 has it."""
        self.world.run_for(1.0)
        response = next(message for sender, message in self.news() if sender == "server")
        assert (response.type, response.code, response.token) == (ACK, codes.CONTENT, request.token)
        assert response.options.uint(CONTENT_FORMAT) == self.content_format
        assert response.options.uint(OBSERVE) is not None
        return response

    def loop(self, first: Message, rounds: int = 3, type: int = CON) -> list[Message]:
        """Steps 4 to 6: notifications, each checked, acknowledged if it is confirmable, and displayed."""
        before = len(self.displayed)
        self.world.run_for(rounds * PERIOD)
        news = self.news()
        notifications = [message for sender, message in news if sender == "server" and message.type != ACK]
        assert len(notifications) == rounds
        latest = first
        for notification in notifications:
            assert (notification.type, notification.code, notification.token) == (type, codes.CONTENT, first.token)
            assert notification.options.get(CONTENT_FORMAT) == first.options.get(CONTENT_FORMAT)
            assert is_newer(latest, notification)
            if type == CON:
                assert ("client", Message(ACK, 0, notification.message_id)) in news
            latest = notification
        assert len(self.displayed) == before + rounds
        assert self.displayed[-1].body == self.body()
        return notifications

    def registered(self) -> Message:
        """Steps 1 to 6."""
        first = self.first_response(self.observe())
        return self.loop(first)[-1]

    def is_silent(self) -> bool:
        """Whether the server sends nothing for this observation any more, and the client displays nothing."""
        displayed = len(self.displayed)
        self.news()
        self.changes = True
        self.world.run_for(40.0)
        from_server = [message for sender, message in self.news() if sender == "server"]
        return not from_server and len(self.displayed) == displayed


def is_newer(before: Message, after: Message) -> bool:
    old, new = before.options.uint(OBSERVE), after.options.uint(OBSERVE)
    assert old is not None
    assert new is not None
    return 0 < (new - old) % (1 << 24) < 1 << 23


@pytest.mark.skipif(not DESCRIPTIONS.exists(), reason=f"no test descriptions: {DESCRIPTIONS} is missing")
def test_every_description_has_its_test() -> None:
    names = re.findall(r"^(TD_COAP_OBS_\d\d):", DESCRIPTIONS.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(names) == 13
    assert [f"test_{name}" for name in names] == [name for name in globals() if name.startswith("test_TD_COAP_OBS")]


def test_TD_COAP_OBS_01() -> None:
    """Handle resource observation with CON messages"""
    observed = Observed()
    observed.loop(observed.first_response(observed.observe()))


def test_TD_COAP_OBS_02() -> None:
    """Handle resource observation with NON messages

    The RFC has the type of notifications independent of the request's, and wants a confirmable one among them (§4.5).
    """
    observed = Observed(notify_confirmable=False)
    request = observed.observe(confirmable=False)
    observed.world.run_for(1.0)
    ((_, first),) = observed.news()
    assert (first.type, first.code, first.token) == (NON, codes.CONTENT, request.token)
    last = observed.loop(first, rounds=5, type=NON)[-1]
    observed.loop(last, rounds=1, type=CON)


def test_TD_COAP_OBS_04() -> None:
    """Client detection of deregistration (Max-Age)

    The RFC has the client wait 5 to 15 s after Max-Age (§3.3.1), not MAX_LATENCY as the drafts had. Where the server's
    numbers go on, as those of a clock do, the same token is registered again and that is all.
    """
    observed = Observed()
    last = observed.registered()
    at = observed.world.now
    observed.pair.server = EndpointCore(observed.world.entropy("rebooted"), site=observed.site())
    observed.pair.server_host.boot(observed.pair.server)
    displayed = len(observed.displayed)
    observed.world.run_for(60.0)
    assert observed.news() == []
    assert len(observed.displayed) == displayed
    observed.world.run_until(lambda: len(observed.displayed) > displayed)
    assert 60.0 < observed.world.now - at < 80.0
    (_, again), (_, response) = observed.news()
    assert (again.type, again.code, again.token) == (CON, codes.GET, last.token)
    assert again.options.all(OBSERVE) == (b"",)
    assert (response.type, response.code, response.token) == (ACK, codes.CONTENT, last.token)
    assert response.options.uint(OBSERVE) is not None
    observed.loop(response)


def test_TD_COAP_OBS_05() -> None:
    """Server detection of deregistration (client OFF)"""
    observed = Observed()
    last = observed.registered()
    observed.pair.client_host.crash()
    observed.world.run_for(120.0)
    transmissions = [message for sender, message in observed.news() if sender == "server"]
    assert len(transmissions) == 5
    for before, after in zip([last, *transmissions], transmissions):
        assert is_newer(before, after)
    assert observed.pair.server.footprint()["observers"] == 0
    assert observed.is_silent()


def test_TD_COAP_OBS_06() -> None:
    """Server detection of deregistration (explicit RST)"""
    observed = Observed()
    last = observed.registered()
    observed.pair.client = EndpointCore(observed.world.entropy("rebooted"))
    observed.pair.client_host.boot(observed.pair.client)
    displayed = len(observed.displayed)
    observed.world.run_for(PERIOD)
    (_, notification), (_, rejection) = observed.news()
    assert (notification.type, notification.token) == (CON, last.token)
    assert rejection == Message(RST, 0, notification.message_id)
    assert len(observed.displayed) == displayed
    assert observed.is_silent()


def end_of(observed: Observed, code: int) -> None:
    """A last notification with an error code and without the option, and then silence."""
    displayed = len(observed.displayed)
    observed.changes = False
    observed.world.run_for(2.0)
    (final,) = [message for sender, message in observed.news() if sender == "server" and message.type == CON]
    assert (final.code, final.options.get(OBSERVE)) == (code, None)
    assert [response.code for response in observed.displayed[displayed:]] == [code]
    assert observed.observation.is_over
    assert observed.is_silent()


def test_TD_COAP_OBS_07() -> None:
    """Server cleans the observers list on DELETE"""
    observed = Observed()
    observed.registered()
    observed.pair.start(codes.DELETE, "obs")
    end_of(observed, codes.NOT_FOUND)


def test_TD_COAP_OBS_08() -> None:
    """Server cleans the observers list when observed resource content-format changes"""
    observed = Observed()
    observed.registered()
    observed.pair.start(codes.PUT, "obs", payload=b"100", content_format=50)
    end_of(observed, codes.NOT_ACCEPTABLE)


def test_TD_COAP_OBS_09() -> None:
    """Update of the observed resource"""
    observed = Observed()
    last = observed.registered()
    observed.pair.start(codes.PUT, "obs", payload=b"100", content_format=0)
    observed.world.run_for(1.0)
    (notification,) = [message for sender, message in observed.news() if sender == "server" and message.type == CON]
    assert (notification.code, notification.token, notification.payload) == (codes.CONTENT, last.token, b"100;")
    assert is_newer(last, notification)
    assert observed.displayed[-1].body == b"100;"
    observed.loop(notification)


def test_TD_COAP_OBS_10() -> None:
    """GET does not cancel resource observation"""
    observed = Observed()
    last = observed.registered()
    observed.pair.start(codes.GET, "obs")
    observed.world.run_for(1.0)
    (_, request), (_, response) = observed.news()
    assert request.token != last.token
    assert request.options.get(OBSERVE) is None
    assert (response.type, response.code, response.token) == (ACK, codes.CONTENT, request.token)
    assert response.options.get(OBSERVE) is None
    assert response.options.get(CONTENT_FORMAT) == last.options.get(CONTENT_FORMAT)
    observed.loop(last)


@pytest.mark.parametrize("seed", range(10))
def test_TD_COAP_OBS_11(seed: int) -> None:
    """Handle resource observation with CON messages (lossy case)

    Never are several notifications active at one time: what is repeated carries the latest state (RFC 7641 §4.5.2).
    """
    observed = Observed(link=Link(loss=0.3, delay=0.1, jitter=0.2), seed=seed)
    token = observed.observe().token
    world = observed.world
    active: list[int] = []

    def check() -> None:
        peer = observed.pair.server._peers.find(observed.pair.client_host.address)
        if peer is not None:
            active.append(len(peer.outstanding))

    world.after_event.append(check)
    world.run_for(300.0)
    assert max(active) == 1
    notifications = [m for sender, m in observed.news() if sender == "server" and m.type == CON and m.token == token]
    assert len(notifications) > 10
    assert all(is_newer(before, after) for before, after in zip(notifications, notifications[1:]))
    values = [int(response.body[:-1]) for response in observed.displayed]
    assert values == sorted(values)
    observed.changes = False
    world.run_for(200.0)
    assert observed.displayed[-1].body == observed.body()


def test_TD_COAP_OBS_12() -> None:
    """GET with Observe=1 does cancel resource observation"""
    observed = Observed()
    last = observed.registered()
    observed.observation.cancel(observed.world.now)
    observed.pair.client_host.wake()
    observed.world.run_for(1.0)
    (_, request), (_, response) = observed.news()
    assert (request.type, request.code, request.token) == (CON, codes.GET, last.token)
    assert request.options.all(OBSERVE) == (b"\x01",)
    assert (response.type, response.code, response.token) == (ACK, codes.CONTENT, last.token)
    assert response.options.get(OBSERVE) is None
    assert response.options.get(CONTENT_FORMAT) == last.options.get(CONTENT_FORMAT)
    assert observed.is_silent()


def check_block(message: Message) -> bool:
    """Whether a message has the first block of a long body; then it has to be a full one."""
    block = message.options.uint(BLOCK2)
    if block is None:
        return False
    assert block >> 4 == 0
    assert block & 8
    assert len(message.payload) == 16 << (block & 7)
    return True


def test_TD_COAP_OBS_13() -> None:
    """Handle observation of large resources (with Block2)"""
    observed = Observed(sizes=(3000,))
    first = observed.first_response(observed.observe())
    assert check_block(first)
    notifications = observed.loop(first)
    assert all(check_block(notification) for notification in notifications)
    assert len(observed.displayed) == 4
    assert {len(response.body) for response in observed.displayed} == {3000}


@pytest.mark.parametrize("value", [0, 1], ids=["long at first", "short at first"])
def test_TD_COAP_OBS_14(value: int) -> None:
    """Handle observation of variable size large resources (with Block2)"""
    observed = Observed(sizes=(3000, 10, 1024, 1025))
    observed.value = value
    first = observed.first_response(observed.observe())
    assert check_block(first) == (value == 0)
    notifications = observed.loop(first, rounds=8)
    assert [check_block(notification) for notification in notifications] == [
        observed.sizes[(value + 1 + index) % 4] > 1024 for index in range(8)
    ]
    assert [len(response.body) for response in observed.displayed] == [
        observed.sizes[(value + index) % 4] for index in range(9)
    ]
