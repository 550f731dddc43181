"""A traced endpoint over real sockets, and the log that its messages are written to."""

from __future__ import annotations

import asyncio
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import minicoap
from minicoap import Endpoint, MessageLog, Resource, Response, Site, TraceEvent, TransmissionParameters, UsageError
from minicoap.core.trace import MALFORMED, RECEIVED, SENT


def site() -> Site:
    return Site(Resource("/time", get=lambda request: Response(payload=b"12:00", max_age=5), group=True))


def event(**changes: Any) -> TraceEvent:
    return TraceEvent(101.25, MALFORMED, RECEIVED, ("192.0.2.7", 5683), b"\x40", error="cut off")._replace(**changes)


def log(form: str, stream: io.StringIO) -> MessageLog:
    """A log that began at 100 s of its clock, which is 101.5 s now, at noon and half a second."""
    clock = iter((100.0, 101.5, 101.5))
    return MessageLog(form, stream, clock=lambda: next(clock), wall=lambda: 1_700_000_000.5)


def test_client_and_server_tell_what_they_send_and_receive() -> None:
    client_events: list[TraceEvent] = []
    server_events: list[TraceEvent] = []

    async def scenario() -> None:
        async with (
            Endpoint(site(), trace=server_events.append) as server,
            Endpoint(trace=client_events.append) as client,
        ):
            await server.serve("coap://127.0.0.1:0")
            assert (await client.get(f"{server.local_uri}/time")).text == "12:00"

    asyncio.run(asyncio.wait_for(scenario(), 20))
    assert [each.direction for each in client_events] == [SENT, RECEIVED]
    assert [each.direction for each in server_events] == [RECEIVED, SENT]
    assert [each.data for each in client_events] == [each.data for each in server_events]
    head, *options = client_events[1].text().split(" | ")
    assert re.fullmatch(r"<- 127\.0\.0\.1:\d+  ACK \d+ \[[0-9a-f]{8}\]  2\.05 Content", head)
    assert options[0] == "Max-Age: 5 s"
    assert re.fullmatch(r'5 bytes "12:00"  \(GET /time, \S+ ms\)', options[1])


def test_tracing_sees_the_messages_that_dtls_protects() -> None:
    pytest.importorskip("OpenSSL")
    from tests.minicoap.security.pair import client_credentials, server_credentials

    events: list[TraceEvent] = []

    async def scenario() -> None:
        async with Endpoint(site(), credentials=server_credentials()) as server:
            await server.serve("coaps://127.0.0.1:0")
            async with Endpoint(credentials=client_credentials(), trace=events.append) as client:
                await client.get(f"{server.local_uri}/time")

    asyncio.run(asyncio.wait_for(scenario(), 20))
    assert [each.text().split("  ")[0].split(":")[0] for each in events[:2]] == [
        "-> coaps 127.0.0.1",
        "<- coaps 127.0.0.1",
    ]
    assert "2.05 Content" in events[1].text()
    assert events[1].document()["peer"]["secure"] is True


def test_what_a_group_is_asked_is_told_by_a_member() -> None:
    events: list[TraceEvent] = []

    async def scenario() -> list[str]:
        prompt = TransmissionParameters(default_leisure=0.2)
        async with Endpoint(site(), trace=events.append, parameters=prompt) as server, Endpoint() as client:
            await server.serve("coap://0.0.0.0:0")
            port = server.local_uri.rpartition(":")[2]
            await server.join(f"coap://224.0.1.187:{port}", interface="lo")
            uri = f"coap://224.0.1.187:{port}/time"
            async for _, response in client.multicast(uri, duration=6.0, interface="lo"):
                return [response.text]
            return []

    assert asyncio.run(asyncio.wait_for(scenario(), 20)) == ["12:00"]
    assert events[0].is_group
    assert events[0].text().endswith("GET /time  (to the group)")


def test_line_begins_with_the_seconds_since_the_log_was_made() -> None:
    stream = io.StringIO()
    log("text", stream)(event())
    assert stream.getvalue() == "    1.250 <- 192.0.2.7:5683  malformed: cut off | 1 byte 40\n"


def test_document_has_the_time_of_day_too() -> None:
    stream = io.StringIO()
    log("json", stream)(event())
    assert stream.getvalue().count("\n") == 1
    assert json.loads(stream.getvalue()) == {
        "time": "2023-11-14T22:13:20.250000Z",
        "elapsed": 1.25,
        **event().document(),
    }


def test_log_on_a_terminal_makes_room_where_a_progress_line_stands() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    log("text", stream)(event())
    assert stream.getvalue().startswith("\r\x1b[K    1.250 <- ")


def test_stream_that_nobody_reads_ends_the_log_and_nothing_else() -> None:
    class Broken(io.StringIO):
        writes = 0

        def write(self, text: str) -> int:
            self.writes += 1
            raise BrokenPipeError

    broken, closed = Broken(), io.StringIO()
    closed_log = log("text", closed)
    closed.close()
    closed_log(event())
    telling = log("text", broken)
    telling(event())
    telling(event())
    assert broken.writes == 1


def test_form_that_is_none_is_wrong_use() -> None:
    with pytest.raises(UsageError, match="xml"):
        MessageLog("xml")


@pytest.mark.parametrize("use", ["minicoap.Endpoint()", "minicoap.Endpoint; minicoap.Site(); minicoap.cli.main"])
def test_who_does_not_trace_has_nothing_of_it_in_memory(use: str) -> None:
    program = f"import minicoap, sys, minicoap.cli.main\n{use}\nprint([n for n in sys.modules if n.endswith('.trace')])"
    root = Path(minicoap.__file__).parents[1]
    ended = subprocess.run([sys.executable, "-c", program], cwd=root, check=True, capture_output=True, text=True)
    assert ended.stdout == "[]\n"


def test_endpoint_that_is_not_traced_has_no_machine_around_its_core() -> None:
    assert Endpoint()._machine.__class__.__name__ == "EndpointCore"


def test_randomness_may_be_given() -> None:
    class Entropy(minicoap.SystemEntropy):
        def token(self, length: int) -> bytes:
            return b"\x07" * length

    events: list[TraceEvent] = []

    async def scenario() -> None:
        async with Endpoint(site()) as server, Endpoint(entropy=Entropy(), trace=events.append) as client:
            await server.serve("coap://127.0.0.1:0")
            await client.get(f"{server.local_uri}/time")

    asyncio.run(asyncio.wait_for(scenario(), 20))
    assert events[0].message is not None
    assert events[0].message.token == b"\x07\x07\x07\x07"
