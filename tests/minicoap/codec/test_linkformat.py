"""Links written, read and filtered, with the examples of RFC 6690 §5."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicoap.codec.linkformat import Link, format_links, matches, parse_links
from minicoap.errors import PeerError, UsageError

SENSORS = (
    '</sensors>;ct=40;title="Sensor Index",</sensors/temp>;rt="temperature-c";if="sensor",'
    '</sensors/light>;rt="light-lux core.s";if="sensor";obs,'
    '<http://www.example.com/sensors/t123>;anchor="/sensors/temp";rel="describedby",'
    '</t>;anchor="/sensors/temp";rel="alternate"'
)


def test_links_of_the_rfc_are_read_and_written_again() -> None:
    links = parse_links(SENSORS)
    assert links[0] == Link("/sensors", (("ct", "40"), ("title", "Sensor Index")))
    assert links[2].get("obs") is None
    assert links[2].get("rt") == "light-lux core.s"
    assert [link.target for link in links][3:] == ["http://www.example.com/sensors/t123", "/t"]
    assert format_links(links) == SENSORS


@pytest.mark.parametrize(
    ("text", "links"),
    [
        ("", []),
        ("  ", []),
        ("</a>", [Link("/a")]),
        ("<>", [Link("")]),
        ("</a> ; ct = 0 ,\r\n </b>;obs", [Link("/a", (("ct", "0"),)), Link("/b", (("obs", None),))]),
        ("</a>;rt=x:y/z", [Link("/a", (("rt", "x:y/z"),))]),
        ('</a>;title="a \\"b\\" \\\\ ,;<>"', [Link("/a", (("title", 'a "b" \\ ,;<>'),))]),
        ("</a>;title*=UTF-8'en'%c3%bc", [Link("/a", (("title*", "UTF-8'en'%c3%bc"),))]),
        ('</a>;rt="x";rt="y"', [Link("/a", (("rt", "x"), ("rt", "y")))]),
        ('</a>;title=""', [Link("/a", (("title", ""),))]),
    ],
)
def test_link_format_is_read(text: str, links: list[Link]) -> None:
    assert parse_links(text) == links
    assert parse_links(format_links(links)) == links


@pytest.mark.parametrize(
    "text",
    ["/a", "</a", "</a>;", "</a>;=x", "</a>;ct=", '</a>;t="x', '</a>;t="x\\', "</a>,", ",</a>", "</a></b>", "</a>;a b"],
)
def test_what_is_no_link_format_is_refused(text: str) -> None:
    with pytest.raises(PeerError, match="link format"):
        parse_links(text)


def test_target_that_would_break_the_format_is_refused() -> None:
    with pytest.raises(UsageError, match="percent-encoded"):
        format_links([Link("/a>b")])


@given(st.text(alphabet='<>;,="\\ a/1') | st.text())
def test_any_text_is_link_format_or_refused(text: str) -> None:
    try:
        links = parse_links(text)
    except PeerError:
        return
    if not any("<" in link.target for link in links):
        assert parse_links(format_links(links)) == links


@pytest.mark.parametrize(
    ("query", "targets"),
    [
        ("rt=temperature-c", ["/sensors/temp"]),
        ("rt=light*", ["/sensors/light"]),
        ("rt=core.s", ["/sensors/light"]),
        ("rt=core", []),
        ("rt=light-lux core.s", []),
        ("rt=*", ["/sensors/temp", "/sensors/light"]),
        ("if=sensor", ["/sensors/temp", "/sensors/light"]),
        ("ct=40", ["/sensors"]),
        ("ct=4", []),
        ("title=Sensor Index", ["/sensors"]),
        ("title=Sensor", []),
        ("title=Sensor*", ["/sensors"]),
        ("href=/sensors", ["/sensors"]),
        ("href=/sensors/*", ["/sensors/temp", "/sensors/light"]),
        ("anchor=/sensors/temp", ["http://www.example.com/sensors/t123", "/t"]),
        ("rel=alternate", ["/t"]),
        ("obs", ["/sensors/light"]),
        ("RT=light*", []),
        ("nothing=1", []),
    ],
)
def test_filter_selects_the_links_it_means(query: str, targets: list[str]) -> None:
    assert [link.target for link in parse_links(SENSORS) if matches(link, query)] == targets
