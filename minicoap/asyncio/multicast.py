"""What `Endpoint.join` and `Endpoint.multicast` do: membership in groups, and the answers of their members."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from typing import Any, Callable, Optional, Union

from minicoap.asyncio.addresses import resolve
from minicoap.asyncio.groups import interface_index, is_group, open_group_socket, send_by
from minicoap.codec.uri import CoapUri, format_uri
from minicoap.core.endpoint import EndpointCore
from minicoap.core.request import Path, Response
from minicoap.errors import CoapError, PathError, UsageError
from minicoap.shell.udp import UdpShell

Answers = asyncio.Queue[Union[tuple[str, Response], CoapError, None]]
"""A member's URI and its response; the error that ended the request; None for its end."""
Received = Callable[[bytes, Path, float], None]
"""What takes a datagram, where it came from, and when."""


def join(received: Received, shell: UdpShell, target: CoapUri, interface: Optional[str]) -> None:
    """Have `shell` hear what is sent to the group of `target`, too, and hand that to `received`."""
    uri = format_uri(target)
    target, index = _with_interface(target, interface)
    if ":" in target.host and shell.family != socket.AF_INET6:
        raise UsageError(f"{uri}: an endpoint that is bound to an IPv4 address cannot answer there")
    try:
        sock = open_group_socket(target.host.partition("%")[0], target.port, index, shell.main_socket)
    except OSError as error:
        raise PathError(f"cannot join {uri}: {error.strerror}", error) from error
    shell.join(sock, received)


async def ask(
    core: EndpointCore,
    shell: UdpShell,
    target: CoapUri,
    interface: Optional[str],
    code: int,
    answers: Answers,
    arguments: dict[str, Any],
) -> AsyncGenerator[tuple[str, Response], None]:
    """Ask the group of `target`; `answers` is where they arrive, and where the caller can put an error to end it."""
    uri = format_uri(target)
    loop = asyncio.get_running_loop()
    target, index = _with_interface(target, interface)
    path = await resolve(target.host, target.port, shell.family, loop)

    def on_response(response: Response, member: Path) -> None:
        answers.put_nowait((_uri_of(member), response))

    try:
        send_by(shell.main_socket, index)
    except OSError as error:
        raise PathError(f"cannot ask {uri}: {error.strerror}", error) from error
    request = core.multicast(
        code,
        path,
        on_response,
        answers.put_nowait,
        loop.time(),
        uri_path=target.path,
        query=target.query,
        **arguments,
    )
    try:
        shell.wake()
        while (answer := await answers.get()) is not None:
            if isinstance(answer, CoapError):
                raise answer
            yield answer
    finally:
        request.cancel(loop.time())
        shell.wake()


def _with_interface(target: CoapUri, interface: Optional[str]) -> tuple[CoapUri, int]:
    """Return the parts of a group's URI and the number of the interface, which its zone may name too."""
    if not is_group(target.host):
        raise UsageError(f"{target.host} is no multicast address, such as 224.0.1.187 or ff02::fd")
    host, _, zone = target.host.partition("%")
    index = interface_index(zone or interface)
    if index and ":" in host:
        target = target._replace(host=f"{host}%{index}")
    return target, index


def _uri_of(path: Path) -> str:
    """Return the URI of a member (RFC 7252 §8.2), without path."""
    host = str(path[0])
    if host.startswith("::ffff:") and "." in host:
        host = host[len("::ffff:") :]
    elif len(path) > 3 and path[3]:
        host = f"{host}%{socket.if_indextoname(path[3])}"
    return format_uri(CoapUri("coap", host, path[1])).rstrip("/")
