"""What a server is told by those who mean it no good: every input has an answer, and everything is bounded."""

from __future__ import annotations

from dataclasses import dataclass

import cbor2
import pytest

from fleet.model.formats import CBOR, JSON
from fleet.server import presence
from fleet.server.engine import artifacts as engine_artifacts
from fleet.server.engine import jobs as engine_jobs
from fleet.server.resources import nodes, updates
from minicoap.codec import codes
from minicoap.codec.contentformats import MERGE_PATCH
from minicoap.codec.message import CON, Message, Options, encode
from minicoap.codec.options import CONTENT_FORMAT, ECHO, URI_PATH
from tests.fleet.server.serving import Client, Served, document


def json_report(value: str, field: str = "x") -> bytes:
    return b'{"node_id":"n1","%s":%s}' % (field.encode(), value.encode())


def cbor_report(value: bytes) -> bytes:
    return b"\xa2gnode_idbn1ax" + value


NUMBERS = ["1e400", "-1e400", "1e308", "9" * 400, "-" + "9" * 400, str(1 << 64), str(-(1 << 63) - 1), "1e-400", "NaN"]
FIELDS = ["cpu_percent", "temperature", "x", "error_messages", "services_status"]
JSON_BODIES = [
    *[json_report(number, field) for number in NUMBERS for field in FIELDS],
    json_report('"\\ud800"'), json_report('"\xff"'), json_report("[" * 30_000), json_report('{"a":' * 10_000),
    b'{"node_id":"n1\\u0000"}', b'\xef\xbb\xbf{"node_id":"n1"}', b'{"node_id":"../n1"}', b'{"node_id":1}', b"[]", b"",
    json_report("1,") + b'"x":2}',
]  # fmt: skip
VALUES = [float("nan"), float("inf"), (1 << 64) - 1, -(1 << 64), -(1 << 63) - 1, 1e308, None, b"bytes", cbor2.undefined]
CBOR_BODIES = [
    *[cbor2.dumps({"node_id": "n1", field: value}) for value in VALUES for field in FIELDS],
    *map(cbor_report, [
        b"\x78\x01\xff", b"\x63\xed\xa0\x80", b"\x9f\x01\xff", b"\x9f", b"\xf8\x20", b"\xf9\x7e\x00", b"\xe0",
        b"\xf8\x01",
        b"\x9b\x7f" + b"\xff" * 7, b"\x5b\x7f" + b"\xff" * 7, b"\xc2\x41\xff", b"\x81" * 60_000, b"\xff", b"\x1c",
    ]),
    b"\xa3gnode_idbn1ax\x01ax\x02", b"\xbfgnode_idbn1ax\x01\xff", b"",
]  # fmt: skip


@pytest.mark.parametrize("content_format", [JSON, CBOR])
def test_every_body_is_answered_and_leaves_what_others_ask_for_whole(served: Served, content_format: int) -> None:
    served.register("n1")
    for body in JSON_BODIES if content_format == JSON else CBOR_BODIES:
        patch_format = MERGE_PATCH if content_format == JSON else CBOR
        answers = [
            served.ask(codes.PUT, "/health", body, content_format=content_format),
            served.ask(codes.IPATCH, "/health", body, content_format=patch_format),
            served.ask(codes.POST, "/nodes", body.replace(b'"x"', b'"system_info"'), content_format=content_format),
            served.ask(codes.POST, "/updates", body, content_format=content_format),
            served.ask(codes.POST, "/system", body, content_format=content_format),
        ]
        assert not any(codes.is_server_error(answer.code) for answer in answers), (body[:99], answers)
        for path in ("/nodes", "/nodes/n1", "/nodes/n1/health", "/health"):
            for accept in (JSON, CBOR):
                assert served.ask(codes.GET, path, accept=accept).is_success, (path, accept, body[:99])


PATHS = [
    ("nodes", "\0"), ("nodes", "..", "x"), ("nodes%2f..%2fhealth",), ("nodes", "%2e%2e"), ("nodes", "%00"),
    ("%",) * 200, ("a" * 255,) * 4, ("firmware", "..%2f..%2fetc%2fpasswd"), ("firmware", "%ff"), ("firmware", "a\0b"),
    ("firmware", ".."), ("firmware", "a\\b"), ("nodes", "n1", "health", ""), ("nodes//n1",),
]  # fmt: skip
QUERIES = [
    ["limit=" + "9" * 200], ["limit=-1"], ["limit=1e9"], ["limit=\u0663"], ["after=" + "x" * 249], ["after=\0"],
    ["status=\0"], ["a=b"] * 100, ["hours=1e400"], ["hours=nan"], ["node=../.."], ["after=\U0010ffff"], ["="], ["%00"],
]  # fmt: skip


def test_every_path_and_query_is_answered_and_leads_out_of_nowhere(served: Served) -> None:
    served.register("n1")
    before = set(served.files.content)
    for path in PATHS:
        for method in (codes.GET, codes.PUT, codes.POST, codes.DELETE):
            response = served.client.outcome(served.client.send(method, *path, payload=b"" if method == 1 else b"x"))
            assert not codes.is_server_error(response.code), (path, method)
    for query in QUERIES:
        for path in ("nodes", "updates", "firmware", "nodes/n1/metrics", "updates/x", "updates/x/status", "health"):
            response = served.client.outcome(served.client.send(codes.GET, *path.split("/"), query=query))
            assert not codes.is_server_error(response.code), (path, query)
    assert all(name.startswith("data/") for name in set(served.files.content) - before)


# Bounds


def test_registered_nodes_are_bounded_and_those_that_are_stay_served() -> None:
    served = Served(max_nodes=2)
    served.register("n1", "n2")

    refused = served.ask(codes.POST, "/nodes", {"node_id": "n3"})

    assert (codes.code_text(refused.code), refused.options.uint(14)) == ("5.03", 5)
    assert "--max-nodes" in document(refused)["error"]
    served.register("n1")
    assert served.ask(codes.PUT, "/health", {"node_id": "n2"}).is_success
    assert served.ask(codes.DELETE, "/nodes/n1").is_success
    served.register("n3")


def test_registrations_under_way_are_bounded_for_each_host_and_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "JOINING_LIMIT", 3)
    monkeypatch.setattr(nodes, "JOINING_PER_HOST", 2)
    served = Served()
    served.register("known")
    hosts = [Client(served, (f"192.0.2.{number}", 5683)) for number in (20, 21)]

    def codes_of(*wanted: tuple[Client, str]) -> list[str]:
        started = [client.start(codes.POST, "/nodes", {"node_id": node_id}) for client, node_id in wanted]
        return [codes.code_text(client.outcome(outcomes).code) for (client, _), outcomes in zip(wanted, started)]

    for client in hosts:  # each host shows where it is, so that its next registrations need no repeat
        assert client.ask(codes.POST, "/nodes", {"node_id": f"first-{client.host.address[0]}"}).is_success
    told = [
        answer_at_once(served, f"192.0.2.{host}", node_id)
        for host, node_id in ((20, "a"), (20, "b"), (20, "c"), (21, "d"), (21, "e"), (9, "known"))
    ]
    assert told == [None, None, "4.29", None, "5.03", None]
    assert served.world.run_until(lambda: len(served.server.services.presences) >= 6)
    assert codes_of((hosts[0], "c"), (hosts[1], "e")) == ["2.01", "2.01"]


def answer_at_once(served: Served, host: str, node_id: str) -> object:
    """What the server says at once to a registration that shows where it comes from; None if it has to look first."""
    endpoint, now = served.server.endpoint, served.world.now
    value = endpoint._exchanges._echo.value((host, 5683), now)
    options = Options(((URI_PATH, b"nodes"), (CONTENT_FORMAT, bytes((JSON,))), (ECHO, value)))
    message = Message(CON, codes.POST, 1, b"t", options, b'{"node_id":"%s"}' % node_id.encode())
    answer = endpoint._exchanges.request_received(message, (host, 5683), now)
    return codes.code_text(answer.code) if hasattr(answer, "code") else None


def test_jobs_under_way_to_be_created_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(updates, "CREATING_LIMIT", 2)
    served = Served()
    job = {"name": "app", "version": "1.0", "package_type": "pip", "target_nodes": ["all"]}
    clients = [Client(served, (f"192.0.2.{number}", 5683)) for number in range(20, 24)]
    for _ in range(2):  # what was counted is counted back
        started = [client.start(codes.POST, "/updates", job) for client in clients]
        told = [codes.code_text(client.outcome(outcomes).code) for client, outcomes in zip(clients, started)]
        assert sorted(told) == ["2.01", "2.01", "5.03", "5.03"]
    assert served.ask(codes.POST, "/updates", {**job, "artifacts": ["none-1-py3-none-any.whl"]}).code == codes.NOT_FOUND
    assert served.created()


def test_jobs_and_artifacts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_jobs, "JOBS_LIMIT", 2)
    monkeypatch.setattr(engine_artifacts, "ARTIFACTS_LIMIT", 1)
    served = Served()
    job = {"name": "app", "version": "1.0", "package_type": "pip", "target_nodes": ["all"]}
    job_ids = [served.created(), served.created()]
    assert served.ask(codes.POST, "/updates", job).code == codes.SERVICE_UNAVAILABLE
    served.act("delete", job_ids[0])
    assert served.created()

    assert served.ask(codes.PUT, "/firmware/a", b"a").code == codes.CREATED
    assert served.ask(codes.PUT, "/firmware/b", b"b").code == codes.SERVICE_UNAVAILABLE
    assert served.ask(codes.PUT, "/firmware/a", b"c").code == codes.CHANGED
    assert served.server.services.artifacts.used == 1


def test_bytes_of_reports_are_bounded_and_small_ones_always_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "REPORTS_LIMIT", 30_000)
    served = Served()
    served.register("n1", "n2", "n3")
    large = {"error_messages": ["x" * 13_000]}

    told = [served.ask(codes.PUT, "/health", {"node_id": f"n{number}", **large}).code for number in (1, 2, 3, 1)]

    assert [codes.code_text(code) for code in told] == ["2.04", "2.04", "4.13", "2.04"]
    monkeypatch.setattr(presence, "REPORTS_LIMIT", 20_000)
    assert served.ask(codes.PUT, "/health", {"node_id": "n3"}).is_success
    patch = cbor2.dumps({"node_id": "n3", **large})
    assert served.ask(codes.IPATCH, "/health", patch, content_format=CBOR).code == codes.REQUEST_ENTITY_TOO_LARGE
    for node_id in ("n1", "n2"):
        served.told(codes.DELETE, f"/nodes/{node_id}")
    assert served.ask(codes.PUT, "/health", {"node_id": "n3", **large}).is_success


def test_registrations_are_bounded_and_pages_of_long_reports_are_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "PAGE_REPORTS_LIMIT", 1000)
    served = Served()
    for size in (nodes.REGISTRATION_LIMIT, 2 * nodes.REGISTRATION_LIMIT):
        body = {"node_id": "n0", "hostname": "x" * size}
        assert served.ask(codes.POST, "/nodes", body).code == codes.REQUEST_ENTITY_TOO_LARGE
    for number, size in enumerate((500, 300, 1500, 10)):
        served.register(f"n{number}")
        served.told(codes.PUT, "/health", {"node_id": f"n{number}", "error_messages": ["x" * size]})

    pages, after = [], ""
    while after is not None:
        query = [f"after={after}"] if after else []
        told = document(served.client.outcome(served.client.send(codes.GET, "nodes", query=query)))
        pages.append([node["node_id"] for node in told["nodes"]])
        after = told["next"]
    assert pages == [["n0", "n1"], ["n2"], ["n3"]]


# Forged addresses

HEADERS = 28  # bytes of IPv4 and UDP around each message, which count as much as what is in it (RFC 9175 §2.4)


@dataclass
class Forger:
    """Sends messages that say they come from `victim`; what the server sends there, nobody reads."""

    served: Served
    victim: tuple[str, int]
    message_id: int = 0

    def send(self, code: int, path: str, payload: bytes = b"", *options: tuple[int, bytes]) -> tuple[int, list[bytes]]:
        """Send a message; returns its size, and all that went to the victim until nothing more came."""
        self.message_id += 1
        items = [(URI_PATH, segment.encode()) for segment in path.split("/")[1:]]
        if payload:
            items.append((CONTENT_FORMAT, bytes((MERGE_PATCH if code == codes.IPATCH else JSON,))))
        asked = encode(Message(CON, code, self.message_id, b"t", Options((*items, *options)), payload))
        sent = len(self.to_victim())
        self.served.server.datagram_received(asked, self.victim, self.served.world.now)
        self.served.host.wake()
        self.served.world.run_for(100.0)  # repeats of what is not acknowledged, too
        return len(asked), self.to_victim()[sent:]

    def to_victim(self) -> list[bytes]:
        return [datagram.data for datagram in self.served.world.trace if datagram.destination == self.victim]


def test_a_forged_report_or_registration_never_aims_a_hint(served: Served) -> None:
    served.register("n1")
    forger = Forger(served, ("198.51.100.7", 5683))
    for code, path, body in (
        (codes.PUT, "/health", b'{"node_id":"n1"}'),
        (codes.IPATCH, "/health", b'{"node_id":"n1"}'),
        (codes.POST, "/nodes", b'{"node_id":"n1"}'),
        (codes.POST, "/nodes", b'{"node_id":"bogus"}'),
        (codes.POST, "/updates", b'{"action":"report","job_id":"j","node_id":"n1","attempt":1,"sequence":1,'
         b'"state":"downloading"}'),
    ):  # fmt: skip
        assert len(forger.send(code, path, body)[1]) == 1
    told = len(forger.to_victim())
    served.running()
    served.world.run_for(10.0)
    assert len(forger.to_victim()) == told


def test_forged_requests_for_large_answers_are_answered_by_little(served: Served) -> None:
    served.register(*(f"node-{number:03}" for number in range(100)))
    served.told(codes.PUT, "/firmware/app.bin", None, payload=bytes(16_000), content_format=42)
    forger = Forger(served, ("198.51.100.7", 5683))
    ratios = {}
    for path in ("/nodes", "/health", "/.well-known/core", "/firmware", "/firmware/app.bin", "/nodes/none", "/updates"):
        for options in ((), ((6, b""),), ((23, b"\x06"),), ((23, b"\x16"),), ((17, bytes((CBOR,))),)):
            size, sent = forger.send(codes.GET, path, b"", *options)
            ratios[path, options] = sum(len(data) + HEADERS for data in sent) / (size + HEADERS)
    assert max(ratios.values()) <= 3.0, ratios
