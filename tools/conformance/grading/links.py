"""TD_COAP_LINK of ETSI CoAP#4 in captures (RFC 6690): what is asked of `/.well-known/core`, and what it tells."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Callable, Optional

from minicoap.codec import codes
from minicoap.codec.contentformats import LINK_FORMAT
from minicoap.codec.linkformat import Link, matches, parse_links
from minicoap.codec.options import BLOCK2, CONTENT_FORMAT, OBSERVE
from minicoap.errors import PeerError
from tools.conformance.grading.core import expect, grade
from tools.conformance.grading.exchanges import Exchange
from tools.conformance.grading.model import CASES, Grade, Scene

WELL_KNOWN = (".well-known", "core")


class _Listing:
    """The exchanges of one answer, which may have come in blocks, and what it says."""

    def __init__(self, exchanges: list[Exchange]) -> None:
        self.exchanges = exchanges
        self.body = b""
        self.is_whole = False
        for exchange in exchanges:
            response = exchange.response
            if response is None or response.message is None or response.code != codes.CONTENT:
                return
            value = response.message.options.uint(BLOCK2)
            if value is not None and (value >> 4) << (value & 7) + 4 != len(self.body):
                return
            self.body += response.message.payload
            self.is_whole = value is None or not value & 8

    @property
    def query(self) -> tuple[str, ...]:
        """What was asked."""
        return self.exchanges[0].query

    def links(self, found: Grade) -> Optional[list[Link]]:
        """Return the links; None, with the reason in `found`, if they cannot be had."""
        response = self.exchanges[-1].response
        if response is None or response.message is None:
            return None
        is_content = expect(
            found.server, response, (codes.CONTENT,), "a GET of what is there is answered 2.05", "RFC 6690 §4", "must"
        )
        if not is_content:
            return None
        first = self.exchanges[0].response
        assert first is not None and first.message is not None
        content_format = first.message.options.uint(CONTENT_FORMAT)
        if content_format is None:
            found.server.doubt(f"frame {first.number} has no Content-Format, which the description wants to be 40")
        elif content_format != LINK_FORMAT:
            found.server.fault("links are of the Content-Format 40, application/link-format", "RFC 6690 §7.3", first)
            return None
        if not self.is_whole:
            found.client.doubt("the capture has not the whole listing")
            return None
        try:
            return list(parse_links(self.body.decode()))
        except (PeerError, UnicodeDecodeError) as error:
            found.server.fault(f"what is served is in the link format ({error})", "RFC 6690 §2", first)
            return None


def _listings(scene: Scene) -> list[_Listing]:
    found: list[list[Exchange]] = []
    under_way: dict[object, list[Exchange]] = {}
    for exchange in scene.exchanges:
        options = exchange.message.options
        if exchange.path != WELL_KNOWN or exchange.message.code != codes.GET or options.uint(OBSERVE) is not None:
            continue
        key = exchange.client, exchange.query
        block = options.uint(BLOCK2)
        if block and block >> 4 and key in under_way:
            under_way[key].append(exchange)
        else:
            under_way[key] = [exchange]
            found.append(under_way[key])
    return [_Listing(exchanges) for exchanges in found]


def _asks(query: tuple[str, ...], name: str, *, wild: bool, star: bool = False) -> bool:
    """Whether a query is one filter, by an attribute, for values that begin so (`wild`) or for any (`star`)."""
    if len(query) != 1:
        return False
    attribute, equals, value = query[0].partition("=")
    return attribute == name and bool(equals) and value.endswith("*") == wild and (value == "*") == star


def _case(test: str, title: str, chosen: Callable[[tuple[str, ...]], bool]) -> None:
    def find(scene: Scene) -> Iterator[Grade]:
        listings = _listings(scene)
        for listing in listings:
            if not chosen(listing.query):
                continue
            found = grade(test, *listing.exchanges)
            links = listing.links(found)
            if links is not None and listing.query:
                _judge(found, listing, links, listings)
            yield found

    CASES.case(test, title)(find)


def _judge(found: Grade, listing: _Listing, links: list[Link], listings: list[_Listing]) -> None:
    """Judge what a filter let through, and what it held back, if the capture has the whole list too."""
    query = listing.query[0]
    first = listing.exchanges[0].response
    assert first is not None
    for link in links:
        if not matches(link, query):
            found.server.fault(
                f"a filter lets through what it matches only ({link.target} is there)", "RFC 6690 §4.1", first
            )
    everything: list[Link] = []
    for other in listings:
        if not other.query:
            everything = other.links(Grade(found.test, "", other.exchanges)) or everything
    held_back = [link.target for link in everything if matches(link, query)]
    there = {link.target for link in links}
    missing = [target for target in held_back if target not in there]
    if missing:
        found.server.fault(
            f"a filter lets through all that it matches ({missing[0]} is missing)", "RFC 6690 §4.1", first
        )
    elif not links:
        found.server.doubt("nothing matched: nothing can be said")


_case("TD_COAP_LINK_01", "Discovery", lambda query: not query)
_case("TD_COAP_LINK_02", "Discovery by resource type", lambda query: _asks(query, "rt", wild=False))
_case("TD_COAP_LINK_03", "Discovery of what has a type", lambda query: _asks(query, "rt", wild=True, star=True))
_case("TD_COAP_LINK_04", "Discovery by one of several resource types", lambda query: _asks(query, "rt", wild=False))
_case("TD_COAP_LINK_05", "Discovery by the beginning of an interface", lambda query: _asks(query, "if", wild=True))
_case("TD_COAP_LINK_06", "Discovery of what says its size", lambda query: _asks(query, "sz", wild=True, star=True))
_case("TD_COAP_LINK_07", "Discovery by target", lambda query: _asks(query, "href", wild=False))
_case("TD_COAP_LINK_08", "Discovery by the beginning of a target", lambda query: _asks(query, "href", wild=True))


@CASES.case("TD_COAP_LINK_09", "Link descriptions that lead to others")
def _hierarchy(scene: Scene) -> Iterator[Grade]:
    for listing in _listings(scene):
        if listing.query:
            continue
        for link in listing.links(Grade("TD_COAP_LINK_09", "", listing.exchanges)) or ():
            if dict(link.attributes).get("ct") != str(LINK_FORMAT):
                continue
            path = tuple(segment for segment in link.target.split("/") if segment)
            below = [each for each in scene.exchanges if each.path == path and each.message.code == codes.GET]
            if not below or path == WELL_KNOWN:
                continue
            found = grade("TD_COAP_LINK_09", *listing.exchanges, below[0])
            inner = _Listing(below[:1]).links(found)
            targets = [tuple(filter(None, each.target.split("/"))) for each in inner or ()]
            leaf = [each for each in scene.exchanges if each.path in targets and each.message.code == codes.GET]
            if leaf:
                found.exchanges.append(leaf[0])
                expect(
                    found.server, leaf[0].response, (codes.CONTENT,), "what a link leads to is answered 2.05",
                    "RFC 6690 §5", "should",
                )  # fmt: skip
            else:
                found.client.doubt("the client does not follow a link of the second list")
            yield found
