"""The examples of RFC 9177 §10 and its appendix, as far as they have no Observe: who says what, and when."""

from __future__ import annotations

from typing import Any

import pytest

from minicoap.codec import codes
from minicoap.codec.message import CON, Message, decode
from minicoap.codec.options import Q_BLOCK1, Q_BLOCK2, REQUEST_TAG, SIZE1
from minicoap.core.parameters import TransmissionParameters
from minicoap.errors import RequestTimeout
from minicoap.simulate.link import Link
from minicoap.simulate.pair import Pair
from tests.minicoap.core.quick import Store, body, flow, loses


def blocks(line: str, first: int, last: int, count: int) -> list[str]:
    return [f"{line}:{number}/{number < count - 1:d}" for number in range(first, last)]


def put(store: Store, data: bytes, *lost: str, back: tuple[str, ...] = (), **arguments: Any) -> Pair:
    pair = Pair(store.site(), link=Link(delay=0.01))
    pair.there.admits = loses(*lost)
    pair.back.admits = loses(*back)
    assert pair.request(codes.PUT, "x", payload=data, qblock=True, **{"confirmable": False, **arguments}).code == (
        codes.CHANGED
    )
    assert store.taken == [data]
    return pair


def get(data: bytes, *lost: str, there: tuple[str, ...] = (), **arguments: Any) -> Pair:
    pair = Pair(Store(data).site(), link=Link(delay=0.01))
    pair.there.admits = loses(*there)
    pair.back.admits = loses(*lost)
    assert pair.request(codes.GET, "x", qblock=True, **{"confirmable": False, **arguments}).payload == data
    return pair


def test_a_body_of_four_blocks_is_answered_once() -> None:  # §10.1.1
    pair = put(Store(), body(4))
    assert flow(pair) == [*blocks("c NON PUT QB1", 0, 4, 4), "s NON 2.04"]


def test_after_max_payloads_the_server_says_continue() -> None:  # §10.1.2
    pair = put(Store(), body(11))
    assert flow(pair) == [
        *blocks("c NON PUT QB1", 0, 10, 11), "s NON 2.31 QB1:9/1", "c NON PUT QB1:10/0", "s NON 2.04",
    ]  # fmt: skip
    assert pair.world.now < 0.1  # nobody waited


def test_a_later_set_shows_the_server_what_it_missed_of_the_one_before() -> None:  # §10.1.3
    pair = put(Store(), body(13), "NON PUT QB1:1/1", "NON PUT QB1:9/1", "NON PUT QB1:10/1")
    said = flow(pair)
    first = [line + (" X" if ":1/" in line or ":9/" in line else "") for line in blocks("c NON PUT QB1", 0, 10, 13)]
    assert said[:10] == first
    assert said[10:16] == [
        "c NON PUT QB1:10/1 X", "c NON PUT QB1:11/1", "c NON PUT QB1:12/0",
        "s NON 4.08 missing 1,9", "c NON PUT QB1:1/1", "c NON PUT QB1:9/1",
    ]  # fmt: skip
    assert said[16:] == ["s NON 4.08 missing 10", "c NON PUT QB1:10/1", "s NON 2.04"]
    sent_at = [datagram.sent_at for datagram in list(pair.world.trace)[2:]]
    assert 2.0 <= sent_at[10] - sent_at[9] <= 3.0  # NON_TIMEOUT_RANDOM
    assert sent_at[16] - sent_at[15] == pytest.approx(4.01)  # NON_RECEIVE_TIMEOUT


def test_the_server_asks_max_retransmit_times_and_gives_up() -> None:  # §10.1.4
    store = Store()
    pair = Pair(store.site(), link=Link(delay=0.01))
    pair.there.admits = loses(*["NON PUT QB1:1/1"] * 99)
    outcomes = pair.start(codes.PUT, "x", payload=body(3), qblock=True, confirmable=False)
    # The client has gone when the first list comes: it says nothing, not even that.
    pair.world.run_until(lambda: len(pair.world.trace) >= 5)
    pair.client_host.crash()
    pair.world.run_for(400)
    asked = [datagram for datagram in pair.world.trace if datagram.data[1] == codes.REQUEST_ENTITY_INCOMPLETE]
    assert len(asked) == 4
    waits = [later.sent_at - earlier.sent_at for earlier, later in zip(asked, asked[1:])]
    assert waits == pytest.approx([9.0, 16.0, 32.0], abs=1.1)  # 13 bytes, at PROBING_RATE, take longer than 2 * 4 s
    assert store.taken == [] and outcomes == []
    assert pair.server.footprint()["bodies"] == 0


def test_a_response_of_four_blocks_comes_by_itself() -> None:  # §10.2.1
    pair = get(body(4))
    assert flow(pair) == ["c NON GET QB2:0/1", *blocks("s NON 2.05 QB2", 0, 4, 4)]


def test_after_max_payloads_the_client_says_continue() -> None:  # §10.2.2
    pair = get(body(11))
    assert flow(pair) == [
        "c NON GET QB2:0/1", *blocks("s NON 2.05 QB2", 0, 10, 11), "c NON GET QB2:10/1", "s NON 2.05 QB2:10/0",
    ]  # fmt: skip
    messages = [message for _, message in pair.messages()[2:]]
    first, again = messages[0].token, messages[11].token
    assert again != first
    assert {message.token for message in messages[1:11]} == {first} == {messages[12].token}  # §10.3.2
    assert pair.world.now < 0.1


def test_a_later_set_shows_the_client_what_it_missed() -> None:  # §10.2.3
    pair = get(body(11), "NON 2.05 QB2:1/1", "NON 2.05 QB2:1/1", "NON 2.05 QB2:9/1")
    assert flow(pair)[11:] == [
        "s NON 2.05 QB2:10/0", "c NON GET QB2:1/0 QB2:9/0", "s NON 2.05 QB2:1/1 X", "s NON 2.05 QB2:9/1",
        "c NON GET QB2:1/0", "s NON 2.05 QB2:1/1",
    ]  # fmt: skip
    sent_at = [datagram.sent_at for datagram in list(pair.world.trace)[2:]]
    assert sent_at[12] - sent_at[11] == pytest.approx(0.01)  # at once
    messages = [message for _, message in pair.messages()[2:]]
    assert messages[13].token == messages[12].token  # what is asked for again bears the token of who asks


def test_what_is_missing_to_the_end_of_a_set_is_asked_for_by_one_option() -> None:  # §10.2.4
    tail = [f"NON 2.05 QB2:{number}/1" for number in range(2, 10)]
    pair = get(body(11), *tail, "NON 2.05 QB2:10/0")
    said = flow(pair)
    assert said[11:] == [
        "s NON 2.05 QB2:10/0 X", "c NON GET QB2:2/1", *blocks("s NON 2.05 QB2", 2, 10, 11),
        "c NON GET QB2:10/1", "c NON GET QB2:10/0", "s NON 2.05 QB2:10/0",
    ] or said[11:] == [
        "s NON 2.05 QB2:10/0 X", "c NON GET QB2:2/1", *blocks("s NON 2.05 QB2", 2, 10, 11),
        "c NON GET QB2:10/1", "s NON 2.05 QB2:10/0",
    ]  # fmt: skip


def test_a_fetch_uses_both() -> None:  # §10.3.1
    pair = Pair(Store().site())
    assert pair.request(codes.FETCH, "x", payload=body(3), qblock=True, confirmable=False).payload == body(3)[::-1]
    assert flow(pair) == [*blocks("c NON FETCH QB1", 0, 3, 3), *blocks("s NON 2.05 QB2", 0, 3, 3)]


def test_a_fetch_of_more_than_max_payloads_both_ways() -> None:  # §10.3.2
    pair = Pair(Store().site())
    assert pair.request(codes.FETCH, "x", payload=body(11), qblock=True, confirmable=False).payload == body(11)[::-1]
    assert flow(pair) == [
        *blocks("c NON FETCH QB1", 0, 10, 11), "s NON 2.31 QB1:9/1", "c NON FETCH QB1:10/0",
        *blocks("s NON 2.05 QB2", 0, 10, 11), "c NON FETCH QB2:10/1", "s NON 2.05 QB2:10/0",
    ]  # fmt: skip


def test_a_fetch_recovers_both_ways_by_one_request_tag() -> None:  # §10.3.3
    pair = Pair(Store().site())
    pair.there.admits = loses("NON FETCH QB1:1/1", "NON FETCH QB1:2/1")
    pair.back.admits = loses("NON 2.05 QB2:1/1", "NON 2.05 QB2:3/0", "NON 2.05 QB2:1/1")
    assert pair.request(codes.FETCH, "x", payload=body(4), qblock=True, confirmable=False).payload == body(4)[::-1]
    assert flow(pair) == [
        "c NON FETCH QB1:0/1", "c NON FETCH QB1:1/1 X", "c NON FETCH QB1:2/1 X", "c NON FETCH QB1:3/0",
        "s NON 4.08 missing 1,2", "c NON FETCH QB1:1/1", "c NON FETCH QB1:2/1",
        "s NON 2.05 QB2:0/1", "s NON 2.05 QB2:1/1 X", "s NON 2.05 QB2:2/1", "s NON 2.05 QB2:3/0 X",
        "c NON FETCH QB2:1/0 QB2:3/0", "s NON 2.05 QB2:1/1 X", "s NON 2.05 QB2:3/0",
        "c NON FETCH QB2:1/0", "s NON 2.05 QB2:1/1",
    ]  # fmt: skip
    asked = [message for sender, message in pair.messages()[2:] if sender == "client"]
    assert len({message.options.get(REQUEST_TAG) for message in asked}) == 1
    assert len({message.token for message in asked}) == len(asked)  # §6
    assert all(message.options.uint(SIZE1) == 4096 for message in asked if message.options.get(Q_BLOCK1) is not None)
    assert all(not message.payload for message in asked if message.options.get(Q_BLOCK2) is not None)


def test_confirmable_blocks_are_acknowledged_and_only_the_last_is_answered() -> None:  # appendix A.1
    pair = put(Store(), body(12), confirmable=True)
    said = flow(pair)
    assert [line for line in said if line.startswith("c")] == blocks("c CON PUT QB1", 0, 12, 12)
    assert [line for line in said if line.startswith("s")] == [*["s ACK 0.00"] * 11, "s ACK 2.04"]


def test_nstart_says_how_many_confirmable_blocks_are_under_way() -> None:  # appendix A.1
    parameters = TransmissionParameters(nstart=3, congestion_controlled=True)
    pair = Pair(Store().site(), parameters=parameters)
    assert pair.request(codes.PUT, "x", payload=body(4), qblock=True).code == codes.CHANGED
    assert flow(pair)[:4] == [*blocks("c CON PUT QB1", 0, 3, 4), "s ACK 0.00"]


def test_a_lost_confirmable_block_is_repeated_as_a_message() -> None:  # appendix A.1, figure 17
    pair = put(Store(), body(3), "CON PUT QB1:1/1", confirmable=True)
    said = flow(pair)
    assert said.count("c CON PUT QB1:1/1") == 1 and said.count("c CON PUT QB1:1/1 X") == 1
    assert not any("4.08" in line or "2.31" in line for line in said)


def test_a_confirmable_response_goes_on_in_confirmable_messages() -> None:  # appendix A.2
    pair = get(body(12), confirmable=True)
    said = flow(pair)
    assert said[:3] == ["c CON GET QB2:0/1", "s ACK 2.05 QB2:0/1", "s CON 2.05 QB2:1/1"]
    assert [line for line in said if "2.05" in line][1:] == blocks("s CON 2.05 QB2", 1, 12, 12)
    assert [line for line in said if line.startswith("c")][1:] == ["c ACK 0.00"] * 11


@pytest.mark.parametrize("code", [codes.GET, codes.PUT])
def test_support_is_asked_for_by_one_confirmable_request_and_remembered(code: int) -> None:  # §4.1
    pair = Pair(Store(body(2)).site())
    payload = b"" if code == codes.GET else body(2)
    for _ in range(2):
        pair.request(code, "x", payload=payload, qblock=True, confirmable=False)
    probes = [
        message
        for datagram in pair.world.trace
        if _is_probe(message := decode(datagram.data)) and datagram.source[0] == "client"
    ]
    assert [message.type for message in probes] == [CON]


def _is_probe(message: Message) -> bool:
    return message.options.path == (".well-known", "core")


def test_a_silent_server_ends_a_body_in_a_timeout() -> None:
    pair = Pair(Store().site())
    pair.request(codes.PUT, "x", payload=body(2), qblock=True, confirmable=False)
    pair.server_host.crash()
    outcome = pair.outcome(codes.PUT, "x", payload=body(2), qblock=True, confirmable=False)
    assert isinstance(outcome, RequestTimeout)
