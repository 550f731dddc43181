"""URIs taken apart and put together, with the examples of RFC 7252 §6."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minicoap.codec.uri import CoapUri, format_path, format_uri, is_ip_literal, parse_uri
from minicoap.errors import UsageError


@pytest.mark.parametrize(
    ("text", "uri", "written"),
    [
        ("coap://example.com", CoapUri("coap", "example.com", 5683), "coap://example.com/"),
        ("coap://example.com/", CoapUri("coap", "example.com", 5683), "coap://example.com/"),
        ("COAP://EXAMPLE.com:5683/~s", CoapUri("coap", "example.com", 5683, ("~s",)), "coap://example.com/~s"),
        ("coaps://h/", CoapUri("coaps", "h", 5684), "coaps://h/"),
        ("coap://h:/a", CoapUri("coap", "h", 5683, ("a",)), "coap://h/a"),
        ("coap://h:61616/a/b/", CoapUri("coap", "h", 61616, ("a", "b", "")), "coap://h:61616/a/b/"),
        ("coap://h//a", CoapUri("coap", "h", 5683, ("", "a")), "coap://h//a"),
        ("coap://h/a%2Fb", CoapUri("coap", "h", 5683, ("a/b",)), "coap://h/a%2Fb"),
        ("coap://h/%41%7e", CoapUri("coap", "h", 5683, ("A~",)), "coap://h/A~"),
        ("coap://h/%C3%BC/ü", CoapUri("coap", "h", 5683, ("ü", "ü")), "coap://h/%C3%BC/%C3%BC"),
        ("coap://h/a/./b/../c", CoapUri("coap", "h", 5683, ("a", "c")), "coap://h/a/c"),
        ("coap://h/../../a/..", CoapUri("coap", "h", 5683), "coap://h/"),
        ("coap://h/a/b/..", CoapUri("coap", "h", 5683, ("a", "")), "coap://h/a/"),
        ("coap://h?x", CoapUri("coap", "h", 5683, (), ("x",)), "coap://h/?x"),
        ("coap://h/?", CoapUri("coap", "h", 5683, (), ("",)), "coap://h/?"),
        (
            "coap://h/?//&?%26=1&a=b/c",
            CoapUri("coap", "h", 5683, (), ("//", "?&=1", "a=b/c")),
            "coap://h/?//&?%26=1&a=b/c",
        ),
        ("coap://198.51.100.1:61616//%2F//?%2F%2F&?%26", None, "coap://198.51.100.1:61616//%2F//?//&?%26"),
        ("coap://xn--18j4d.example/%E3%81%93", CoapUri("coap", "xn--18j4d.example", 5683, ("こ",)), None),
        ("coap://[2001:DB8::2:1]/", CoapUri("coap", "2001:db8::2:1", 5683), "coap://[2001:db8::2:1]/"),
        ("coap://%C3%84B.example/", CoapUri("coap", "Äb.example", 5683), "coap://%C3%84b.example/"),
        ("coap://ÄB.example/", CoapUri("coap", "Äb.example", 5683), "coap://%C3%84b.example/"),
        ("coap://[::1]:5684", CoapUri("coap", "::1", 5684), "coap://[::1]:5684/"),
        ("coap://[fe80::1%25eth0]/a", CoapUri("coap", "fe80::1%eth0", 5683, ("a",)), "coap://[fe80::1%25eth0]/a"),
        ("coap://h:0", CoapUri("coap", "h", 0), "coap://h:0/"),
    ],
)
def test_uri_is_taken_apart_and_put_together(text: str, uri: CoapUri, written: str) -> None:
    parsed = parse_uri(text)
    if uri is not None:
        assert parsed == uri
    if written is not None:
        assert format_uri(parsed) == written
    assert parse_uri(format_uri(parsed)) == parsed


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("http://h/", "coap://"),
        ("h/a", "coap://"),
        ("coap:h", "coap://"),
        ("coap+tcp://h/", "coap://"),
        ("coap://h/#a", "fragment"),
        ("coap://", "host"),
        ("coap:///a", "host"),
        ("coap://user@h/", "user"),
        ("coap://h:x/", "port"),
        ("coap://h:65536/", "port"),
        ("coap://h:" + "9" * 5000, "port"),
        ("coap://h:-1/", "port"),
        ("coap://::1/", "brackets"),
        ("coap://[::1/", "brackets"),
        ("coap://[::1]x/", "brackets"),
        ("coap://[h]/", "IPv6"),
        ("coap://[fe80::1%25]/", "zone"),
        ("coap://h/a b", "percent-encoded"),
        ("coap://h/\udcff", "percent-encoded"),
        ("coap://h/%2e%2E/a", "'..'"),
        ("coap://h/%2", "hexadecimal"),
        ("coap://h/%zz", "hexadecimal"),
        ("coap://h/%+1", "hexadecimal"),
        ("coap://h/%ff", "UTF-8"),
        ("coap://h/" + "a" * 256, "255"),
        ("coap://h/?" + "ü" * 128, "255"),
    ],
)
def test_what_is_no_coap_uri_is_refused_with_the_reason(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_uri(text)


SEGMENTS = st.text(max_size=40).filter(lambda text: text not in (".", ".."))


@given(path=st.lists(SEGMENTS, max_size=4), query=st.lists(st.text(max_size=40), max_size=4))
def test_whatever_options_can_hold_comes_back_from_a_uri(path: list[str], query: list[str]) -> None:
    uri = CoapUri("coap", "h", 5683, tuple(path), tuple(query))
    expected = uri._replace(path=()) if path == [""] else uri  # RFC 7252 §6.5: "/" is written for both
    assert parse_uri(format_uri(uri)) == expected


@example("coap://%50")
@given(st.text() | st.text(alphabet="coap:/[]@%25.?#&0").map(lambda text: "coap://" + text))
def test_any_text_is_a_uri_or_wrong_use(text: str) -> None:
    try:
        parsed = parse_uri(text)
    except UsageError:
        return
    # §6.4 lowers the host before it decodes it: a capital that was percent-encoded stays, and names the same host.
    again = parse_uri(format_uri(parsed))
    assert again._replace(host="") == parsed._replace(host="")
    assert again.host.lower() == parsed.host.lower()


def test_path_alone_is_encoded_for_a_link() -> None:
    assert format_path(()) == "/"
    assert format_path(("a<b>", "c d", "é")) == "/a%3Cb%3E/c%20d/%C3%A9"


@pytest.mark.parametrize(
    ("host", "literal"),
    [("192.0.2.7", True), ("::1", True), ("fe80::1%lo", True), ("256.1.1.1", False), ("1.2.3", False), ("a.b", False)],
)
def test_an_address_is_told_from_a_name(host: str, literal: bool) -> None:
    assert is_ip_literal(host) is literal
