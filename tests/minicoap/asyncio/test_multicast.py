"""Groups on real sockets: on loopback, and of IPv6 in a network of their own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable
from typing import Any, Callable

import pytest

from minicoap import Endpoint, NetworkError, PathError, Resource, Response, Site, TransmissionParameters, UsageError
from minicoap.asyncio.groups import is_group
from tests.minicoap.asyncio.namespace import run_alone

GROUP = "224.0.1.187"
HASTY = TransmissionParameters(default_leisure=0.1)


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def site(name: str) -> Site:
    return Site(
        Resource("/name", get=lambda _: Response(payload=name.encode()), group=True, resource_type=f"kind-{name}"),
        Resource("/long", get=lambda _: Response(payload=name.encode() * 3000), group=True),
        Resource("/alone", get=lambda _: Response(payload=name.encode())),
    )


def run(scenario: Callable[[Endpoint, int, dict[str, str]], Awaitable[None]]) -> None:
    """Three members of a group on this machine, each at an address of its own, and who asks them."""

    async def main() -> None:
        port = free_port()
        members = [Endpoint(site(name), parameters=HASTY) for name in "abc"]
        try:
            for number, member in enumerate(members):
                await member.serve(f"coap://127.0.0.{number + 2}:{port}")
                await member.join(f"coap://{GROUP}:{port}", interface="lo")
            uris = {f"coap://127.0.0.{number + 2}:{port}": name for number, name in enumerate("abc")}
            async with Endpoint() as client:
                await scenario(client, port, uris)
        finally:
            for member in members:
                member.close()

    asyncio.run(main())


async def ask(client: Endpoint, port: int, path: str, **arguments: Any) -> dict[str, Response]:
    arguments = {"duration": 0.5, "interface": "lo", **arguments}
    return {
        member: response async for member, response in client.multicast(f"coap://{GROUP}:{port}{path}", **arguments)
    }


def test_every_member_answers_under_its_own_address() -> None:
    async def scenario(client: Endpoint, port: int, uris: dict[str, str]) -> None:
        answers = await ask(client, port, "/name")
        assert {uri: answer.text for uri, answer in answers.items()} == uris
        for uri, name in uris.items():
            assert (await client.get(f"{uri}/name")).text == name

    run(scenario)


def test_long_answers_come_whole() -> None:
    async def scenario(client: Endpoint, port: int, uris: dict[str, str]) -> None:
        answers = await ask(client, port, "/long")
        assert {uri: answer.text for uri, answer in answers.items()} == {uri: uris[uri] * 3000 for uri in uris}

    run(scenario)


def test_members_that_have_nothing_to_say_are_silent() -> None:
    async def scenario(client: Endpoint, port: int, uris: dict[str, str]) -> None:
        assert await ask(client, port, "/alone", duration=0.3) == {}

    run(scenario)


def test_discovery_finds_whom_the_filter_matches() -> None:
    async def scenario(client: Endpoint, port: int, uris: dict[str, str]) -> None:
        answers = await ask(client, port, "/.well-known/core?rt=kind-b")
        assert [uris[uri] for uri in answers] == ["b"]

    run(scenario)


def test_one_may_stop_listening_early() -> None:
    async def scenario(client: Endpoint, port: int, uris: dict[str, str]) -> None:
        answers = client.multicast(f"coap://{GROUP}:{port}/name", duration=60.0, interface="lo")
        async for uri, _ in answers:
            assert uri in uris
            break
        await answers.aclose()  # type: ignore[attr-defined]
        assert client.core.footprint()["groups"] == 0

    run(scenario)


def test_closing_the_endpoint_ends_the_wait() -> None:
    async def scenario(client: Endpoint, port: int, uris: dict[str, str]) -> None:
        asyncio.get_running_loop().call_soon(client.close)
        with pytest.raises(NetworkError, match="closed"):
            await ask(client, port, "/alone", duration=60.0)

    run(scenario)


@pytest.mark.parametrize("address", ["0.0.0.0", "[::]"])
def test_member_that_serves_all_addresses_hears_the_group_once_and_unicast_too(address: str) -> None:
    async def main() -> None:
        port = free_port()
        async with Endpoint(site("all"), parameters=HASTY) as member, Endpoint() as client:
            await member.serve(f"coap://{address}:{port}")
            await member.join(f"coap://{GROUP}:{port}", interface="lo")
            heard = [
                response.text
                async for _, response in client.multicast(f"coap://{GROUP}:{port}/name", duration=0.3, interface="lo")
            ]
            assert heard == ["all"]
            assert await ask(client, port, "/alone", duration=0.2) == {}
            assert (await client.get(f"coap://127.0.0.1:{port}/alone")).text == "all"

    asyncio.run(main())


def test_what_is_no_group_or_cannot_be_joined_is_refused() -> None:
    async def main() -> None:
        async with Endpoint() as endpoint:
            with pytest.raises(UsageError, match="serve first"):
                await endpoint.join(f"coap://{GROUP}")
            await endpoint.serve("coap://127.0.0.1:0")
            with pytest.raises(UsageError, match="no multicast address"):
                await endpoint.join("coap://127.0.0.1")
            with pytest.raises(UsageError, match="no network interface"):
                await endpoint.join(f"coap://{GROUP}", interface="nowhere0")
            with pytest.raises(UsageError, match="IPv4"):
                await endpoint.join("coap://[ff02::fd%25lo]")
            with pytest.raises(UsageError, match="no multicast address"):
                await endpoint.multicast("coap://127.0.0.1/x").__anext__()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
                taken.bind((GROUP, 0))
                with pytest.raises(PathError, match="cannot join"):
                    await endpoint.join(f"coap://{GROUP}:{taken.getsockname()[1]}", interface="lo")

    asyncio.run(main())


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("224.0.0.0", True),
        ("239.255.255.255", True),
        ("223.255.255.255", False),
        ("240.0.0.0", False),
        ("ff02::fd", True),
        ("ff05::fd%lo", True),
        ("fe80::1%lo", False),
        ("::ffff:224.0.1.187", False),
        ("example.com", False),
    ],
)
def test_group_is_told_from_its_address(host: str, expected: bool) -> None:
    assert is_group(host) is expected


def test_ipv6_groups_too() -> None:
    """Loopback has no multicast for IPv6, so on one end of a virtual wire; the system loops it back to this host."""
    output = run_alone(
        "ip link add wire0 type veth peer name wire1; ip link set wire1 up; ip link set wire0 addrgenmode none up\n"
        "ip addr add fd00::5/64 dev wire0 nodad; ip addr add fe80::5/64 dev wire0 nodad",
        """
        import asyncio
        from minicoap import Endpoint, Resource, Response, Site, TransmissionParameters

        async def main():
            site = Site(Resource("/x", get=lambda _: Response(payload=b"here"), group=True))
            hasty = TransmissionParameters(default_leisure=0.1)
            async with Endpoint(site, parameters=hasty) as member, Endpoint() as client:
                await member.serve("coap://[::]:5683")
                await member.join("coap://[ff02::fd%25wire0]")
                await member.join("coap://[ff05::fd]", interface="wire0")
                for uri in ("coap://[ff02::fd%25wire0]/x", "coap://[ff05::fd]/x"):
                    async for where, response in client.multicast(uri, duration=0.5, interface="wire0"):
                        print(uri, where, response.text)

        asyncio.run(main())
        """,
    )
    assert [line.split()[0] for line in output.splitlines()] == ["coap://[ff02::fd%25wire0]/x", "coap://[ff05::fd]/x"]
    assert all(line.endswith("here") for line in output.splitlines())
