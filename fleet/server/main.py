"""The server's process: socket, database, signals, what the service manager hears, and its restart by itself.

On restart the process replaces itself and hands its socket on to its successor by systemd's protocol (LISTEN_FDS), so
that datagrams that arrive meanwhile wait in the kernel, and the port is the same even if it was any free one. To a
service manager it stays the same process (MAINPID), which reloads.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sqlite3
import sys
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Callable, NoReturn, Optional, Union

from fleet.errors import UsageError
from fleet.host.activation import hand_over
from fleet.host.addresses import is_loopback
from fleet.host.clock import SystemClock
from fleet.host.facts import LinuxFacts
from fleet.host.files import SystemFiles
from fleet.host.lock import held
from fleet.host.notify import STOPPING, Heartbeat, service_manager
from fleet.server.config import ServerConfig
from fleet.server.listening import PLAIN, Listening, has_authority, listen, serves_plain
from fleet.server.resources.system import RESTART
from fleet.server.server import Server
from fleet.server.store.interface import Post
from fleet.server.store.sqlite import SqliteLedger
from minicoap.core.machine import DatagramMachine
from minicoap.errors import CoapError
from minicoap.shell.entropy import SystemEntropy
from minicoap.shell.udp import UdpShell

if TYPE_CHECKING:
    from fleet.server.certification import Certification
    from minicoap.shell.secure import SecureShell

    Shell = Union[UdpShell, SecureShell]

logger = logging.getLogger(__name__)

FAILED = "failed"
_LINGER = 0.2  # seconds in which the last answers leave before a stop
_DRAIN = 10.0  # seconds that the ledger may take to answer what was asked of it before a stop


def run(config: ServerConfig, passphrase: Optional[bytes] = None) -> int:
    """Serve until told to stop; returns the exit code, or does not return if the server restarts.

    `passphrase` is that of the authority's key, if it has one. Raises UsageError for a configuration that cannot work.
    """
    serves_plain(config.plain_host, config)
    os.makedirs(config.data_dir, exist_ok=True)
    with held(config.data_dir, "server"):
        action, listening = asyncio.run(_serve(config, passphrase))
    if action == RESTART:
        _replace_process(listening)
    listening.close()
    return 1 if action == FAILED else 0


async def _serve(config: ServerConfig, passphrase: Optional[bytes]) -> tuple[str, Listening]:
    """Serve until stopped; returns why, and the sockets for a successor."""
    loop = asyncio.get_running_loop()
    config, listening = await listen(config)
    stopped: asyncio.Future[str] = loop.create_future()
    hurried = asyncio.Event()
    manager = service_manager()
    shell: Optional[Shell] = None

    def stop(action: str) -> None:
        if not stopped.done():
            stopped.set_result(action)

    def signalled() -> None:
        if stopped.done():
            hurried.set()  # told twice, or during a restart: whoever still waits for an answer has to ask again
        stop("shutdown")

    def post(completion: Callable[[], None]) -> None:
        loop.call_soon_threadsafe(complete, completion)

    def complete(completion: Callable[[], None]) -> None:
        completion()
        if shell is not None:
            shell.wake()

    def thread_failed(failure: threading.ExceptHookArgs) -> None:
        # Without one of the ledger's threads nothing can be done any more: whoever watches over us is to start anew.
        logger.critical("a thread failed", exc_info=failure.exc_value)
        loop.call_soon_threadsafe(stop, FAILED)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled)
    threading.excepthook = thread_failed
    revoked: list[str] = []  # until there is a server to write it down
    certification = _open_certification(config, passphrase, revoked)
    ledger = _open_ledger(config, post)
    files = SystemFiles()
    try:
        uris = listening.uris(config.host, () if certification is None else certification.hosts)
        server = Server(
            config,
            ledger=ledger,
            clock=SystemClock(),
            entropy=SystemEntropy(),
            files=files,
            facts=LinuxFacts(config.data_dir),
            servers=tuple(uris.values()),
            act=stop,
            registrar=None if certification is None else certification.registrar,
        )
        ready = asyncio.Event()
        server.start(ready.set)
        await ready.wait()
        successor = listening.duplicate()
        machine: DatagramMachine = server
        if config.debug:
            from minicoap.shell.trace import traced

            machine = traced(server, config.debug)
        shell = _run_on(listening, machine, certification, loop)
        heartbeat = Heartbeat(manager, loop, server.check, server.status)
        try:
            _announce(config, uris)
            if certification is not None:
                _keep_up(certification, loop, server, revoked)
            heartbeat.begin()
            action = await stopped
            if action == RESTART:
                manager.tell_restart()
            else:
                manager.tell(STOPPING, status="answering what was asked before the end")
            if action != FAILED:  # then the ledger answers nothing any more
                await _drain(server, hurried)
            await _either(hurried, asyncio.ensure_future(asyncio.sleep(_LINGER)))
            if action == RESTART and hurried.is_set():
                action = "shutdown"
        finally:
            heartbeat.stop()
            shell.close()
            server.stop()
    finally:
        ledger.close()
        files.close()
        if certification is not None:
            certification.close()
    logger.info("stopped: %s", action)
    return action, successor


async def _drain(server: Server, hurried: asyncio.Event) -> None:
    """Wait until the ledger has answered what it was asked, and what followed from those answers, but not for ever."""
    for _ in range(2):
        answered = asyncio.Event()
        server.check(answered.set)
        if not await _either(hurried, asyncio.ensure_future(asyncio.wait_for(answered.wait(), _DRAIN))):
            return


async def _either(hurried: asyncio.Event, task: asyncio.Future[Any]) -> bool:
    """Wait for `task` to end or somebody to be in a hurry; whether the task came to a good end."""
    hurry = asyncio.ensure_future(hurried.wait())
    await asyncio.wait([task, hurry], return_when=asyncio.FIRST_COMPLETED)
    hurry.cancel()
    if task.cancel():
        return False
    return task.exception() is None


def _open_certification(
    config: ServerConfig, passphrase: Optional[bytes], revoked: list[str]
) -> Optional[Certification]:
    """The certificates of this server; None where there is no authority, so that nobody is certified."""
    if not has_authority(config):
        return None
    # Only now: a server without certificates needs no `cryptography`.
    from fleet.server.certification import Certification

    certification = Certification(config.data_dir, SystemClock(), passphrase=passphrase, revoked=revoked.extend)
    revoked.clear()  # what was revoked before this start
    return certification


def _run_on(
    listening: Listening,
    machine: DatagramMachine,
    certification: Optional[Certification],
    loop: asyncio.AbstractEventLoop,
) -> Shell:
    """Run the server's machine on its sockets."""
    if certification is None:
        assert listening.plain is not None
        return UdpShell(machine, listening.plain, loop)
    from fleet.pki.connection import known_time, renew, server_credentials
    from minicoap.shell.secure import SecureShell

    try:
        credentials = server_credentials(certification.holder, certification.is_revoked)
    except CoapError as error:
        raise UsageError(str(error)) from error
    shell = SecureShell(machine, credentials, loop, wall=known_time(SystemClock()))
    for scheme, sock in listening.by_scheme().items():
        shell.listen(sock, scheme)

    def changed() -> None:
        renew(credentials, certification.holder)
        shell.credentials_changed()

    certification.changed = changed
    return shell


def _keep_up(certification: Certification, loop: asyncio.AbstractEventLoop, server: Server, revoked: list[str]) -> None:
    """Have done what is due about certificates, as long as the loop runs."""
    certification.run(loop.time())
    for serial in revoked:
        server.services.audit.revoked(serial)
    revoked.clear()
    loop.call_at(certification.next_due_at(), _keep_up, certification, loop, server, revoked)


def _open_ledger(config: ServerConfig, post: Post) -> SqliteLedger:
    database = os.path.join(config.data_dir, "fleet.sqlite")
    try:
        return SqliteLedger(database, post)
    except sqlite3.Error as error:
        raise UsageError(f"the database {database} cannot be opened: {error}") from error


def _announce(config: ServerConfig, uris: Mapping[str, str]) -> None:
    for uri in uris.values():
        print(f"listening on {uri}", flush=True)
    if PLAIN not in uris:
        return
    if is_loopback(config.plain_host):
        print("plain CoAP on loopback: everyone on this machine is an operator", flush=True)
    else:
        print("plain CoAP without protection (--insecure): everyone who reaches it is an operator", flush=True)


def _replace_process(listening: Listening) -> NoReturn:
    """Become a fresh process of the same command, which takes over the sockets."""
    environment = {**os.environ, **hand_over(listening.by_scheme())}
    logging.shutdown()
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *_own_arguments()], environment)


def _own_arguments() -> list[str]:
    """What follows the interpreter in the command line that started this process."""
    main = getattr(sys.modules["__main__"], "__spec__", None)
    if main is None:
        return sys.argv
    # Started by `python -m`: the file alone would look for its imports beside itself.
    name = main.name[: -len(".__main__")] if main.name.endswith(".__main__") else main.name
    return ["-m", name, *sys.argv[1:]]
