"""What the captures in `captures/` are made of: for each test of ETSI CoAP#4 one conversation that is right, one wrong.

    python -m tests.conformance.scripts    writes the captures anew

A wrong one is the right one with something changed: `wrong_side` broke a rule with the packet in frame `wrong_frame`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, Optional

from minicoap.codec import codes
from minicoap.codec.message import ACK, CON, NON, RST, Message, Options, encode
from minicoap.codec.options import (
    ACCEPT,
    BLOCK1,
    BLOCK2,
    CONTENT_FORMAT,
    ETAG,
    IF_MATCH,
    IF_NONE_MATCH,
    LOCATION_PATH,
    LOCATION_QUERY,
    MAX_AGE,
    OBSERVE,
    URI_PATH,
    URI_QUERY,
    encode_uint,
)
from minicoap.codec.pcapng import datagram, interface, packet, section

CAPTURES = Path(__file__).parent / "captures"
SERVER = ("192.0.2.1", 5683)
CLIENT = ("192.0.2.2", 40001)
OTHER = ("192.0.2.3", 40002)
BEGAN_AT = 1_700_000_000.0
GET, POST, PUT, DELETE = codes.GET, codes.POST, codes.PUT, codes.DELETE
TOKEN, MID, SERVER_MID = b"\x71\x72", 1000, 9000
LINKS = b'</a>;rt="one two";if="If1";sz=9,</link1>;rt="two";if="foo",</link2>;ct=0,</path>;ct=40'

Item = tuple[int, bytes]
Sent = tuple[float, tuple[str, int], tuple[str, int], bytes]


class Case(NamedTuple):
    """A conversation and its counterpart."""

    right: list[Sent]
    wrong: list[Sent]
    wrong_side: str
    wrong_frame: int


def path(text: str, *more: Item) -> list[Item]:
    return [*((URI_PATH, segment.encode()) for segment in text.split("/")), *more]


def number(option: int, value: int) -> Item:
    return option, encode_uint(value)


def block(option: int, number: int, more: bool, szx: int) -> Item:
    return option, encode_uint(number << 4 | more << 3 | szx)


TEXT = number(CONTENT_FORMAT, 0)
XML = number(CONTENT_FORMAT, 41)


class Talk:
    """Packets of a conversation, one after the other."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.at = 0.0

    def wait(self, seconds: float) -> Talk:
        self.at += seconds
        return self

    def client(self, type: int, code: int, mid: int = MID, token: bytes = TOKEN, options: Iterable[Item] = (),
               payload: bytes = b"", source: tuple[str, int] = CLIENT) -> Talk:  # fmt: skip
        return self._add(source, SERVER, Message(type, code, mid, token, Options(options), payload))

    def server(self, type: int, code: int, mid: int = MID, token: bytes = TOKEN, options: Iterable[Item] = (),
               payload: bytes = b"", to: tuple[str, int] = CLIENT) -> Talk:  # fmt: skip
        return self._add(SERVER, to, Message(type, code, mid, token, Options(options), payload))

    def ack(self, mid: int, source: tuple[str, int] = CLIENT) -> Talk:
        return self.client(ACK, codes.EMPTY, mid, b"", source=source)

    def _add(self, source: tuple[str, int], destination: tuple[str, int], message: Message) -> Talk:
        self.at += 0.01
        self.sent.append((round(self.at, 3), source, destination, encode(message)))
        return self


Script = Callable[[Talk, bool], None]
CASES: dict[str, Case] = {}


def case(id: str, side: str, frame: int, script: Script) -> None:
    right, wrong = Talk(), Talk()
    script(right, True)
    script(wrong, False)
    CASES[f"TD_COAP_{id}"] = Case(right.sent, wrong.sent, side, frame)


def single(id: str, code: int, resource: str, answer: int, wrong: int, *, type: int = CON, token: bytes = TOKEN,
           request: Iterable[Item] = (), response: Iterable[Item] = (TEXT,), payload: bytes = b"",
           body: bytes = b"body") -> None:  # fmt: skip
    """Enter a test of a single exchange, whose wrong answer has another code."""

    def script(talk: Talk, right: bool) -> None:
        talk.client(type, code, MID, token, path(resource, *request), payload)
        kind, mid = (ACK, MID) if type == CON else (NON, SERVER_MID)
        talk.server(kind, answer if right else wrong, mid, token, response, body)

    case(id, "server", 2, script)


def separate(id: str, token: bytes) -> None:
    def script(talk: Talk, right: bool) -> None:
        talk.client(CON, GET, MID, token, path("separate")).server(ACK, codes.EMPTY, MID, b"").wait(2)
        if right:
            talk.server(CON, codes.CONTENT, SERVER_MID, token, [TEXT], b"late").ack(SERVER_MID)
        else:
            talk.server(ACK, codes.CONTENT, MID, token, [TEXT], b"late")

    case(id, "server", 3, script)


def core_cases() -> None:
    single("CORE_01", GET, "test", codes.CONTENT, codes.DELETED)
    single("CORE_02", DELETE, "test", codes.DELETED, codes.CONTENT, response=(), body=b"")
    single("CORE_03", PUT, "test", codes.CHANGED, codes.CONTENT, request=[TEXT], payload=b"x", response=(), body=b"")
    single("CORE_04", POST, "test", codes.CREATED, codes.VALID, request=[TEXT], payload=b"x", response=(), body=b"")
    single("CORE_05", GET, "test", codes.CONTENT, codes.DELETED, type=NON)
    single("CORE_06", DELETE, "test", codes.DELETED, codes.CONTENT, type=NON, response=(), body=b"")
    single("CORE_07", PUT, "test", codes.CREATED, codes.CONTENT, type=NON, request=[TEXT], payload=b"x", response=(),
           body=b"")  # fmt: skip
    single("CORE_08", POST, "test", codes.CHANGED, codes.VALID, type=NON, request=[TEXT], payload=b"x", response=(),
           body=b"")  # fmt: skip
    separate("CORE_09", b"")

    def token(talk: Talk, right: bool) -> None:
        talk.client(CON, GET, options=path("test"))
        talk.server(ACK, codes.CONTENT, token=TOKEN if right else TOKEN[:1], options=[TEXT], payload=b"body")

    case("CORE_10", "server", 2, token)
    separate("CORE_11", TOKEN)
    single("CORE_12", GET, "test", codes.CONTENT, codes.DELETED, token=b"")
    single("CORE_13", GET, "seg1/seg2/seg3", codes.CONTENT, codes.DELETED)
    queries = [(URI_QUERY, b"first=1"), (URI_QUERY, b"second=2")]
    single("CORE_14", GET, "query", codes.CONTENT, codes.CHANGED, request=queries)

    def lossy(talk: Talk, right: bool) -> None:
        talk.client(CON, GET, options=path("test")).wait(2.4).client(CON, GET, options=path("test"))
        talk.server(ACK, codes.CONTENT if right else codes.CREATED, options=[TEXT], payload=b"body")

    case("CORE_15", "server", 3, lossy)

    def lossy_separate(talk: Talk, right: bool) -> None:
        talk.client(CON, GET, options=path("separate")).wait(2.4).client(CON, GET, options=path("separate"))
        talk.server(ACK, codes.EMPTY, MID, b"").wait(2)
        talk.server(CON, codes.CONTENT, SERVER_MID, options=[TEXT], payload=b"late").wait(2.2)
        changed = b"late" if right else b"another"
        talk.server(CON, codes.CONTENT, SERVER_MID, options=[TEXT], payload=changed).ack(SERVER_MID)

    case("CORE_16", "server", 5, lossy_separate)

    def separate_non(talk: Talk, right: bool) -> None:
        talk.client(NON, GET, options=path("separate"))
        if not right:
            talk.server(ACK, codes.EMPTY, MID, b"")
        talk.wait(2).server(NON, codes.CONTENT, SERVER_MID, options=[TEXT], payload=b"late")

    case("CORE_17", "server", 2, separate_non)
    where = [(LOCATION_PATH, b"location1"), (LOCATION_PATH, b"location2")]
    single("CORE_18", POST, "test", codes.CREATED, codes.VALID, request=[TEXT], payload=b"x", response=where, body=b"")
    where = [(LOCATION_QUERY, b"first=1"), (LOCATION_QUERY, b"second=2")]
    single("CORE_19", POST, "location-query", codes.CREATED, codes.VALID, request=[TEXT], payload=b"x", response=where,
           body=b"")  # fmt: skip

    def accept(talk: Talk, right: bool) -> None:
        talk.client(CON, GET, 1, options=path("multi-format", number(ACCEPT, 0)))
        talk.server(ACK, codes.CONTENT, 1, options=[TEXT], payload=b"text")
        talk.client(CON, GET, 2, options=path("multi-format", number(ACCEPT, 41)))
        talk.server(ACK, codes.CONTENT, 2, options=[XML if right else TEXT], payload=b"<text/>")

    case("CORE_20", "server", 4, accept)
    case("CORE_21", "server", 4, validation)
    case("CORE_22", "server", 8, if_match)
    case("CORE_23", "server", 4, if_none_match)

    def ping(talk: Talk, right: bool) -> None:
        talk.client(CON, codes.EMPTY, MID, b"").server(RST if right else ACK, codes.EMPTY, MID, b"")

    case("CORE_31", "server", 2, ping)


def validation(talk: Talk, right: bool) -> None:
    one, two = (ETAG, b"one"), (ETAG, b"two")
    talk.client(CON, GET, 1, options=path("validate")).server(ACK, codes.CONTENT, 1, options=[one, TEXT], payload=b"1")
    talk.client(CON, GET, 2, options=path("validate", one))
    if right:
        talk.server(ACK, codes.VALID, 2, options=[one])
    else:
        talk.server(ACK, codes.VALID, 2, options=[one], payload=b"1")
    talk.client(CON, PUT, 1, options=path("validate", TEXT), payload=b"2", source=OTHER)
    talk.server(ACK, codes.CHANGED, 1, to=OTHER)
    talk.client(CON, GET, 3, options=path("validate", one))
    talk.server(ACK, codes.CONTENT, 3, options=[two, TEXT], payload=b"2")


def if_match(talk: Talk, right: bool) -> None:
    talk.client(CON, GET, 1, options=path("validate"))
    talk.server(ACK, codes.CONTENT, 1, options=[(ETAG, b"one"), TEXT], payload=b"1")
    talk.client(CON, PUT, 2, options=path("validate", (IF_MATCH, b"one"), TEXT), payload=b"2")
    talk.server(ACK, codes.CHANGED, 2)
    talk.client(CON, GET, 3, options=path("validate"))
    talk.server(ACK, codes.CONTENT, 3, options=[(ETAG, b"two"), TEXT], payload=b"2")
    talk.client(CON, PUT, 4, options=path("validate", (IF_MATCH, b"one"), TEXT), payload=b"3")
    talk.server(ACK, codes.PRECONDITION_FAILED if right else codes.CHANGED, 4)


def if_none_match(talk: Talk, right: bool) -> None:
    options = path("create1", (IF_NONE_MATCH, b""), TEXT)
    talk.client(CON, PUT, 1, options=options, payload=b"1").server(ACK, codes.CREATED, 1)
    talk.client(CON, PUT, 2, options=options, payload=b"2")
    talk.server(ACK, codes.PRECONDITION_FAILED if right else codes.CHANGED, 2)


def block_cases() -> None:
    def download(first: Optional[int], szx: int, blocks: int = 3) -> Script:
        def script(talk: Talk, right: bool) -> None:
            for index in range(blocks):
                mid, more = index + 1, index < blocks - 1
                asked = [] if first is None and not index else [block(BLOCK2, index, False, szx)]
                talk.client(CON, GET, mid, options=path("large", *asked))
                size = (16 << szx) - (0 if right or index != 1 else 1)
                options = [TEXT, block(BLOCK2, index, more, szx)]
                talk.server(ACK, codes.CONTENT, mid, options=options, payload=bytes(size if more else 5))

        return script

    case("BLOCK_01", "server", 4, download(2, 2))
    case("BLOCK_02", "server", 4, download(None, 2))
    case("BLOCK_06", "server", 4, download(0, 0))

    def upload(resource: str, code: int, final: int, final_options: Iterable[Item] = ()) -> Script:
        def script(talk: Talk, right: bool) -> None:
            for index in range(3):
                mid, more = index + 1, index < 2
                talk.client(CON, code, mid, options=path(resource, TEXT, block(BLOCK1, index, more, 2)),
                            payload=bytes(64 if more else 5))  # fmt: skip
                said = index if right or index != 1 else 0
                options = [block(BLOCK1, said, more, 2), *(() if more else final_options)]
                talk.server(ACK, codes.CONTINUE if more else final, mid, options=options)

        return script

    case("BLOCK_03", "server", 4, upload("large-update", PUT, codes.CHANGED))
    where = [(LOCATION_PATH, b"large-create"), (LOCATION_PATH, b"1")]
    case("BLOCK_04", "server", 4, upload("large-create", POST, codes.CREATED, where))

    def both(talk: Talk, right: bool) -> None:
        upload("large-post", POST, codes.CHANGED)(talk, True)
        talk.sent.pop()
        options = [block(BLOCK1, 2, False, 2), TEXT, block(BLOCK2, 0, True, 2)]
        talk.server(ACK, codes.CHANGED, 3, options=options, payload=bytes(64))
        talk.client(CON, POST, 4, options=path("large-post", TEXT, block(BLOCK2, 1, False, 2)))
        talk.server(ACK, codes.CHANGED, 4, options=[TEXT, block(BLOCK2, 1 if right else 2, False, 2)], payload=b"end")

    case("BLOCK_05", "server", 8, both)


def observed(talk: Talk, resource: str = "obs", *, notifications: int = 2, type: int = CON,
             more: Iterable[Item] = (), body: bytes = b"state") -> Talk:  # fmt: skip
    """A registration and notifications that are acknowledged."""
    talk.client(CON, GET, options=path(resource, number(OBSERVE, 0)))
    told = [TEXT, number(MAX_AGE, 5), *more]
    talk.server(ACK, codes.CONTENT, options=[number(OBSERVE, 1), *told], payload=body)
    for index in range(notifications):
        talk.wait(2).server(type, codes.CONTENT, SERVER_MID + index, options=[number(OBSERVE, 2 + index), *told],
                            payload=body)  # fmt: skip
        if type == CON:
            talk.ack(SERVER_MID + index)
    return talk


def notify(talk: Talk, mid: int, observe: int, *, code: int = codes.CONTENT, body: bytes = b"state") -> Talk:
    options = [TEXT, number(MAX_AGE, 5), number(OBSERVE, observe)] if codes.is_success(code) else []
    return talk.server(CON, code, mid, options=options, payload=body if codes.is_success(code) else b"")


def observe_cases() -> None:
    def plain(type: int, resource: str) -> Script:
        def script(talk: Talk, right: bool) -> None:
            observed(talk, resource, type=type)
            options = [TEXT if right else XML, number(OBSERVE, 9)]
            talk.wait(2).server(type, codes.CONTENT, 9100, options=options, payload=b"state")
            if type == CON:
                talk.ack(9100)

        return script

    case("OBS_01", "server", 7, plain(CON, "obs"))
    case("OBS_02", "server", 5, plain(NON, "obs-non"))

    def anew(talk: Talk, right: bool) -> None:
        observed(talk, notifications=1).wait(13)
        more = [] if right else [number(ACCEPT, 0)]
        talk.client(CON, GET, 1001, options=path("obs", number(OBSERVE, 0), *more))
        options = [number(OBSERVE, 1), TEXT, number(MAX_AGE, 5)]
        talk.server(ACK, codes.CONTENT, 1001, options=options, payload=b"state").wait(2)
        notify(talk, 9100, 2).ack(9100)

    case("OBS_04", "client", 5, anew)

    def off(talk: Talk, right: bool) -> None:
        observed(talk).wait(2)
        for index, seconds in enumerate((2.2, 4.4, 8.8, 17.6)):
            notify(talk, 9100, 5 if right or not index else 4).wait(seconds)

    case("OBS_05", "server", 8, off)

    def reset(talk: Talk, right: bool) -> None:
        notify(observed(talk).wait(2), 9100, 5).client(RST, codes.EMPTY, 9100, b"")
        if not right:
            notify(talk.wait(2), 9101, 6).client(RST, codes.EMPTY, 9101, b"")

    case("OBS_06", "server", 9, reset)

    def deletion(talk: Talk, right: bool) -> None:
        observed(talk).client(CON, DELETE, 1, options=path("obs"), source=OTHER).server(ACK, codes.DELETED, 1, to=OTHER)
        notify(talk, 9100, 5, code=codes.NOT_FOUND if right else codes.CONTENT).ack(9100)

    case("OBS_07", "server", 9, deletion)

    def format_change(talk: Talk, right: bool) -> None:
        observed(talk).client(CON, PUT, 1, options=path("obs", XML), payload=b"<a/>", source=OTHER)
        talk.server(ACK, codes.CHANGED, 1, to=OTHER)
        if right:
            notify(talk, 9100, 5, code=codes.NOT_ACCEPTABLE).ack(9100)
        else:
            talk.server(CON, codes.CONTENT, 9100, options=[number(OBSERVE, 5), XML], payload=b"<a/>").ack(9100)

    case("OBS_08", "server", 9, format_change)

    def update(talk: Talk, right: bool) -> None:
        observed(talk).client(CON, PUT, 1, options=path("obs", TEXT), payload=b"new", source=OTHER)
        talk.server(ACK, codes.CHANGED, 1, to=OTHER)
        if right:
            notify(talk, 9100, 5, body=b"new").ack(9100)
        else:
            notify(talk, 9100, 5, code=codes.INTERNAL_SERVER_ERROR).ack(9100)

    case("OBS_09", "server", 9, update)

    def read(talk: Talk, right: bool) -> None:
        observed(talk).client(CON, GET, 1001, b"\x01", path("obs"))
        more = [] if right else [number(OBSERVE, 8)]
        talk.server(ACK, codes.CONTENT, 1001, b"\x01", [TEXT, *more], b"state").wait(1)
        notify(talk, 9100, 9).ack(9100)

    case("OBS_10", "server", 8, read)

    def lossy(talk: Talk, right: bool) -> None:
        notify(observed(talk).wait(2), 9100, 5).wait(2.2)
        notify(talk, 9100, 5, body=b"state" if right else b"other").ack(9100)

    case("OBS_11", "server", 8, lossy)

    def cancel(talk: Talk, right: bool) -> None:
        observed(talk).client(CON, GET, 1001, options=path("obs", number(OBSERVE, 1)))
        talk.server(ACK, codes.CONTENT, 1001, options=[TEXT] if right else [TEXT, number(OBSERVE, 5)], payload=b"state")

    case("OBS_12", "server", 8, cancel)

    def large(resource: str, more_frames: int) -> Script:
        def script(talk: Talk, right: bool) -> None:
            observed(talk, resource, notifications=1, more=[block(BLOCK2, 0, True, 2)], body=bytes(64))
            asking = [block(BLOCK2, 1, False, 2)] if right else [block(BLOCK2, 1, False, 2), number(OBSERVE, 0)]
            talk.client(CON, GET, 1001, b"\x09", path(resource, *asking))
            talk.server(ACK, codes.CONTENT, 1001, b"\x09", [TEXT, block(BLOCK2, 1, False, 2)], b"end")
            if more_frames:
                notify(talk.wait(2), 9100, 7, body=b"short").ack(9100)

        return script

    case("OBS_13", "client", 5, large("obs-large", 0))
    case("OBS_14", "client", 5, large("obs-pumping", 1))


def link_cases() -> None:
    everything = LINKS.split(b",")

    def listing(query: Optional[bytes], right_links: list[int], wrong_links: list[int]) -> Script:
        def script(talk: Talk, right: bool) -> None:
            options = [number(CONTENT_FORMAT, 40)]
            talk.client(CON, GET, 1, options=path(".well-known/core"))
            if query is None:
                talk.server(ACK, codes.CONTENT, 1, options=options if right else [TEXT], payload=LINKS)
                return
            talk.server(ACK, codes.CONTENT, 1, options=options, payload=LINKS)
            talk.client(CON, GET, 2, options=path(".well-known/core", (URI_QUERY, query)))
            body = b",".join(everything[index] for index in (right_links if right else wrong_links))
            talk.server(ACK, codes.CONTENT, 2, options=options, payload=body)

        return script

    case("LINK_01", "server", 2, listing(None, [], []))
    case("LINK_02", "server", 4, listing(b"rt=one", [0], [0, 2]))
    case("LINK_03", "server", 4, listing(b"rt=*", [0, 1], [0]))
    case("LINK_04", "server", 4, listing(b"rt=two", [0, 1], [1]))
    case("LINK_05", "server", 4, listing(b"if=If*", [0], [0, 1]))
    case("LINK_06", "server", 4, listing(b"sz=*", [0], [0, 3]))
    case("LINK_07", "server", 4, listing(b"href=/link1", [1], [1, 2]))
    case("LINK_08", "server", 4, listing(b"href=/link*", [1, 2], [1]))

    def hierarchy(talk: Talk, right: bool) -> None:
        listing(None, [], [])(talk, True)
        options = [number(CONTENT_FORMAT, 40)] if right else [TEXT]
        talk.client(CON, GET, 2, options=path("path"))
        talk.server(ACK, codes.CONTENT, 2, options=options, payload=b"</path/sub1>")
        talk.client(CON, GET, 3, options=path("path/sub1"))
        talk.server(ACK, codes.CONTENT, 3, options=[TEXT], payload=b"sub")

    case("LINK_09", "server", 4, hierarchy)


for _enter in (core_cases, block_cases, observe_cases, link_cases):
    _enter()


def capture(sent: Iterable[Sent]) -> bytes:
    """Return packets as a pcapng file."""
    parts = [section("tests.conformance.scripts"), interface("made up")]
    parts += [packet(BEGAN_AT + at, datagram(source, destination, data)) for at, source, destination, data in sent]
    return b"".join(parts)


def files() -> dict[str, bytes]:
    """Return all captures by name."""
    found = {}
    for id, each in CASES.items():
        found[f"{id}_right.pcapng"] = capture(each.right)
        found[f"{id}_wrong.pcapng"] = capture(each.wrong)
    return found


if __name__ == "__main__":
    CAPTURES.mkdir(exist_ok=True)
    for name, data in files().items():
        (CAPTURES / name).write_bytes(data)
    print(f"{len(files())} captures in {CAPTURES}")
