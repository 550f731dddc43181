"""The bad network: what it does to datagrams, that a seed repeats it, and that its memory is bounded."""

from __future__ import annotations

import argparse
import asyncio
import signal
import socket
import subprocess
import sys
from collections import Counter

import pytest

from minicoap import Endpoint, Resource, Response, Site
from minicoap.simulate.link import Link
from tools import impair
from tools.impair import BACK, THERE, Impairment, proxy
from tools.impair.__main__ import address, rate, seconds, share

LONG = 60.0  # seconds, for what happens in milliseconds


class Sink:
    """A server that keeps what it gets, with who sent it, and echoes it."""

    def __init__(self):
        self.got = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.bind(("127.0.0.1", 0))
        self.address = self._socket.getsockname()

    def __enter__(self):
        asyncio.get_running_loop().add_reader(self._socket, self._read)
        return self

    def __exit__(self, *_):
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _read(self):
        data, source = self._socket.recvfrom(65535)
        self.got.append((data, source))
        self._socket.sendto(data, source)


async def until(condition):
    async def poll():
        while not condition():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(poll(), LONG)


async def send_through(link, *, seed=0, count=400, size=20):
    """Send numbered datagrams, each once the one before it was dealt with; return what arrived and the proxy."""
    with Sink() as sink, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        running = Impairment(sink.address, link, back=Link(delay=0.0), seed=seed)
        await running.open()
        try:
            for number in range(count):
                client.sendto(number.to_bytes(2, "big").ljust(size, b"."), running.address)
                await until(lambda number=number: running.counts[THERE]["came"] > number)
            counts = running.counts[THERE]
            expected = lambda: counts["came"] - counts["lost"] - counts["too large"] + counts["repeated"]  # noqa: E731
            await until(lambda: len(sink.got) == expected())
            return [int.from_bytes(data[:2], "big") for data, _ in sink.got], running
        finally:
            running.close()


def test_what_a_seed_loses_and_repeats_it_loses_and_repeats_again():
    link = Link(loss=0.2, duplicate=0.1, delay=0.0)
    first, running = asyncio.run(send_through(link, seed=1))
    second, _ = asyncio.run(send_through(link, seed=1))
    other, _ = asyncio.run(send_through(link, seed=2))

    assert sorted(first) == sorted(second) != sorted(other)
    counts = running.counts[THERE]
    assert 40 <= counts["lost"] <= 120
    assert 15 <= counts["repeated"] <= 60
    assert counts["repeated"] == sum(count - 1 for count in Counter(first).values())


def test_jitter_lets_datagrams_overtake_each_other():
    arrived, running = asyncio.run(send_through(Link(delay=0.0, jitter=0.2), count=50))

    assert arrived != sorted(arrived) == list(range(50))
    assert running.counts[THERE]["overtaken"] > 0


def test_a_datagram_larger_than_the_mtu_is_lost():
    arrived, running = asyncio.run(send_through(Link(delay=0.0, mtu=100), count=3, size=101))

    assert arrived == []
    assert running.counts[THERE]["too large"] == 3
    assert "3 too large" in running.report()


def test_delay_and_rate_hold_datagrams_back():
    async def main():
        loop = asyncio.get_running_loop()
        began = loop.time()
        await send_through(Link(delay=0.3, rate=1000.0), count=5, size=100)
        return loop.time() - began

    assert asyncio.run(main()) >= 0.8  # 500 bytes at 1,000 a second, and the delay


def test_each_client_is_known_to_the_server_by_a_port_of_its_own_and_gets_its_own_answers():
    async def main():
        with Sink() as sink:
            async with proxy(sink.address, Link(delay=0.0)) as where:
                loop = asyncio.get_running_loop()
                clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(20)]
                try:
                    for number, client in enumerate(clients):
                        client.setblocking(False)
                        client.sendto(b"%d" % number, where)
                    answers = [await asyncio.wait_for(loop.sock_recv(client, 99), LONG) for client in clients]
                finally:
                    for client in clients:
                        client.close()
            return answers, {source for _, source in sink.got}

    answers, ports = asyncio.run(main())
    assert answers == [b"%d" % number for number in range(20)]
    assert len(ports) == 20


def test_a_client_gets_another_port_after_the_time_of_rebinding():
    async def main():
        with Sink() as sink, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            running = Impairment(sink.address, Link(delay=0.0), rebind=0.0)
            await running.open()
            try:
                for number in range(3):
                    client.sendto(b"x", running.address)
                    await until(lambda number=number: len(sink.got) > number)
            finally:
                running.close()
            return {source for _, source in sink.got}, running.rebound

    ports, rebound = asyncio.run(main())
    assert len(ports) == 3
    assert rebound == 2


def test_clients_beyond_the_bound_displace_the_one_silent_longest(monkeypatch):
    monkeypatch.setattr(impair, "MOST_CLIENTS", 2)

    async def main():
        with Sink() as sink:
            running = Impairment(sink.address, Link(delay=0.0))
            await running.open()
            clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3)]
            try:
                for number, client in enumerate([clients[0], clients[1], clients[0], clients[2], clients[0]]):
                    client.sendto(b"x", running.address)
                    await until(lambda number=number: len(sink.got) > number)
                return [source for _, source in sink.got], len(running._clients)
            finally:
                running.close()
                for client in clients:
                    client.close()

    sources, kept = asyncio.run(main())
    assert kept == 2
    assert sources[0] == sources[2] == sources[4]  # the first spoke between: it was the second that went


def test_datagrams_beyond_what_may_be_under_way_are_refused(monkeypatch):
    monkeypatch.setattr(impair, "MOST_UNDER_WAY", 3)

    async def main():
        with Sink() as sink, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            running = Impairment(sink.address, Link(delay=30.0))
            await running.open()
            try:
                for _ in range(10):
                    client.sendto(b"x", running.address)
                await until(lambda: running.counts[THERE]["came"] == 10)
                return running.counts[THERE]["refused"]
            finally:
                running.close()

    assert asyncio.run(main()) == 7


def test_our_client_gets_every_answer_through_a_network_that_loses_a_fifth():
    async def main():
        async with Endpoint(Site(Resource("/time", get=lambda _: Response(payload=b"noon")))) as server:
            await server.serve("coap://127.0.0.1:0")
            port = int(server.local_uri.rsplit(":", 1)[1])
            running = Impairment(("127.0.0.1", port), Link(loss=0.2, duplicate=0.2, delay=0.001), seed=3)
            await running.open()
            try:
                async with Endpoint() as client:
                    uri = "coap://{}:{}/time".format(*running.address)
                    answers = await asyncio.gather(*(client.get(uri) for _ in range(8)))
                return {answer.text for answer in answers}, running.counts
            finally:
                running.close()

    texts, counts = asyncio.run(main())
    assert texts == {"noon"}
    assert counts[THERE]["lost"] + counts[BACK]["lost"] > 0


def test_the_command_says_what_it_did_when_it_is_ended():
    arguments = ["--to", "127.0.0.1:9", "--loss", "100%", "--seed", "4"]
    process = subprocess.Popen([sys.executable, "-m", "tools.impair", *arguments], stdout=subprocess.PIPE, text=True)
    try:
        first = process.stdout.readline()
        host, port = first.split()[0].split(":")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"x", (host, int(port)))
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=LONG)
    finally:
        process.kill()
        process.wait()
    assert "seed 4" in first
    assert process.returncode == 0
    assert "to the server: " in rest and "to the client: 0 datagrams" in rest


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (share, "5%", 0.05), (share, "0.05", 0.05), (share, "100%", 1.0),
        (seconds, "50ms", 0.05), (seconds, "2", 2.0), (seconds, "2s", 2.0),
        (rate, "10kB/s", 10_000.0), (rate, "80kbit/s", 10_000.0),
        (address, "192.0.2.7:5700", ("192.0.2.7", 5700)), (address, "[::1]:5700", ("::1", 5700)),
        (address, "device", ("device", 5683)),
    ],
)  # fmt: skip
def test_arguments_are_read_with_their_units(read, text, value):
    assert read(text) == pytest.approx(value) if read is not address else read(text) == value


@pytest.mark.parametrize(
    ("read", "text"),
    [(share, "101%"), (share, "many"), (seconds, "5 hours"), (seconds, "ms"), (rate, "0"), (rate, "5 m/s"),
     (address, "::1:5683"), (address, "host:99999")],
)  # fmt: skip
def test_arguments_that_make_no_sense_are_refused(read, text):
    with pytest.raises(argparse.ArgumentTypeError):
        read(text)
