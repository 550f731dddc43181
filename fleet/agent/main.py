"""The agent's process: socket, journal, signals. What the idle agent imports is held to an allow-list."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Callable, Optional, Union

from fleet.agent.agent import Agent
from fleet.agent.config import AgentConfig
from fleet.errors import UsageError
from fleet.host.addresses import is_loopback
from fleet.host.boot import SystemBoot
from fleet.host.clock import SystemClock
from fleet.host.facts import LinuxFacts
from fleet.host.files import SystemFiles
from fleet.host.lock import held
from fleet.host.notify import STOPPING, Heartbeat, service_manager
from fleet.host.processes import ProcessResult, RunningProcess, SystemProcesses
from minicoap.codec.uri import CoapUri, format_uri, parse_uri
from minicoap.core.machine import DatagramMachine
from minicoap.core.request import Path
from minicoap.errors import CoapError, PathError
from minicoap.poll.addresses import resolve
from minicoap.poll.loop import Loop
from minicoap.shell.addresses import parse_literal
from minicoap.shell.entropy import SystemEntropy
from minicoap.shell.udp import UdpShell, open_socket

if TYPE_CHECKING:
    from fleet.agent.secured import Secured

logger = logging.getLogger(__name__)

RESOLVE_RETRY = 10.0  # seconds until the server's name is looked up again


def run(config: AgentConfig) -> int:
    """Serve until told to stop; returns the exit code. Raises UsageError for a configuration that cannot work."""
    uri = server_uri(config)
    data_dir = os.path.abspath(config.data_dir)
    os.makedirs(data_dir, exist_ok=True)
    python = config.python and os.path.abspath(config.python)
    file_root = config.file_root and os.path.abspath(config.file_root)
    with held(data_dir, "agent"), Loop() as loop:
        _run(config._replace(data_dir=data_dir, python=python, file_root=file_root), uri, loop)
    return 0


def server_uri(config: AgentConfig) -> CoapUri:
    """Where the server is. Raises UsageError for a URI that is none, and for one that needs --insecure."""
    try:
        uri = parse_uri(config.server)
    except CoapError as error:
        raise UsageError(f"--server {config.server}: {error}") from error
    if not uri.port or uri.query or any(uri.path):
        raise UsageError(f"--server {config.server}: give scheme, host and port only, as in coaps://192.0.2.7")
    if uri.scheme == "coap" and not is_loopback(uri.host) and not config.insecure:
        raise UsageError(
            f"plain CoAP to {uri.host} can be read and forged by anyone on the way, who could have anything "
            "installed here; run `fleet enroll` and use coaps://, or add --insecure if that is meant"
        )
    return uri


def _run(config: AgentConfig, uri: CoapUri, loop: Loop) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, loop.stop)
    secured = None if uri.scheme == "coap" else open_secured(config)
    sock = _open_socket(config)
    files = SystemFiles()
    processes = _Processes(loop)
    manager = service_manager()
    # Ready before there is a server: a node that boots without its network is no failure of the agent.
    heartbeat = Heartbeat(manager, loop, lambda answered: answered(), lambda: f"looking for {config.server}")
    heartbeat.begin()
    try:
        server = _find(uri, sock.family, loop)
        if server is None:
            return
        try:
            if secured is not None:
                server = secured.path_to(server, uri.host)
            agent = Agent(
                config,
                server,
                clock=SystemClock(),
                entropy=SystemEntropy(),
                files=files,
                facts=LinuxFacts(config.data_dir),
                processes=processes,
                boot=SystemBoot(processes),
                guard=None if secured is None else secured.guard(server),
                time_told=None if secured is None else secured.time_told,
            )
            agent.start()
        except OSError as error:
            raise UsageError(f"--data-dir {config.data_dir} cannot be used: {error}") from error
        machine: DatagramMachine = agent
        if config.debug:
            from minicoap.shell.trace import traced

            machine = traced(agent, config.debug)
        shell = (
            UdpShell(machine, sock, loop, exact=True) if secured is None else secured.run(agent, machine, sock, loop)
        )
        processes.ended = shell.wake
        heartbeat.check, heartbeat.status = agent.check, agent.status
        print(f"node {config.node_id} on port {sock.getsockname()[1]}, server {config.server}", flush=True)
        try:
            loop.run()
            manager.tell(STOPPING, status="stopping; a job under way goes on at the next start")
        finally:
            shell.close()
            logger.debug("woken %d times", loop.wakeups)
    finally:
        heartbeat.stop()
        processes.close()
        sock.close()
        files.close()


def open_secured(config: AgentConfig) -> Secured:
    """Return what a node with a certificate speaks CoAPS with; all that it takes is loaded only now.

    Raises UsageError if it has none that can be used.
    """
    from importlib.util import find_spec

    # `cryptography` brings an OpenSSL with it: Python's own, for hashes that it can do without, would cost 3.5 MB more.
    is_spared = "_hashlib" not in sys.modules and find_spec("_sha256" if sys.version_info < (3, 12) else "_sha2")
    if is_spared:
        sys.modules["_hashlib"] = None  # type: ignore[assignment]
    try:
        from fleet.agent.secured import Secured
    except ImportError as error:
        raise UsageError("CoAPS needs pyOpenSSL and cryptography: pip install 'minicoap[fleet,dtls]'") from error
    finally:
        if is_spared:
            del sys.modules["_hashlib"]
    secured = Secured(config.data_dir, SystemClock(), SystemEntropy())
    if secured.node_id != config.node_id:
        raise UsageError(
            f"--node-id {config.node_id}: this node's certificate is for {secured.node_id}; give that, or "
            "run `fleet enroll --again` for another"
        )
    return secured


def _open_socket(config: AgentConfig) -> socket.socket:
    """The socket for everything: on all addresses of both families, or of IPv4 alone where there is no IPv6."""
    hosts = [config.host] if config.host else ["::", "0.0.0.0"]
    while True:
        host = hosts.pop(0)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            address = parse_literal(host, config.port, family)
            if address is None:
                raise UsageError(f"{host!r} is no address to listen on")
            return open_socket(family, address)
        except (OSError, CoapError) as error:
            if not hosts:
                text = f"cannot listen on --port {config.port}: {error}; --port 0 takes any free one"
                raise UsageError(text) from error


def _find(uri: CoapUri, family: int, loop: Loop) -> Optional[Path]:
    """Look up the server until there is an answer; None if the agent is stopped before."""
    answer: Union[Path, CoapError, None] = None

    def look_up() -> None:
        resolve(uri.host, uri.port, family, loop, looked_up)

    def looked_up(outcome: Union[Path, CoapError]) -> None:
        nonlocal answer
        if isinstance(outcome, PathError):
            logger.warning("%s; again in %.0f s", outcome, RESOLVE_RETRY)
            loop.call_later(RESOLVE_RETRY, look_up)
            return
        answer = outcome
        loop.stop()

    look_up()
    loop.run()
    if isinstance(answer, CoapError):
        raise UsageError(f"--server {format_uri(uri)}: {answer}") from answer
    return answer


class _Processes(SystemProcesses):
    """Children whose end is followed by `ended`: what it led to has to be sent."""

    ended: Callable[[], None]

    def run(
        self, arguments: Sequence[str], input: bytes, timeout: float, done: Callable[[ProcessResult], None]
    ) -> RunningProcess:
        """Start a child, see `fleet.host.processes`."""

        def then(result: ProcessResult) -> None:
            done(result)
            self.ended()

        return super().run(arguments, input, timeout, then)
