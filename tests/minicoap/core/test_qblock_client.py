"""Q-Block at a client (RFC 9177 §4): how it finds out, falls back, recovers, and what ends a body."""

from __future__ import annotations

from typing import Any, Optional

import pytest

from minicoap.codec import codes
from minicoap.codec.message import RST, Message
from minicoap.codec.missingblocks import encode_missing
from minicoap.codec.options import (
    BLOCK2,
    CONTENT_FORMAT,
    ECHO,
    ETAG,
    Q_BLOCK1,
    Q_BLOCK2,
    REQUEST_TAG,
    SIZE1,
    SIZE2,
    encode_uint,
)
from minicoap.core.body import Block
from minicoap.core.parameters import Limits, TransmissionParameters
from minicoap.core.qblock import MISSING_BLOCKS
from minicoap.core.qblock_peers import QuickPeers
from minicoap.core.request import Deferred, Request, Response
from minicoap.core.resource import Resource, Site
from minicoap.core.timers import Timers
from minicoap.errors import BodyError, CoapError, PathError, PeerError, RequestTimeout, StorageError, UsageError
from minicoap.simulate.entropy import SeededEntropy
from minicoap.simulate.link import Link
from minicoap.simulate.pair import Pair
from tests.minicoap.core.quick import Store, body, described, loses
from tests.minicoap.core.solo import Solo, ack, non, reset

FORMAT = (CONTENT_FORMAT, encode_uint(MISSING_BLOCKS))


class Asked:
    """A request by Q-Block, to a server that the test plays. It has said that it has Q-Block."""

    def __init__(self, code: int = codes.GET, *, knows: bool = True, **arguments: Any) -> None:
        self.solo = Solo()
        arguments = {"confirmable": False, **arguments}
        self.outcomes = self.solo.request(code, "x", qblock=True, **arguments)
        self.message_id = 50_000
        (self.probe,) = self.solo.sent()
        self.requests: list[Message] = []
        if knows:
            options = ((Q_BLOCK2, Block(0, False, 0).encode()),)
            self.requests = self.solo.put(ack(codes.CONTENT, self.probe, options=options, payload=b"</x>"))

    def answer(self, code: int, token: bytes, *options: tuple[int, bytes], payload: bytes = b"") -> list[Message]:
        self.message_id += 1
        return self.solo.put(non(code, self.message_id, token, options=options, payload=payload))

    def block(
        self, data: bytes, number: int, token: Optional[bytes] = None, etag: bytes = b"v", szx: int = 6
    ) -> list[Message]:
        size = 16 << szx
        block = Block(number, (number + 1) * size < len(data), szx)
        return self.answer(
            codes.CONTENT, self.requests[0].token if token is None else token,
            (ETAG, etag), (Q_BLOCK2, block.encode()), (SIZE2, encode_uint(len(data))),
            payload=data[number * size : (number + 1) * size],
        )  # fmt: skip

    @property
    def outcome(self) -> Any:
        (outcome,) = self.outcomes
        return outcome


def said(messages: list[Message]) -> list[str]:
    return [described(message) for message in messages]


def test_the_first_request_asks_whether_there_is_q_block() -> None:  # §4.1
    asked = Asked(knows=False)
    assert described(asked.probe) == "CON GET QB2:0/0"
    assert asked.probe.options.path == (".well-known", "core")


@pytest.mark.parametrize(
    ("code", "options"),
    [
        (codes.BAD_OPTION, ()),  # §4.1
        (codes.CONTENT, ()),  # it has overlooked a critical option
    ],
)
def test_a_server_without_it_is_asked_as_any_other(code: int, options: tuple[tuple[int, bytes], ...]) -> None:
    asked = Asked(knows=False)
    (request,) = asked.solo.put(ack(code, asked.probe, options=options, payload=b"</x>"))
    assert request.options.path == ("x",) and not request.options.mask & 1 << Q_BLOCK2
    asked.answer(codes.CONTENT, request.token, payload=b"done")
    assert asked.outcome.payload == b"done"
    asked.solo.request(codes.GET, "x", qblock=True)
    (again,) = asked.solo.sent()
    assert again.options.path == ("x",)  # remembered


def test_a_long_body_to_a_server_without_it_goes_by_block1() -> None:
    asked = Asked(codes.PUT, knows=False, payload=body(3), confirmable=True)
    (request,) = asked.solo.put(ack(codes.BAD_OPTION, asked.probe))
    assert request.options.get(27) is not None and request.options.get(REQUEST_TAG) is None


def test_a_server_that_has_nothing_there_has_q_block_all_the_same() -> None:
    asked = Asked(knows=False)
    (request,) = asked.solo.put(ack(codes.NOT_FOUND, asked.probe))
    assert described(request) == "NON GET QB2:0/1"


def test_no_answer_to_the_question_ends_the_request() -> None:
    asked = Asked(knows=False)
    asked.solo.pass_time(100.0)
    assert isinstance(asked.outcome, RequestTimeout)


def test_a_server_that_answers_by_block2_all_the_same_is_followed() -> None:
    asked = Asked()
    (further,) = asked.answer(
        codes.CONTENT, asked.requests[0].token, (BLOCK2, Block(0, True, 6).encode()), payload=body(1)
    )
    assert further.options.uint(BLOCK2) == Block(1, False, 6).number << 4 | 6
    asked.answer(codes.CONTENT, further.token, (BLOCK2, Block(1, False, 6).encode()), payload=b"end")
    assert asked.outcome.payload == body(1) + b"end"


def test_every_block_of_a_request_has_the_same_tag_and_size1() -> None:  # §4.3, §4.6
    asked = Asked(codes.PUT, payload=body(3))
    assert said(asked.requests) == ["NON PUT QB1:0/1", "NON PUT QB1:1/1", "NON PUT QB1:2/0"]
    assert len({request.options.get(REQUEST_TAG) for request in asked.requests}) == 1
    assert {request.options.uint(SIZE1) for request in asked.requests} == {3072}
    assert len({request.token for request in asked.requests}) == 3  # §6


def test_another_body_has_another_tag() -> None:  # §4.3
    asked = Asked(codes.PUT, payload=body(3))
    asked.solo.request(codes.PUT, "x", qblock=True, confirmable=False, payload=body(3))
    others = asked.solo.sent()
    assert others[0].options.get(REQUEST_TAG) != asked.requests[0].options.get(REQUEST_TAG)


def test_missing_blocks_are_sent_again_as_they_were_with_a_new_token() -> None:  # §4.3
    asked = Asked(codes.PUT, payload=body(4))
    again = asked.answer(codes.REQUEST_ENTITY_INCOMPLETE, asked.requests[-1].token, FORMAT, payload=b"\x01\x02")
    assert said(again) == ["NON PUT QB1:1/1", "NON PUT QB1:2/1"]
    assert [request.payload for request in again] == [asked.requests[1].payload, asked.requests[2].payload]
    assert not {request.token for request in again} & {request.token for request in asked.requests}
    asked.answer(codes.CHANGED, again[-1].token)
    assert asked.outcome.code == codes.CHANGED


@pytest.mark.parametrize("payload", [b"", b"\x02\x01", b"\xff", b"\x61x", b"\x18"])
def test_a_list_that_is_none_is_dropped_in_silence(payload: bytes) -> None:  # §5
    asked = Asked(codes.PUT, payload=body(4))
    token = asked.requests[-1].token
    assert asked.answer(codes.REQUEST_ENTITY_INCOMPLETE, token, FORMAT, payload=payload) == []
    assert asked.outcomes == []


def test_4_08_without_a_list_is_the_end() -> None:  # §4.3, RFC 7959 §2.9.2
    asked = Asked(codes.PUT, payload=body(4))
    asked.answer(codes.REQUEST_ENTITY_INCOMPLETE, asked.requests[-1].token)
    assert asked.outcome.code == codes.REQUEST_ENTITY_INCOMPLETE


def test_continue_frees_the_tokens_of_its_set() -> None:  # §4.3
    asked = Asked(codes.PUT, payload=body(25))
    more = asked.answer(codes.CONTINUE, asked.requests[9].token, (Q_BLOCK1, Block(9, True, 6).encode()))
    assert said(more) == [f"NON PUT QB1:{number}/1" for number in range(10, 20)]
    assert asked.answer(codes.CHANGED, asked.requests[4].token) == [] and asked.outcomes == []


def test_continue_need_not_name_its_block() -> None:
    asked = Asked(codes.PUT, payload=body(12))
    assert said(asked.answer(codes.CONTINUE, asked.requests[9].token)) == ["NON PUT QB1:10/1", "NON PUT QB1:11/0"]


def test_what_was_given_up_is_rejected() -> None:  # §4.3
    asked = Asked(codes.PUT, payload=body(4))
    asked.answer(codes.FORBIDDEN, asked.requests[0].token)
    assert asked.outcome.code == codes.FORBIDDEN
    (answer,) = asked.answer(codes.REQUEST_ENTITY_INCOMPLETE, asked.requests[3].token, FORMAT, payload=b"\x01")
    assert (answer.type, answer.message_id) == (RST, asked.message_id)


def test_a_reset_ends_the_request() -> None:
    asked = Asked(codes.PUT, payload=body(4))
    asked.solo.put(reset(asked.requests[2]))
    assert isinstance(asked.outcome, PeerError)


def test_without_an_answer_the_last_block_is_sent_again() -> None:
    asked = Asked(codes.PUT, payload=body(4))
    again = asked.solo.pass_time(300.0)
    assert said([request for _, request in again]) == ["NON PUT QB1:3/0"] * 4
    assert [when - 1000.0 for when, _ in again] == pytest.approx([8.0, 24.0, 56.0, 120.0])
    assert isinstance(asked.outcome, RequestTimeout)


def test_a_silent_server_is_not_sent_the_next_body_before_its_time() -> None:  # §7.2
    asked = Asked(codes.PUT, payload=body(4))
    asked.solo.pass_time(247.9)
    assert asked.outcomes == []
    asked.solo.pass_time(0.2)
    assert isinstance(asked.outcome, RequestTimeout)
    # 8 kB at 1 B/s is longer than NON_PROBING_WAIT, 248 s from when the body began.
    asked.solo.now = 1200.0
    asked.solo.request(codes.PUT, "x", qblock=True, confirmable=False, payload=body(1) + b"x")
    assert asked.solo.sent() == []
    sent = asked.solo.pass_time(60.0)
    assert [when for when, _ in sent[:2]] == pytest.approx([1248.0] * 2)


def test_a_get_of_which_nothing_comes_is_sent_again() -> None:
    asked = Asked()
    again = asked.solo.pass_time(300.0)
    assert said([request for _, request in again]) == ["NON GET QB2:0/1"] * 4
    assert [when - 1000.0 for when, _ in again] == pytest.approx([4.0, 12.0, 28.0, 60.0])
    assert isinstance(asked.outcome, RequestTimeout)


def test_a_post_is_not_sent_again() -> None:
    asked = Asked(codes.POST, payload=b"short")
    assert asked.solo.pass_time(300.0) == [] and isinstance(asked.outcome, RequestTimeout)


def test_the_timeout_is_the_most_that_silence_may_last() -> None:
    asked = Asked(timeout=7.0)
    asked.solo.pass_time(7.1)
    assert isinstance(asked.outcome, RequestTimeout)


def test_blocks_come_in_any_order_and_twice() -> None:
    asked = Asked()
    for number in (2, 0, 0, 3, 2, 1):
        asked.block(body(4), number)
    assert asked.outcome.payload == body(4) and asked.outcome.etag == b"v"


def test_a_list_that_the_response_has_overtaken_is_ignored() -> None:
    asked = Asked(codes.FETCH, payload=body(3))
    token = asked.requests[-1].token
    asked.block(body(2), 0, token=token)
    assert asked.answer(codes.REQUEST_ENTITY_INCOMPLETE, token, FORMAT, payload=b"\x01") == []
    asked.block(body(2), 1, token=token)
    assert asked.outcome.payload == body(2)


def test_requests_for_missing_blocks_keep_to_probing_rate() -> None:  # §7.2
    asked = Asked()
    asked.block(body(10), 0)
    asked.block(body(10), 9)
    again = asked.solo.pass_time(2000.0)
    sizes = [len(request.options.raw) + 4 + len(request.token) for _, request in again]
    assert len(again) == 4
    for count, (when, _) in enumerate(again):
        assert sum(sizes[:count]) <= when - 1000.0 + 0.01


def test_tokens_are_listened_for_no_longer_than_the_last_sets() -> None:  # §4.3
    asked = Asked(codes.PUT, payload=body(200))
    asked.solo.pass_time(200.0)
    peer = asked.solo.core._peers.find(("127.0.0.1", 5683))
    assert peer is not None and len(peer.exchanges) == 40
    assert peer.rejectable is not None and len(peer.rejectable) == 64
    asked.answer(codes.CHANGED, max(peer.exchanges))
    assert peer.exchanges == {} and peer.rejectable is None


def test_of_many_servers_the_last_ones_are_remembered() -> None:
    peers = QuickPeers(Timers(), SeededEntropy(1, "peers"))
    for number in range(2000):
        peers.note(("192.0.2.1", number), number % 2 == 0)
        peers.note_silence(("192.0.2.1", number), 9.0, 0.0)
    assert peers.has_quick(("192.0.2.1", 0)) is None and peers.silent_until(("192.0.2.1", 0)) == 0.0
    assert peers.has_quick(("192.0.2.1", 1998)) is True and peers.has_quick(("192.0.2.1", 1999)) is False
    assert peers.silent_until(("192.0.2.1", 1999)) == 9.0


def test_missing_blocks_are_asked_for_again_and_again_and_then_it_is_over() -> None:  # §7.2
    asked = Asked()
    for number in (0, 2, 3):
        asked.block(body(4), number)
    again = asked.solo.pass_time(400.0)
    assert said([request for _, request in again]) == ["NON GET QB2:1/0"] * 4
    waits = [when - 1000.0 for when, _ in again]
    assert waits[0] == pytest.approx(4.0) and waits[1] >= 12.0  # or what PROBING_RATE makes of it
    assert isinstance(asked.outcome, RequestTimeout)


def test_a_request_for_missing_blocks_has_no_etag() -> None:  # §4.4
    asked = Asked(options=[(ETAG, b"old")])
    assert asked.requests[0].options.get(ETAG) == b"old"
    asked.block(body(4), 0)
    ((_, again), *_) = asked.solo.pass_time(5.0)
    assert again.options.get(ETAG) is None


def test_a_block_under_the_token_of_any_request_counts() -> None:
    asked = Asked()
    for number in (0, 2):
        asked.block(body(3), number)
    ((_, again), *_) = asked.solo.pass_time(5.0)
    asked.block(body(3), 1, token=again.token)
    assert asked.outcome.payload == body(3)


@pytest.mark.parametrize(
    ("options", "payload", "words"),
    [
        ([(ETAG, b"v"), (Q_BLOCK2, b"\x1e")], bytes(1024), "size of its body"),  # §4.6
        ([(ETAG, b"w"), (Q_BLOCK2, b"\x1e"), (SIZE2, b"\x0c\x00")], bytes(1024), "changed"),  # §4.4
        ([(ETAG, b"v"), (Q_BLOCK2, b"\x1e"), (SIZE2, b"\x0d\x00")], bytes(1024), "changed"),
        ([(ETAG, b"v"), (Q_BLOCK2, b"\x1e"), (SIZE2, b"\x0c\x00")], bytes(1000), "length"),
        ([(ETAG, b"v"), (Q_BLOCK2, b"\x1f"), (SIZE2, b"\x0c\x00")], bytes(1024), "one Q-Block2"),
        ([(ETAG, b"v"), (Q_BLOCK2, b"\x1e"), (Q_BLOCK2, b"\x2e"), (SIZE2, b"\x0c\x00")], bytes(1024), "one Q-Block2"),
        ([(ETAG, b"v"), (Q_BLOCK2, b"\x1d"), (SIZE2, b"\x0c\x00")], bytes(512), "one size"),
        ([(ETAG, b"v")], b"all of it", "something else"),
    ],
)
def test_a_block_that_does_not_fit_ends_the_body(options: list[tuple[int, bytes]], payload: bytes, words: str) -> None:
    asked = Asked()
    asked.block(body(3), 0)
    asked.answer(codes.CONTENT, asked.requests[0].token, *options, payload=payload)
    assert isinstance(asked.outcome, BodyError) and words in str(asked.outcome)


class Sink:
    """Keeps what it gets, in order; fails at `fails_at`."""

    def __init__(self, fails_at: Optional[int] = None) -> None:
        self.data = b""
        self.fails_at = fails_at
        self.begun = 0

    def begin(self, response: Response, size: Optional[int]) -> None:
        self.begun += 1
        self.size = size
        if self.begun > 1:
            self.data = b""

    def write_at(self, offset: int, data: bytes) -> None:
        if offset == self.fails_at:
            raise OSError(28, "No space left on device")
        assert offset == len(self.data)
        self.data += data


def test_another_body_in_between_is_begun_anew_if_that_is_wanted() -> None:  # §4.4
    sink = Sink()
    asked = Asked(sink=sink, restart=True)
    asked.block(body(3), 0)
    (again,) = asked.block(bytes(3072), 2, etag=b"w")
    assert described(again) == "NON GET QB2:0/1"
    for number in range(3):
        asked.block(bytes(3072), number, etag=b"w")
    assert asked.outcome.code == codes.CONTENT and sink.data == bytes(3072)


def test_a_sink_that_fails_ends_the_request() -> None:
    asked = Asked(sink=Sink(fails_at=1024))
    asked.block(body(3), 0)
    asked.block(body(3), 1)
    assert isinstance(asked.outcome, StorageError)


def test_a_download_can_be_gone_on_with() -> None:
    data = body(25)
    pair = Pair(Store(data).site())
    sink = Sink()
    sink.data = data[: 12 * 1024]
    response = pair.request(
        codes.GET, "x", qblock=True, confirmable=False, sink=sink, offset=12 * 1024, szx=6, etag=b"v1"
    )
    assert response.code == codes.CONTENT and sink.data == data
    assert described(pair.messages()[2][1]) == "NON GET QB2:12/1"


def test_one_of_another_body_cannot() -> None:
    pair = Pair(Store(body(25)).site())
    outcome = pair.outcome(codes.GET, "x", qblock=True, confirmable=False, sink=Sink(), offset=1024, etag=b"old")
    assert isinstance(outcome, BodyError)


@pytest.mark.parametrize("szx", [0, 3, 6])
def test_blocks_may_be_small(szx: int) -> None:
    pair = Pair(Store(body(3, 100)).site())
    response = pair.request(codes.FETCH, "x", payload=body(1, 20), qblock=True, confirmable=False, szx=szx)
    assert response.payload == body(1, 20)[::-1]
    assert all(len(message.payload) <= 16 << szx for _, message in pair.messages()[2:])


def test_a_server_may_choose_smaller_blocks() -> None:
    pair = Pair(Store(body(20)).site(), limits=Limits(block_szx=5, amplification=0))
    assert pair.request(codes.GET, "x", qblock=True, confirmable=False).payload == body(20)


@pytest.mark.parametrize("code", [codes.GET, codes.PUT])
def test_a_challenge_is_met_by_the_whole_body_with_its_value(code: int) -> None:  # RFC 9175 §2.3
    store = Store(body(12))
    pair = Pair(store.site(), limits=Limits())
    payload = b"" if code == codes.GET else body(12)
    response = pair.request(code, "x", payload=payload, qblock=True, confirmable=False)
    assert response.payload == body(12) if code == codes.GET else store.taken == [body(12)]
    assert codes.UNAUTHORIZED in [message.code for _, message in pair.messages()]
    asked = [message for sender, message in pair.messages() if sender == "client"]
    assert any(message.options.get(ECHO) for message in asked)


def test_what_was_on_its_way_before_a_challenge_does_not_count_for_the_body_begun_anew() -> None:
    waiting: list[Deferred] = []

    def put(request: Request) -> Deferred:
        waiting.append(request.defer())
        return waiting[-1]

    pair = Pair(Site(Resource("/x", put=put)), limits=Limits())
    outcome = pair.outcome(codes.PUT, "x", payload=body(6), qblock=True)
    assert isinstance(outcome, RequestTimeout)  # there is no answer; it would wait for ever for a block that is there
    assert [deferred.request.payload for deferred in waiting] == [body(6)]


@pytest.mark.parametrize("first_is_lost", [False, True])
def test_a_challenge_amid_the_response_does_not_have_the_request_carried_out_again(first_is_lost: bool) -> None:
    """As comes of an address that is another one now: there the response is not kept."""
    store = Store()
    lost = [f"NON 2.05 QB2:{number}/1" for number in ((0, 3) if first_is_lost else (3,))]
    pair = Pair(store.site(), limits=Limits())
    pair.back.admits = loses(*lost)
    outcomes = pair.start(codes.POST, "x", payload=body(5), qblock=True, confirmable=False)
    assert pair.world.run_until(lambda: len(store.taken) == 1)
    pair.world.run_for(0.5)
    pair.client_host.rebind(("client", 50_000))
    assert pair.world.run_until(lambda: bool(outcomes))
    assert [codes.code_text(each.code) for each in outcomes if isinstance(each, Response)] == ["4.08"]
    assert store.taken == [body(5)]


def test_progress_is_told() -> None:
    told: list[tuple[int, Optional[int]]] = []
    pair = Pair(Store(body(12)).site())
    pair.request(
        codes.GET, "x", qblock=True, confirmable=False, progress=lambda t: told.append((t.received, t.received_size))
    )
    assert told == [(1024 * count, 12 * 1024) for count in range(1, 13)]
    told.clear()
    pair.request(
        codes.PUT, "x", payload=body(12), qblock=True, confirmable=False,
        progress=lambda t: told.append((t.sent, t.sent_size)),
    )  # fmt: skip
    assert told == [(10240, 12288), (12288, 12288)]


def test_a_request_can_be_cancelled_at_any_time() -> None:
    for steps in range(0, 60, 3):
        pair = Pair(Store(body(30)).site())
        outcomes: list[Any] = []
        request = pair.client.request(
            codes.GET, pair.server_host.address, outcomes.append, 0.0, uri_path=["x"], qblock=True, confirmable=False
        )
        pair.client_host.wake()
        for _ in range(steps):
            pair.world.step()
        request.cancel(pair.world.now)
        request.cancel(pair.world.now)
        pair.world.run_for(3000.0)
        assert outcomes == [] or steps > 30
        assert not any(pair.client.footprint().values())
        assert not any(pair.server.footprint().values())


def test_an_unreachable_server_ends_the_request_at_once() -> None:
    asked = Asked(codes.PUT, payload=body(4))
    asked.solo.core.path_failed(("127.0.0.1", 5683), OSError(111, "Connection refused"), asked.solo.now)
    assert isinstance(asked.outcome, PathError)
    assert asked.solo.pass_time(30.0) == []


def test_what_does_not_go_together_is_refused() -> None:
    solo = Solo()
    for arguments in ({"window": 4}, {"no_response": 2}, {"offset": 5}, {"szx": 7}):
        with pytest.raises(UsageError):
            solo.request(codes.GET, "x", qblock=True, **arguments)


def test_a_request_may_have_parameters_of_its_own() -> None:  # §7.2
    parameters = TransmissionParameters(max_payloads=4)
    asked = Asked(codes.PUT, payload=body(9), parameters=parameters)
    assert len(asked.requests) == 4


def test_a_lost_final_answer_is_asked_for_by_the_last_block() -> None:
    store = Store()
    pair = Pair(store.site(), link=Link(delay=0.01))
    pair.back.admits = loses("NON 2.04")
    assert pair.request(codes.PUT, "x", payload=body(3), qblock=True, confirmable=False).code == codes.CHANGED
    assert store.taken == [body(3)]


def test_confirmable_blocks_that_nobody_acknowledges_end_the_request() -> None:
    asked = Asked(codes.PUT, payload=body(3), confirmable=True)
    assert said(asked.requests) == ["CON PUT QB1:0/1"]
    asked.solo.pass_time(100.0)
    assert isinstance(asked.outcome, CoapError)


def test_a_confirmable_response_that_stops_is_asked_for_again() -> None:  # §4.4
    pair = Pair(Store(body(4)).site(), link=Link(delay=0.01))
    pair.back.admits = loses(*["CON 2.05 QB2:2/1"] * 5)
    assert pair.request(codes.GET, "x", qblock=True).payload == body(4)
    asked = [described(message) for sender, message in pair.messages() if sender == "client" and message.code]
    assert asked[1:] == ["CON GET QB2:0/1", "CON GET QB2:2/1"]


def test_a_list_of_missing_blocks_may_name_what_was_never_sent() -> None:
    asked = Asked(codes.PUT, payload=body(25))
    again = asked.answer(
        codes.REQUEST_ENTITY_INCOMPLETE, asked.requests[9].token, FORMAT, payload=encode_missing([3, 12, 500], 64)
    )
    assert said(again) == ["NON PUT QB1:3/1"]


def test_options_are_the_same_on_every_block() -> None:
    asked = Asked(codes.PUT, payload=body(2), content_format=42)
    assert [request.options.uint(CONTENT_FORMAT) for request in asked.requests] == [42, 42]
