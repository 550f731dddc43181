"""What a link does to a datagram."""

from random import Random

import pytest

from minicoap.simulate.link import Link


def sent(link: Link, count: int = 1000, size: int = 100) -> list[tuple[float, ...]]:
    random = Random(7).random
    return [link.arrivals(bytes(size), float(index), random) for index in range(count)]


def test_perfect_link_delivers_each_datagram_once_after_its_delay() -> None:
    assert sent(Link(delay=0.25), 3) == [(0.25,), (1.25,), (2.25,)]


@pytest.mark.parametrize("loss", [0.0, 0.2, 1.0])
def test_loss_is_a_share_of_the_datagrams(loss: float) -> None:
    lost = sum(not arrivals for arrivals in sent(Link(loss=loss)))
    assert lost == pytest.approx(1000 * loss, abs=40)


def test_duplicates_are_a_share_and_have_a_delay_of_their_own() -> None:
    arrivals = sent(Link(duplicate=0.3, jitter=0.5))
    twice = [pair for pair in arrivals if len(pair) == 2]
    assert len(twice) == pytest.approx(300, abs=40)
    assert all(first != second for first, second in twice)


def test_jitter_stays_within_its_bounds_and_reorders() -> None:
    link, random = Link(delay=0.1, jitter=0.4), Random(7).random
    arrivals = [link.arrivals(b"x", index / 10, random)[0] for index in range(1000)]
    assert all(0.1 <= arrival - index / 10 <= 0.5 for index, arrival in enumerate(arrivals))
    assert arrivals != sorted(arrivals)


def test_rate_makes_datagrams_queue_and_the_queue_empties() -> None:
    link, random = Link(delay=0.0, rate=1000.0), Random(7).random
    times = [link.arrivals(bytes(100), 0.0, random)[0] for _ in range(3)]
    assert times == pytest.approx([0.1, 0.2, 0.3])
    assert link.arrivals(bytes(100), 10.0, random) == pytest.approx((10.1,))


def test_link_that_is_down_or_does_not_admit_loses() -> None:
    link = Link()
    link.up = False
    assert sent(link, 2) == [(), ()]
    link.up = True
    link.admits = lambda data: len(data) > 100
    assert sent(link, 1, size=100) == [()]
    assert len(sent(link, 1, size=101)[0]) == 1


def test_copy_has_the_parameters_but_not_the_state() -> None:
    link = Link(loss=0.1, duplicate=0.2, delay=0.3, jitter=0.4, rate=5.0, mtu=6)
    sent(link, 3)
    link.up = False
    copy = link.copy()
    assert (copy.loss, copy.duplicate, copy.delay, copy.jitter, copy.rate, copy.mtu) == (0.1, 0.2, 0.3, 0.4, 5.0, 6)
    assert copy.up
    assert copy.free_at == 0.0
