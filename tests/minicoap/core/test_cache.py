"""The client's cache: what is fresh, what has to be confirmed, what is gone (RFC 7252 §5.6, §5.9)."""

from __future__ import annotations

from typing import Any, Optional

import pytest

from minicoap.codec import codes
from minicoap.codec.options import ECHO, ETAG, MAX_AGE, OBSERVE, SIZE1, URI_HOST, encode_uint
from minicoap.core.cache import Cache
from minicoap.core.endpoint import EndpointCore
from minicoap.core.request import Path, Response
from minicoap.errors import RequestTimeout
from minicoap.simulate.entropy import SeededEntropy
from tests.minicoap.core.solo import OTHER, PEER, Solo, ack


class Client(Solo):
    """Asks through a cache; a server of few words answers."""

    def __init__(self, cache: Optional[Cache] = None) -> None:
        super().__init__()
        self.core = EndpointCore(SeededEntropy(1, "client"), cache=Cache() if cache is None else cache)

    def ask(
        self,
        answer: Optional[Response],
        code: int = codes.GET,
        *uri_path: str,
        path: Path = PEER,
        sends: Optional[int] = None,
        etag: Optional[bytes] = None,
        **arguments: Any,
    ) -> Any:
        """Ask, and have `answer` come back if a message is sent; return the outcome.

        `sends` is how many messages are expected to be sent, one where there is an answer; `etag` what it asks with.
        """
        outcomes = self.request(code, *(uri_path or ("x",)), path=path, **arguments)
        assert outcomes == []
        sent = self.sent()
        assert len(sent) == (sends if sends is not None else answer is not None)
        if sent:
            assert sent[0].options.get(ETAG) == etag
            assert answer is not None
            self.put(ack(answer.code, sent[0], options=answer.options.items, payload=answer.body), path)
        else:
            self.pass_time(0.0)
        (outcome,) = outcomes
        return outcome


def page(text: str, max_age: Optional[int] = None, etag: Optional[bytes] = None, code: int = codes.CONTENT) -> Response:
    return Response(code, text.encode(), 0, max_age=max_age, etag=etag)


@pytest.mark.parametrize(("max_age", "seconds"), [(None, 60.0), (5, 5.0), (86400, 86400.0)])
@pytest.mark.parametrize("code", [codes.GET, codes.FETCH])
def test_fresh_response_is_not_asked_for_again(code: int, max_age: Optional[int], seconds: float) -> None:
    client = Client()
    client.ask(page("one", max_age), code)
    client.pass_time(seconds - 1.5)
    cached = client.ask(None, code)
    assert (cached.code, cached.text, cached.content_format, cached.max_age) == (codes.CONTENT, "one", 0, 2)
    client.pass_time(1.5)
    assert client.ask(page("two", max_age), code).text == "two"
    assert client.ask(None, code).text == "two"


def test_response_that_says_so_is_not_kept() -> None:
    client = Client()
    client.ask(page("one", max_age=0))
    assert client.core.footprint()["cached"] == 0
    assert client.ask(page("two", max_age=0)).text == "two"


def test_age_counts_from_when_the_request_was_sent() -> None:
    """The response may have been long on its way."""
    client = Client()
    outcomes = client.request(codes.GET, "x")
    (sent,) = client.sent()
    client.pass_time(50.0)
    client.put(ack(codes.CONTENT, sent, payload=b"one"))
    assert len(outcomes) == 1
    client.pass_time(9.9)
    client.ask(None)
    client.pass_time(0.2)
    client.ask(page("two"))


@pytest.mark.parametrize(
    "other",
    [
        {"path": OTHER},
        {"uri_path": ("y",)},
        {"query": ["a"]},
        {"accept": 50},
        {"options": [(URI_HOST, b"h")]},
        {"options": [(65000, b"part of the key")]},
        {"code": codes.FETCH},
        {"code": codes.FETCH, "payload": b"p"},
    ],
)
def test_other_request_is_another_entry(other: dict[str, Any]) -> None:
    client = Client()
    client.ask(page("one"))
    if other.get("payload"):
        client.ask(page("one"), codes.FETCH)
    other = dict(other)
    code, uri_path = other.pop("code", codes.GET), other.pop("uri_path", ())
    client.ask(page("two"), code, *uri_path, **other)
    assert client.ask(None, code, *uri_path, **other).text == "two"
    assert client.ask(None).text == "one"


@pytest.mark.parametrize("options", [[(SIZE1, b"\x05")], [(ECHO, b"value")], [(0x1C + 0x20 * 100, b"x")]])
def test_options_that_are_no_part_of_the_key_make_no_difference(options: list[tuple[int, bytes]]) -> None:
    client = Client()
    client.ask(page("one"))
    assert client.ask(None, options=options).text == "one"


def test_stale_response_is_confirmed_by_its_etag_and_fresh_again() -> None:
    client = Client()
    client.ask(page("one", max_age=5, etag=b"e"))
    for _ in range(3):
        client.pass_time(10.0)
        confirmed = client.ask(Response.valid(b"e", 7), etag=b"e")
        assert (confirmed.code, confirmed.text, confirmed.content_format) == (codes.CONTENT, "one", 0)
        assert confirmed.max_age == 7
        client.pass_time(6.9)
        assert client.ask(None).text == "one"


def test_confirmation_without_max_age_is_good_for_a_minute() -> None:
    client = Client()
    client.ask(page("one", max_age=5, etag=b"e"))
    client.pass_time(10.0)
    client.ask(Response.valid(b"e"), etag=b"e")
    client.pass_time(59.0)
    client.ask(None)
    client.pass_time(2.0)
    client.ask(Response.valid(b"e"), etag=b"e")


def test_response_that_must_always_be_confirmed_is_kept_for_that() -> None:
    client = Client()
    client.ask(page("one", max_age=0, etag=b"e"))
    assert client.ask(Response.valid(b"e", 0), etag=b"e").text == "one"
    assert client.ask(page("two", max_age=0, etag=b"f"), etag=b"e").text == "two"
    assert client.ask(Response.valid(b"f", 0), etag=b"f").text == "two"


def test_other_response_takes_the_place_of_the_stale_one() -> None:
    client = Client()
    client.ask(page("one", max_age=5, etag=b"e"))
    client.pass_time(10.0)
    assert client.ask(page("gone", 5, code=codes.NOT_FOUND), etag=b"e").code == codes.NOT_FOUND
    assert client.ask(None).code == codes.NOT_FOUND
    client.pass_time(10.0)
    client.ask(page("two"))


def test_confirmation_of_something_else_is_handed_on_as_it_is() -> None:
    client = Client()
    client.ask(page("one", max_age=5, etag=b"e"))
    client.pass_time(10.0)
    assert client.ask(Response.valid(b"other"), etag=b"e").code == codes.VALID
    assert client.core.footprint()["cached"] == 0


@pytest.mark.parametrize(
    ("code", "kept"),
    [
        (codes.CONTENT, True),
        (codes.NOT_FOUND, True),
        (codes.BAD_REQUEST, True),
        (codes.SERVICE_UNAVAILABLE, True),
        (codes.VALID, False),
        (codes.CHANGED, False),
        (0x5F, False),  # 2.31
        (0x4A, False),  # a success that nobody knows (§5.6)
        (0x60, False),  # 3.00
    ],
)
def test_code_decides_whether_a_response_is_kept(code: int, kept: bool) -> None:
    client = Client()
    client.ask(page("one", code=code))
    client.ask(None if kept else page("two", code=code))


def test_challenge_is_not_kept() -> None:
    client = Client()
    outcomes = client.request(codes.GET, "x")
    sent = client.sent()
    while sent:
        sent = client.put(ack(codes.UNAUTHORIZED, sent[0], options=((ECHO, b"v"),)))
    assert len(outcomes) == 1
    assert client.core.footprint()["cached"] == 0


@pytest.mark.parametrize("code", [codes.POST, codes.PUT, codes.DELETE, codes.PATCH, codes.IPATCH])
@pytest.mark.parametrize(
    ("answer", "stale"),
    [
        (codes.CREATED, True), (codes.DELETED, True), (codes.CHANGED, True), (codes.NOT_FOUND, False),
        (codes.REQUEST_ENTITY_INCOMPLETE, True), (codes.INTERNAL_SERVER_ERROR, True),
    ],
)  # fmt: skip
def test_what_changes_a_resource_makes_it_stale(code: int, answer: int, stale: bool) -> None:
    client = Client()
    for name in ("x", "y"):
        client.ask(page(name, etag=b"e"), codes.GET, name)
        client.ask(page(name, etag=b"e"), codes.GET, name, accept=50)
    client.ask(Response(answer), code, "x", payload=b"p")
    client.ask(Response(answer), code, "x", path=OTHER)
    again = Response.valid(b"e") if stale else None
    for arguments in ({}, {"accept": 50}):
        assert client.ask(again, codes.GET, "x", etag=b"e" if stale else None, **arguments).text == "x"
        assert client.ask(None, codes.GET, "y", **arguments).text == "y"


def test_what_was_created_elsewhere_is_stale_there_too() -> None:
    """RFC 7252 §5.9.1.1, §5.10.7."""
    client = Client()
    for name in ("x", "y"):
        client.ask(page(name, etag=b"e"), codes.GET, name, query=["z=1"])
        client.ask(page(name, etag=b"e"), codes.GET, name)
    created = Response(codes.CREATED, location_path=["y"], location_query=["z=1"])
    client.ask(created, codes.POST, "factory", payload=b"p")
    assert client.ask(Response.valid(b"e"), codes.GET, "y", query=["z=1"], etag=b"e").text == "y"
    for name, arguments in (("y", {}), ("x", {}), ("x", {"query": ["z=1"]})):
        client.ask(None, codes.GET, name, **arguments)


def test_request_that_nobody_answered_may_have_changed_something() -> None:
    client = Client()
    client.ask(page("one", max_age=1000, etag=b"e"))
    outcomes = client.request(codes.PUT, "x", payload=b"two")
    client.pass_time(100.0)
    assert [type(outcome) for outcome in outcomes] == [RequestTimeout]
    client.sent()
    client.ask(page("two", etag=b"f"), etag=b"e")


@pytest.mark.parametrize("options", [[(ETAG, b"mine")], [(OBSERVE, b"")]])
def test_request_that_is_no_plain_one_goes_past(options: list[tuple[int, bytes]]) -> None:
    client = Client()
    etag = b"mine" if options[0][0] == ETAG else None
    for _ in range(2):
        client.ask(page("one"), options=options, etag=etag)
    assert client.core.footprint()["cached"] == 0


def test_failure_is_told_and_leaves_what_was_known() -> None:
    client = Client()
    client.ask(page("one", max_age=5, etag=b"e"))
    client.pass_time(10.0)
    outcomes = client.request(codes.GET, "x")
    client.pass_time(100.0)
    assert [type(outcome) for outcome in outcomes] == [RequestTimeout]
    client.sent()
    assert client.ask(Response.valid(b"e"), etag=b"e").text == "one"


def test_cancelled_request_is_not_told_anything_from_wherever_it_would_come() -> None:
    client, outcomes = Client(), []
    first = client.core.request(codes.GET, PEER, outcomes.append, client.now, uri_path=["x"])
    (sent,) = client.sent()
    first.cancel(client.now)
    client.put(ack(codes.CONTENT, sent))
    client.ask(page("one"))
    second = client.core.request(codes.GET, PEER, outcomes.append, client.now, uri_path=["x"])
    second.cancel(client.now)
    client.pass_time(1.0)
    assert outcomes == []
    assert first.is_done
    assert second.is_done


def test_entries_are_bounded_and_the_ones_in_use_stay() -> None:
    client = Client(Cache(entries=3))
    for name in "abc":
        client.ask(page(name), codes.GET, name)
    client.ask(None, codes.GET, "a")
    client.ask(page("d"), codes.GET, "d")
    assert client.core.footprint()["cached"] == 3
    for name in "acd":
        client.ask(None, codes.GET, name)
    client.ask(page("b"), codes.GET, "b")


def test_bytes_are_bounded() -> None:
    cache = Cache(size=1000)
    client = Client(cache)
    client.ask(page("a" * 900), codes.GET, "a")
    client.ask(page("b" * 90), codes.GET, "b")
    assert len(cache) == 2
    client.ask(page("c" * 900), codes.GET, "c")
    assert len(cache) == 2
    client.ask(page("d" * 1000), codes.GET, "d")  # larger than all of it
    assert len(cache) == 2
    for number in range(100):
        client.ask(page("e" * number, etag=b"e"), codes.GET, "e", query=[str(number)])
        assert cache._bytes <= 1000
    for number in range(100):
        client.ask(Response(codes.CHANGED), codes.PUT, "e", query=[str(number)])
        client.ask(page(""), codes.GET, "e", query=[str(number)], etag=_etag_of(cache, number))
    assert cache._bytes == sum(entry.size for entry in cache._entries.values())


def _etag_of(cache: Cache, number: int) -> Optional[bytes]:
    query = (15, str(number).encode())
    known = [entry for key, entry in cache._entries.items() if query in key.options]
    return known[0].response.etag if known else None


def test_max_age_is_an_option_of_four_bytes() -> None:
    client = Client()
    client.ask(Response(options=((MAX_AGE, encode_uint(0xFFFFFFFF)),)))
    client.pass_time(1e9)
    client.ask(None)
