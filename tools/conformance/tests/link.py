"""TD_COAP_LINK of ETSI CoAP#4: what a server says of its resources, RFC 6690. Which there are, it says itself.

A server need not filter; one that does not has to give the whole list whatever the query (§4.1). So what comes has to
be either the whole list or exactly what matches.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Optional

from minicoap.codec import codes
from minicoap.codec.contentformats import LINK_FORMAT
from minicoap.codec.linkformat import Link, matches, parse_links
from minicoap.errors import PeerError
from tools.conformance.blocks import fetch
from tools.conformance.model import ADVICE, CATALOGUE, SHOULD, Failure, Inconclusive, NotApplicable
from tools.conformance.peer import Peer, check
from tools.conformance.resources import segments

test = CATALOGUE.test
CORE = (".well-known", "core")
SECTION = "RFC 6690 §4.1"


def links(peer: Peer, query: Optional[str] = None, path: tuple[str, ...] = CORE) -> list[Link]:
    """Return the links of a resource; with a `query`, those that are left of them."""
    code, content_format, body = fetch(peer, path, query=() if query is None else (query,))
    if code != codes.CONTENT:
        raise Inconclusive(f"/{'/'.join(path)} is answered {codes.code_name(code)}")
    last = peer.frames[-1]
    if content_format is None and not body:
        return []
    if content_format != LINK_FORMAT:
        rule = f"a list of links has the Content-Format 40 ({content_format} came)"
        raise Failure(rule, "RFC 6690 §4, §7.3", last, level=SHOULD)
    try:
        return list(parse_links(body.decode()))
    except (PeerError, UnicodeDecodeError) as error:
        raise Failure(f"a list of links is written in link format: {error}", "RFC 6690 §2", last) from error


def filtered(peer: Peer, query: str) -> None:
    """Judge what the server makes of a query."""
    before = links(peer)
    wanted = [link for link in before if matches(link, query)]
    if not wanted or len(wanted) == len(before):
        raise NotApplicable(f"{query!r} would not divide the links")
    got = links(peer, query)
    last = peer.frames[-1]
    if _known(links(peer)) != _known(before):
        raise Inconclusive("the links change")
    if _known(got) == _known(before):
        raise NotApplicable("the server does not filter; it need not")
    if _known(got) != _known(wanted):
        raise Failure(
            f"a server gives the links that match the query {query!r}, {_listed(wanted)}, or all that it has; "
            f"{_listed(got)} came", SECTION, last,
        )  # fmt: skip


def _known(found: Iterable[Link]) -> set[tuple[str, tuple[tuple[str, Optional[str]], ...]]]:
    return {(link.target, tuple(sorted(link.attributes, key=str))) for link in found}


def _listed(found: Iterable[Link]) -> str:
    targets = [link.target for link in found]
    return ", ".join(targets[:6]) + (f" and {len(targets) - 6} more" if len(targets) > 6 else "") or "none"


def values(peer: Peer, name: str) -> list[str]:
    """Return the values of an attribute, each once, in the order of the links."""
    found: list[str] = []
    for link in links(peer):
        for attribute, value in link.attributes:
            if attribute == name and value:
                found += [part for part in value.split() if part not in found]
    if not found:
        raise NotApplicable(f"no link has the attribute {name}")
    return found


@test("TD_COAP_LINK_01", section="RFC 6690 §4")
def well_known(peer: Peer) -> None:
    """The links of /.well-known/core
    GET: 2.05, Content-Format 40, the links in the format of RFC 6690.
    """
    found = links(peer)
    last = peer.frames[-1]
    for link in found:
        names = [name for name, _ in link.attributes]
        for name in ("rt", "if", "sz"):
            check(names.count(name) <= 1, f"the attribute {name} is not given twice in a link", "RFC 6690 §3", last)
        for name in ("title", "ct"):
            rule = f"the attribute {name} is not given twice in a link"
            check(names.count(name) <= 1, rule, "RFC 6690 §2, RFC 7252 §7.2.1", last, ADVICE)


@test("TD_COAP_LINK_02", section=SECTION)
def by_type(peer: Peer) -> None:
    """The links of one resource type
    GET with ?rt=TYPE, a type of the server's: those links, or all.
    """
    first_dividing(peer, [f"rt={value}" for value in values(peer, "rt")])


def first_dividing(peer: Peer, queries: Iterable[str]) -> None:
    """Judge the first query that some links match and others do not."""
    found = links(peer)
    for query in queries:
        count = sum(matches(link, query) for link in found)
        if 0 < count < len(found):
            filtered(peer, query)
            return
    raise NotApplicable("no query of this kind would divide the links")


@test("TD_COAP_LINK_03", section=SECTION)
def any_type(peer: Peer) -> None:
    """The links that have a resource type
    GET with ?rt=*: the links with an attribute rt, or all.
    """
    values(peer, "rt")
    filtered(peer, "rt=*")


@test("TD_COAP_LINK_04", section=SECTION)
def several_types(peer: Peer) -> None:
    """The links of one type among several in an attribute
    GET with ?rt=TYPE, a type that stands with others in an attribute: all links that have it, or all.
    """
    together = [
        part for link in links(peer) for name, value in link.attributes
        if name == "rt" and value and " " in value for part in value.split()
    ]  # fmt: skip
    if not together:
        raise NotApplicable("no link has several resource types")
    first_dividing(peer, [f"rt={value}" for value in together])


@test("TD_COAP_LINK_05", section=SECTION)
def by_interface(peer: Peer) -> None:
    """The links of interfaces that begin alike
    GET with ?if=PREFIX*: those links, or all.
    """
    first_dividing(peer, [f"if={value[:length]}*" for value in values(peer, "if") for length in (2, len(value) - 1)])


@test("TD_COAP_LINK_06", section=SECTION)
def by_size(peer: Peer) -> None:
    """The links that say a size
    GET with ?sz=*: the links with an attribute sz, or all.
    """
    values(peer, "sz")
    filtered(peer, "sz=*")


@test("TD_COAP_LINK_07", section=SECTION)
def by_target(peer: Peer) -> None:
    """The link of one resource
    GET with ?href=/PATH: that link, or all.
    """
    first_dividing(peer, [f"href={link.target}" for link in links(peer) if not link.target.endswith("*")])


@test("TD_COAP_LINK_08", section=SECTION)
def by_targets(peer: Peer) -> None:
    """The links of resources whose paths begin alike
    GET with ?href=/PREFIX*: those links, or all.
    """
    targets = [link.target for link in links(peer)]
    first_dividing(peer, [f"href={target[:length]}*" for target in targets for length in (4, 6, len(target) - 1)])


@test("TD_COAP_LINK_09", section="RFC 6690 §4, §5")
def hierarchy(peer: Peer) -> None:
    """Links that lead to further links
    GET of a resource whose link says ct=40: 2.05, Content-Format 40, links.
    GET of one of those: there is such a resource.
    """
    below = [
        link for link in links(peer)
        if "40" in (dict(link.attributes).get("ct") or "").split() and segments(link.target) != CORE
    ]  # fmt: skip
    if not below:
        raise NotApplicable("no link leads to further ones (ct=40)")
    for link in links(peer, path=segments(below[0].target)):
        if link.target.startswith("/"):
            answer = peer.ask(codes.GET, segments(link.target))
            if answer.code == codes.NOT_FOUND:
                raise Inconclusive(f"{link.target} is not there (any more)")
            return
    raise NotApplicable("the list has no link to a resource of this server")
