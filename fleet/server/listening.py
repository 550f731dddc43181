"""Where a server listens: a socket for plain CoAP, one for CoAPS, opened by itself or inherited.

Plain CoAP can be read and forged by anyone on the way: it is served where only this machine can reach it, or where
somebody said that this is meant. CoAPS is served wherever there is an authority that certifies.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from typing import NamedTuple, Optional

from fleet.errors import UsageError
from fleet.host.activation import inherited_sockets
from fleet.host.addresses import is_loopback
from fleet.server.config import PKI_DIRECTORY, ServerConfig
from minicoap.asyncio.addresses import resolve_local
from minicoap.errors import CoapError
from minicoap.shell.udp import open_socket, prepare_socket

PLAIN, SECURE = "coap", "coaps"
_ALL = ("::", "0.0.0.0")


class Listening(NamedTuple):
    """The sockets that are served: at least one of them."""

    plain: Optional[socket.socket]
    secure: Optional[socket.socket]

    def by_scheme(self) -> dict[str, socket.socket]:
        """The sockets by the scheme of what they serve."""
        pairs = ((PLAIN, self.plain), (SECURE, self.secure))
        return {scheme: sock for scheme, sock in pairs if sock is not None}

    def uris(self, host: str, names: Sequence[str] = ()) -> dict[str, str]:
        """The URIs that a client uses, by scheme: of `host` where that is a name, else of where they really listen.

        What listens on all addresses goes by the first of `names`, by which the server is known.
        """
        found = {}
        for scheme, sock in self.by_scheme().items():
            address, port = sock.getsockname()[:2]
            known = host if host and not _is_address(host) else address
            if known in _ALL:
                known = names[0] if names else socket.gethostname()
            found[scheme] = f"{scheme}://[{known}]:{port}" if ":" in known else f"{scheme}://{known}:{port}"
        return found

    def duplicate(self) -> Listening:
        """The same sockets under descriptors of their own, for a successor."""
        return Listening(
            None if self.plain is None else self.plain.dup(), None if self.secure is None else self.secure.dup()
        )

    def close(self) -> None:
        """Close them."""
        for sock in self.by_scheme().values():
            sock.close()


def has_authority(config: ServerConfig) -> bool:
    """Whether this server has an authority that certifies, and so serves CoAPS."""
    return os.path.exists(os.path.join(config.data_dir, PKI_DIRECTORY))


def serves_plain(host: str, config: ServerConfig) -> bool:
    """Whether plain CoAP is served on `host`. Raises UsageError if nothing would be served at all."""
    if is_loopback(host) or config.insecure:
        return True
    if not has_authority(config):
        raise UsageError(
            f"plain CoAP on {host} can be read and forged by anyone on the way; run `fleet pki init` to have it "
            "secured, add --insecure if this is meant, or use --host 127.0.0.1"
        )
    return False


async def listen(config: ServerConfig) -> tuple[ServerConfig, Listening]:
    """Return the settings with where it really listens, and the sockets. Raises UsageError for what cannot work."""
    inherited = inherited_sockets()
    if inherited:
        return _inherit(config, inherited)
    plain = secure = None
    try:
        if serves_plain(config.plain_host, config):
            plain = await _open([config.plain_host], config.port, "--port")
        if has_authority(config):
            # All addresses of both families, or of IPv4 alone where there is no IPv6.
            hosts = [config.host] if config.host else list(_ALL)
            secure = await _open(hosts, config.secure_port, "--secure-port")
    except UsageError:
        Listening(plain, secure).close()
        raise
    return config, Listening(plain, secure)


def _inherit(config: ServerConfig, inherited: list[tuple[str, socket.socket]]) -> tuple[ServerConfig, Listening]:
    found: dict[str, socket.socket] = {}
    try:
        for name, sock in inherited:
            scheme = name if name in (PLAIN, SECURE) else _scheme(sock, config)
            if scheme in found:
                raise UsageError(f"two sockets were passed on for {scheme}: one of each, named coap and coaps, will do")
            prepare_socket(sock)
            found[scheme] = sock
        if SECURE in found and not has_authority(config):
            raise UsageError("a socket for CoAPS was passed on, but there is no authority: run `fleet pki init`")
        if PLAIN in found:
            host = str(found[PLAIN].getsockname()[0])
            # Whoever opened it chose the address; what was said of --host is true of another one. Where CoAPS
            # listens says nothing of who can reach this one.
            if not serves_plain(host, config):
                raise UsageError(
                    f"a socket for plain CoAP on {host} was passed on, which can be read and forged by anyone on the "
                    "way; add --insecure if this is meant"
                )
            if not config.host or _is_address(config.host):
                config = config._replace(host=host)
    except (OSError, UsageError):
        for _, sock in inherited:
            sock.close()
        raise
    return config, Listening(found.get(PLAIN), found.get(SECURE))


def _scheme(sock: socket.socket, config: ServerConfig) -> str:
    return SECURE if sock.getsockname()[1] == config.secure_port else PLAIN


async def _open(hosts: Sequence[str], port: int, flag: str) -> socket.socket:
    """Listen on the first of `hosts` that can be had."""
    for host in hosts:
        try:
            family, address = await resolve_local(host, port, asyncio.get_running_loop())
            return open_socket(family, address)
        except (OSError, CoapError) as error:
            failure = UsageError(f"cannot listen on --host {host} {flag} {port}: {error}")
            failure.__cause__ = error
    raise failure


def _is_address(host: str) -> bool:
    """Whether `host` is an address, not a name (which nodes were told and are to go on using)."""
    return ":" in host or host.replace(".", "").isdecimal()
