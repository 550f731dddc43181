"""The loop in poll(2): times, descriptors, signals, other threads, and how often it wakes."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from minicoap.errors import CoapError, PathError, UsageError
from minicoap.poll import addresses
from minicoap.poll.addresses import resolve
from minicoap.poll.loop import Loop, Timer
from minicoap.shell.udp import UdpShell, open_socket
from tests.minicoap.simulate.machines import Recorder

LONG = 60.0  # seconds; nothing here takes so long unless it is broken


def run(loop: Loop) -> None:
    """Run `loop` until something stops it, and fail if nothing does."""
    failed: list[str] = []

    def took_too_long() -> None:
        failed.append("nobody stopped the loop")
        loop.stop()

    timer = loop.call_later(LONG, took_too_long)
    loop.run()
    timer.cancel()
    assert not failed


def test_timers_run_in_the_order_of_their_times_and_not_early() -> None:
    with Loop() as loop:
        ran: list[tuple[str, bool]] = []
        began = loop.time()
        for name, delay in (("second", 0.02), ("first", 0.01), ("third", 0.03)):
            loop.call_later(delay, lambda name=name, at=began + delay: ran.append((name, loop.time() >= at)))
        loop.call_at(began + 0.03, loop.stop)
        run(loop)

    assert ran == [("first", True), ("second", True), ("third", True)]


def test_each_wait_ends_once_and_only_for_what_is_due() -> None:
    with Loop() as loop:
        for count in range(1, 6):
            loop.call_later(0.005 * count, lambda: None)
        loop.call_later(0.001, lambda: None).cancel()
        loop.call_later(0.03, loop.stop)
        run(loop)

        assert loop.wakeups <= 6


def test_a_cancelled_timer_never_runs_and_is_not_kept() -> None:
    with Loop() as loop:
        ran: list[int] = []
        for number in range(1000):
            loop.call_later(LONG, ran.append, number).cancel()
        loop.call_later(0, loop.stop)
        run(loop)

        assert ran == []
        assert len(loop._timers) < 200


def test_a_timer_may_cancel_one_that_is_due_with_it() -> None:
    with Loop() as loop:
        ran: list[str] = []
        when = loop.time()
        others: list[Timer] = []
        loop.call_at(when, lambda: [other.cancel() for other in others])
        others.append(loop.call_at(when, ran.append, "other"))
        loop.call_later(0.001, loop.stop)
        run(loop)

    assert ran == []


def test_what_can_be_read_and_written_is_told_until_it_is_no_longer_wanted() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, Loop() as loop:
        read: list[bytes] = []

        def readable() -> None:
            read.append(ours.recv(10))
            if len(read) == 2:
                assert loop.remove_reader(ours)
                assert not loop.remove_reader(ours)
                theirs.send(b"three")
                loop.call_later(0.01, loop.stop)

        def writable(data: bytes) -> None:
            assert loop.remove_writer(theirs)
            theirs.send(data)
            loop.call_later(0.01, theirs.send, b"two")

        loop.add_reader(ours, readable)
        loop.add_writer(theirs, writable, b"one")
        run(loop)

        assert read == [b"one", b"two"]
        assert ours.recv(10) == b"three"


def test_a_signal_ends_the_waiting_and_is_handled_in_the_loop() -> None:
    before = signal.getsignal(signal.SIGUSR2)
    with Loop() as loop:
        loop.add_signal_handler(signal.SIGUSR2, loop.stop)
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR2)).start()
        run(loop)
        assert loop.wakeups <= 2

    assert signal.getsignal(signal.SIGUSR2) == before == signal.SIG_DFL
    assert signal.set_wakeup_fd(-1) == -1


def test_a_signal_before_the_loop_runs_is_not_lost() -> None:
    with Loop() as loop:
        loop.add_signal_handler(signal.SIGUSR2, loop.stop)
        os.kill(os.getpid(), signal.SIGUSR2)
        run(loop)


def test_other_threads_have_their_callbacks_run_in_the_loops() -> None:
    with Loop() as loop:
        ran: list[int] = []

        def told(number: int) -> None:
            ran.append(threading.get_ident())
            if number == 2:
                loop.stop()

        def tell() -> None:
            for number in range(3):
                loop.call_soon_threadsafe(told, number)

        thread = threading.Thread(target=tell)
        thread.start()
        run(loop)
        thread.join()

    assert ran == [threading.get_ident()] * 3
    loop.call_soon_threadsafe(told, 2)  # after its end it does no harm


def test_more_than_the_pipe_holds_is_run_all_the_same() -> None:
    with Loop() as loop:
        ran: list[int] = []
        for number in range(100_000):
            loop.call_soon_threadsafe(ran.append, number)
        loop.call_soon_threadsafe(loop.stop)
        run(loop)

    assert ran == list(range(100_000))


def test_what_a_callback_raises_is_logged_and_the_loop_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ValueError("broken")

    with Loop() as loop:
        loop.call_later(0, fail)
        loop.call_later(0.01, loop.stop)
        run(loop)

    assert "broken" in caplog.text


def test_the_udp_shell_runs_in_it_and_sleeps_until_something_is_due() -> None:
    class Machine(Recorder):
        deadline: Any = None

        def next_timeout(self) -> Any:
            return self.deadline

        def handle_timeout(self, now: float) -> None:
            super().handle_timeout(now)
            self.deadline = None
            loop.stop()

    with Loop() as loop, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(LONG)
        machine = Machine(b"answer")
        shell = UdpShell(machine, open_socket(socket.AF_INET, ("127.0.0.1", 0)), loop, exact=True)
        machine.deadline = loop.time() + 0.02
        shell.wake()
        machine.deadline = loop.time() + 0.1  # as where an answer has come: what was waited for is not due any more
        shell.wake()
        before = loop.wakeups
        run(loop)
        assert loop.wakeups - before == 1

        client.sendto(b"question", shell.local_address)
        loop.call_later(0.05, loop.stop)
        run(loop)
        assert client.recv(100) == b"answer"
        shell.close()


# Names


def resolved(host: str, family: int) -> Any:
    outcomes: list[Any] = []
    with Loop() as loop:

        def done(outcome: Any) -> None:
            outcomes.append((outcome, threading.get_ident() == ours))
            loop.stop()

        ours = threading.get_ident()
        resolve(host, 5683, family, loop, done)
        assert not outcomes, "done was called inside resolve"
        run(loop)
    ((outcome, is_in_the_loop),) = outcomes
    assert is_in_the_loop
    return outcome


@pytest.mark.parametrize(
    ("host", "family", "expected"),
    [
        ("192.0.2.7", socket.AF_INET, ("192.0.2.7", 5683)),
        ("192.0.2.7", socket.AF_INET6, ("::ffff:192.0.2.7", 5683, 0, 0)),
        ("a.example", socket.AF_INET, ("198.51.100.1", 5683)),
        ("a.example", socket.AF_INET6, ("::ffff:198.51.100.1", 5683, 0, 0)),
    ],
)
def test_a_host_becomes_an_address(monkeypatch: pytest.MonkeyPatch, host: str, family: int, expected: Any) -> None:
    monkeypatch.setattr(addresses.socket, "getaddrinfo", answering(("198.51.100.1", 5683)))

    assert resolved(host, family) == expected


@pytest.mark.parametrize(
    ("host", "family", "error"),
    [("::1", socket.AF_INET, UsageError), ("a.example", socket.AF_INET, PathError)],
)
def test_a_host_that_is_none_is_an_error(
    monkeypatch: pytest.MonkeyPatch, host: str, family: int, error: type[CoapError]
) -> None:
    monkeypatch.setattr(addresses.socket, "getaddrinfo", answering(None))

    assert isinstance(resolved(host, family), error)


def answering(address: Any) -> Callable[..., Any]:
    def getaddrinfo(host: str, port: int, *, family: int, type: int) -> Any:
        if address is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, type, 17, "", address)]

    return getaddrinfo
