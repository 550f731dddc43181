"""The ETSI test descriptions TD_COAP_LINK_01 to 09, our client against our server: RFC 6690, its filters too."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from minicoap.codec import codes, contentformats
from minicoap.codec.linkformat import Link, format_links, parse_links
from minicoap.codec.options import CONTENT_FORMAT, URI_QUERY
from minicoap.core.request import Request, Response
from minicoap.core.resource import Resource, Site
from minicoap.simulate.pair import Pair

DESCRIPTIONS = Path(__file__).parents[4] / "shared/reference/etsi-td-coap4/link.yml"


def here(request: Request) -> Response:
    return Response(payload=("/" + "/".join(request.uri_path)).encode())


def sub_resources(request: Request) -> Response:
    links = [Link("/path/sub1"), Link("/path/sub2")]
    return Response(payload=format_links(links).encode(), content_format=contentformats.LINK_FORMAT)


SITE = Site(
    Resource("/types12", get=here, resource_type="Type1 Type2"),
    Resource("/types23", get=here, resource_type="Type2 Type3"),
    Resource("/types13", get=here, resource_type="Type1 Type3"),
    Resource("/untyped", get=here),
    Resource("/if1", get=here, interface="If1"),
    Resource("/if2", get=here, interface="If2"),
    Resource("/foo", get=here, interface="foo"),
    Resource("/sized", get=here, size=4096),
    Resource("/link1", get=here),
    Resource("/link2", get=here),
    Resource("/link3", get=here),
    Resource("/test", get=here),
    Resource("/path", get=sub_resources, content_formats=[contentformats.LINK_FORMAT]),
    Resource("/path/sub1", get=here, hidden=True),
    Resource("/path/sub2", get=here, hidden=True),
)


def discover(*query: str) -> list[Link]:
    """Ask for the list of resources; return what the client displays."""
    pair = Pair(SITE)
    response = pair.request(codes.GET, ".well-known", "core", query=query)
    request = pair.messages()[0][1]
    assert request.options.all(URI_QUERY) == tuple(argument.encode() for argument in query)
    assert (response.code, response.options.uint(CONTENT_FORMAT)) == (codes.CONTENT, contentformats.LINK_FORMAT)
    return parse_links(response.text)


def targets(*query: str) -> list[str]:
    return [link.target for link in discover(*query)]


def test_TD_COAP_LINK_01() -> None:
    """Access to well-known interface for resource discovery"""
    assert targets() == [resource.path for resource in SITE.resources if not resource.hidden]


def test_TD_COAP_LINK_02() -> None:
    """Use filtered requests for limiting discovery results"""
    assert targets("rt=Type1") == ["/types12", "/types13"]


def test_TD_COAP_LINK_03() -> None:
    """Handle empty prefix value strings"""
    assert targets("rt=*") == ["/types12", "/types23", "/types13"]


def test_TD_COAP_LINK_04() -> None:
    """Filter discovery results in presence of multiple rt attributes

    They are several words of one attribute, which comes once (RFC 6690 §3.1).
    """
    assert targets("rt=Type2") == ["/types12", "/types23"]


def test_TD_COAP_LINK_05() -> None:
    """Filter discovery results using if attribute and prefix value strings"""
    assert targets("if=If*") == ["/if1", "/if2"]


def test_TD_COAP_LINK_06() -> None:
    """Filter discovery results using sz attribute and prefix value strings"""
    (link,) = discover("sz=*")
    assert (link.target, link.get("sz")) == ("/sized", "4096")


def test_TD_COAP_LINK_07() -> None:
    """Filter discovery results using href attribute and complete value strings"""
    assert targets("href=/link1") == ["/link1"]


def test_TD_COAP_LINK_08() -> None:
    """Filter discovery results using href attribute and prefix value strings"""
    assert targets("href=/link*") == ["/link1", "/link2", "/link3"]


def test_TD_COAP_LINK_09() -> None:
    """Arrange link descriptions hierarchically"""
    (link,) = [link for link in discover() if link.target.startswith("/path")]
    assert (link.target, link.get("ct")) == ("/path", "40")
    pair = Pair(SITE)
    response = pair.request(codes.GET, "path")
    assert response.content_format == contentformats.LINK_FORMAT
    assert [link.target for link in parse_links(response.text)] == ["/path/sub1", "/path/sub2"]
    response = pair.request(codes.GET, "path", "sub1")
    assert (response.code, response.text) == (codes.CONTENT, "/path/sub1")


@pytest.mark.skipif(not DESCRIPTIONS.exists(), reason=f"no test descriptions: {DESCRIPTIONS} is missing")
def test_every_description_has_its_test() -> None:
    names = re.findall(r"^(TD_COAP_LINK_\d\d):", DESCRIPTIONS.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(names) == 9
    tested = [name for name in globals() if re.fullmatch(r"test_TD_COAP_LINK_\d\d", name)]
    assert tested == [f"test_{name}" for name in names]
