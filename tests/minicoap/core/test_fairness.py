"""Which host a path leads to, and who has to give way."""

from __future__ import annotations

import pytest

from minicoap.core.fairness import greediest, host_of


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2"),
        ("2001:db8:1:2::6", "2001:db8:1:2"),
        ("2001:db8::6", "2001:db8:0:0"),
        ("fe80::1%eth0", "fe80:0:0:0"),
        ("::1", "0:0:0:0"),
        ("localhost", "localhost"),
    ],
)
def test_a_host_is_an_ipv4_address_or_an_ipv6_network(text: str, host: str) -> None:
    assert host_of((text, 5683)) == host


def test_what_is_held_for_all_belongs_to_no_host() -> None:
    assert host_of(()) == ""


A, B = ("192.0.2.1", 1), ("192.0.2.2", 1)
SHARES = [(A, 3, 5.0, "a1"), (("192.0.2.1", 2), 3, 4.0, "a2"), (B, 5, 1.0, "b1")]


@pytest.mark.parametrize(
    ("host", "wanted", "key"),
    [("192.0.2.9", 1, "a2"), ("192.0.2.9", 6, None), ("192.0.2.2", 1, None), ("192.0.2.1", 0, None)],
)
def test_the_longest_unused_share_of_the_greediest_host_goes(host: str, wanted: int, key: object) -> None:
    assert greediest(SHARES, host, wanted) == key


def test_nobody_gives_way_where_nobody_has_anything() -> None:
    assert greediest([], "192.0.2.1", 1) is None
