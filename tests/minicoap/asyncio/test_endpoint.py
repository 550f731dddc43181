"""The endpoint over real loopback sockets: requests, bodies, coroutine handlers, errors, closing."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Optional

import pytest

from minicoap.asyncio.endpoint import Endpoint
from minicoap.codec import codes, contentformats
from minicoap.codec.options import URI_HOST
from minicoap.core.parameters import TransmissionParameters
from minicoap.core.request import Deferred, Request, Response
from minicoap.core.resource import Resource, Site
from minicoap.errors import NetworkError, OptionError, PathError, RequestTimeout, UsageError

BODY = bytes(range(256)) * 41 + b"end"
QUICK = TransmissionParameters(ack_timeout=0.02, max_retransmit=1, congestion_controlled=True)


def echo(request: Request) -> Response:
    text = f"{codes.code_name(request.code)} {request.payload.decode()}{request.content_format or ''}"
    return Response(codes.CONTENT, text.encode(), contentformats.TEXT)


def host_option(request: Request) -> Response:
    return Response(payload=(request.options.get(URI_HOST) or b"none"))


def count_bytes(request: Request) -> Response:
    return Response(codes.CHANGED, str(len(request.payload)).encode())


async def slow(request: Request) -> Response:
    await asyncio.sleep(0)
    return Response(payload=b"after a while: " + request.payload)


async def refuses(request: Request) -> Response:
    raise OptionError("not this one", codes.BAD_OPTION)


async def breaks(request: Request) -> Response:
    raise ZeroDivisionError


def site() -> Site:
    return Site(
        Resource("/echo", get=echo, put=echo, post=echo, delete=echo, fetch=echo),
        Resource("/host", get=host_option),
        Resource("/body", get=lambda request: Response(payload=BODY, etag=b"v1"), put=count_bytes),
        Resource("/slow", get=slow, post=slow),
        Resource("/refuses", get=refuses),
        Resource("/breaks", get=breaks),
    )


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until `condition` holds."""

    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0)

    await asyncio.wait_for(wait(), 20)


def run(scenario: Callable[[Endpoint, str], Awaitable[None]], served: Optional[Site] = None) -> None:
    """Run `scenario(client, uri of the server)`."""

    async def main() -> None:
        async with Endpoint(served or site()) as server, Endpoint(parameters=QUICK) as client:
            await server.serve("coap://127.0.0.1:0")
            await asyncio.wait_for(scenario(client, server.local_uri), 20)  # type: ignore[arg-type]

    asyncio.run(main())


def test_every_method_reaches_its_handler() -> None:
    async def scenario(client: Endpoint, uri: str) -> None:
        assert (await client.get(f"{uri}/echo")).text == "GET "
        assert (await client.put(f"{uri}/echo", b"x")).text == "PUT x"
        assert (await client.post(f"{uri}/echo", b"x", content_format=contentformats.JSON)).text == "POST x50"
        assert (await client.delete(f"{uri}/echo")).text == "DELETE "
        assert (await client.fetch(f"{uri}/echo", b"x", confirmable=False)).text == "FETCH x"

    run(scenario)


def test_error_responses_are_responses() -> None:
    async def scenario(client: Endpoint, uri: str) -> None:
        assert (await client.get(f"{uri}/nothing")).code == codes.NOT_FOUND
        assert (await client.post(f"{uri}/host")).code == codes.METHOD_NOT_ALLOWED

    run(scenario)


def test_name_of_the_host_travels_as_an_option_and_an_address_does_not() -> None:
    async def scenario(client: Endpoint, uri: str) -> None:
        assert (await client.get(f"{uri}/host")).text == "none"
        assert (await client.get(f"{uri}/host".replace("127.0.0.1", "ip4.example"))).text == "ip4.example"

    async def resolver(self: Any, host: str, port: int, **_: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("127.0.0.1", port))]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolver)
        run(scenario)


def test_coroutine_handlers_answer_from_a_task() -> None:
    async def scenario(client: Endpoint, uri: str) -> None:
        assert (await client.get(f"{uri}/slow")).text == "after a while: "
        # not repeated by the client, so answered only if the server is woken when the task is done
        assert (await client.get(f"{uri}/slow", confirmable=False)).text == "after a while: "
        texts = await asyncio.gather(*(client.post(f"{uri}/slow", str(n).encode()) for n in range(20)))
        assert [response.text for response in texts] == [f"after a while: {n}" for n in range(20)]

    run(scenario)


def test_coroutine_handler_that_fails_is_answered_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(client: Endpoint, uri: str) -> None:
        refusal = await client.get(f"{uri}/refuses")
        assert (refusal.code, refusal.text) == (codes.BAD_OPTION, "not this one")
        assert (await client.get(f"{uri}/breaks")).code == codes.INTERNAL_SERVER_ERROR

    with caplog.at_level(logging.ERROR):
        run(scenario)
    assert "GET /breaks" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_handler_may_answer_later_from_outside() -> None:
    waiting: list[Deferred] = []

    def later(request: Request) -> Deferred:
        waiting.append(request.defer())
        return waiting[-1]

    async def main() -> None:
        async with Endpoint(Site(Resource("/later", get=later))) as server, Endpoint() as client:
            await server.serve("coap://127.0.0.1:0")
            request = asyncio.ensure_future(client.get(f"{server.local_uri}/later"))
            await until(lambda: waiting)
            waiting[0].resolve(Response(payload=b"now"), asyncio.get_running_loop().time())
            server.wake()
            assert (await asyncio.wait_for(request, 20)).text == "now"

    asyncio.run(main())


def test_bodies_of_any_size_travel_both_ways() -> None:
    async def scenario(client: Endpoint, uri: str) -> None:
        assert (await client.get(f"{uri}/body")).body == BODY
        assert (await client.put(f"{uri}/body", BODY)).text == str(len(BODY))

    run(scenario)


def test_silence_is_a_timeout() -> None:
    async def scenario(client: Endpoint, uri: str) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
            mute.bind(("127.0.0.1", 0))
            silent = f"coap://127.0.0.1:{mute.getsockname()[1]}"
            with pytest.raises(RequestTimeout):
                await client.get(f"{silent}/x")
            with pytest.raises(RequestTimeout):
                await client.get(f"{silent}/x", timeout=0.01)
            with pytest.raises(RequestTimeout):
                await client.ping(silent)
            with pytest.raises(RequestTimeout, match="within"):
                await client.ping(silent, timeout=0.01)

    run(scenario)


@pytest.mark.skipif(not hasattr(socket, "MSG_ERRQUEUE"), reason="only Linux tells of ICMP errors")
def test_closed_port_is_a_path_error_that_names_the_place() -> None:
    async def scenario(client: Endpoint, uri: str) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
            closed.bind(("127.0.0.1", 0))
            port = closed.getsockname()[1]
        with pytest.raises(PathError, match=rf"coap://127\.0\.0\.1:{port} cannot be reached: Connection refused"):
            await client.get(f"coap://127.0.0.1:{port}/x")

    run(scenario)


def test_ping_takes_the_time_of_a_round_trip() -> None:
    async def scenario(client: Endpoint, uri: str) -> None:
        assert 0.0 < await client.ping(uri) < 10.0

    run(scenario)


def test_cancelled_task_ends_its_request() -> None:
    async def scenario(client: Endpoint, uri: str) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
            mute.bind(("127.0.0.1", 0))
            request = asyncio.ensure_future(client.get(f"coap://127.0.0.1:{mute.getsockname()[1]}/x"))
            await until(lambda: client.core.footprint()["timers"])
            timers = client.core.footprint()["timers"]
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
            assert client.core.footprint()["timers"] < timers

    run(scenario)


def test_closing_ends_what_waits() -> None:
    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
            mute.bind(("127.0.0.1", 0))
            client = Endpoint()
            request = asyncio.ensure_future(client.get(f"coap://127.0.0.1:{mute.getsockname()[1]}/x"))
            await until(lambda: client.core.footprint()["timers"])
            client.close()
            client.close()
            with pytest.raises(NetworkError, match="closed"):
                await request
            with pytest.raises(UsageError, match="closed"):
                await client.get("coap://127.0.0.1/x")

    asyncio.run(main())


@pytest.mark.parametrize(
    ("uri", "says"),
    [("coaps://127.0.0.1/x", "needs credentials"), ("coap://127.0.0.1:0/x", "port 0"), ("http://h/", "coap://")],
)
def test_request_that_cannot_work_is_refused(uri: str, says: str) -> None:
    async def scenario(client: Endpoint, _: str) -> None:
        with pytest.raises(UsageError, match=says):
            await client.get(uri)

    run(scenario)


def test_serving_where_one_cannot_is_refused() -> None:
    async def scenario(client: Endpoint, uri: str) -> None:
        with pytest.raises(PathError, match="in use"):
            await client.serve(uri)
        with pytest.raises(UsageError, match="site's resources"):
            await client.serve(f"{uri}/x")
        with pytest.raises(UsageError, match="not bound"):
            assert client.local_uri
        await client.get(f"{uri}/echo")
        with pytest.raises(UsageError, match="bound already"):
            await client.serve("coap://127.0.0.1:0")

    run(scenario)


def test_host_without_ipv6_uses_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    from minicoap.shell import udp as module

    opened = module.open_socket

    def without_ipv6(family: int, address: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError("Address family not supported by protocol")
        return opened(family, address)

    async def scenario(client: Endpoint, uri: str) -> None:
        assert (await client.get(f"{uri}/echo")).text == "GET "
        assert client.local_uri.startswith("coap://0.0.0.0:")

    monkeypatch.setattr(module, "open_socket", without_ipv6)
    run(scenario)
