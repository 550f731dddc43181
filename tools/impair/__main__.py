"""`python -m tools.impair`: a bad network between a client and a server, until it is interrupted.

python -m tools.impair --listen 127.0.0.1:5700 --to 127.0.0.1:5683 --loss 5% --delay 50ms --jitter 20ms
"""

from __future__ import annotations

import argparse
import asyncio
import re
import signal
import sys
from collections.abc import Sequence
from typing import Optional

from minicoap.simulate.link import LARGEST_DATAGRAM, Link
from tools.impair import Impairment

_SECONDS = {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6}
_RATES = {"": 1.0, "B/s": 1.0, "kB/s": 1e3, "MB/s": 1e6, "bit/s": 1 / 8, "kbit/s": 1e3 / 8, "Mbit/s": 1e6 / 8}


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        asyncio.run(_run(options))
    except OSError as error:
        print(f"impair: {error}", file=sys.stderr)
        return 1
    return 0


async def _run(options: argparse.Namespace) -> None:
    there = Link(
        loss=options.loss,
        duplicate=options.duplicate,
        delay=options.delay,
        jitter=options.jitter,
        rate=options.rate,
        mtu=options.mtu,
    )
    back = there.copy()
    if options.loss_back is not None:
        back.loss = options.loss_back
    proxy = Impairment(options.to, there, back=back, seed=options.seed, rebind=options.rebind)
    await proxy.open(*options.listen)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    host, port = proxy.address
    print(f"{shown(host, port)} stands for {shown(*options.to)}; seed {options.seed}; Ctrl-C ends it", flush=True)
    try:
        await asyncio.wait_for(stopped.wait(), options.seconds)
    except asyncio.TimeoutError:
        pass
    finally:
        proxy.close()
    print(proxy.report(), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.impair",
        description="Stand between UDP clients and a server, and be a bad network, the same one for the same seed.",
        epilog="Share of datagrams: 5%% or 0.05. Times: 50ms or 0.05. Rates: 10kB/s or 80kbit/s.",
    )
    parser.add_argument("--listen", type=address, default=("127.0.0.1", 0), metavar="HOST:PORT", help="(any free port)")
    parser.add_argument("--to", type=address, required=True, metavar="HOST:PORT", help="the server")
    parser.add_argument("--loss", type=share, default=0.0, metavar="SHARE", help="of datagrams lost, each way")
    parser.add_argument("--loss-back", type=share, metavar="SHARE", help="the same for answers, where it is another")
    parser.add_argument("--duplicate", type=share, default=0.0, metavar="SHARE", help="of datagrams that come twice")
    parser.add_argument("--delay", type=seconds, default=0.0, metavar="TIME", help="of each datagram, each way")
    parser.add_argument(
        "--jitter", type=seconds, default=0.0, metavar="TIME", help="more than that, by chance: it reorders"
    )
    parser.add_argument("--rate", type=rate, metavar="RATE", help="of the link; what is more waits in a queue")
    parser.add_argument("--mtu", type=int, default=LARGEST_DATAGRAM, metavar="BYTES", help="larger datagrams are lost")
    parser.add_argument("--rebind", type=seconds, metavar="TIME", help="after which a client has another port")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all chance (default 0)")
    parser.add_argument("--seconds", type=float, metavar="S", help="end after that long")
    return parser


def address(text: str) -> tuple[str, int]:
    """Read HOST:PORT, also [HOST]:PORT and HOST alone for port 5683."""
    found = re.fullmatch(r"(?:\[([^]]+)]|([^:]+))(?::(\d{1,5}))?", text)
    if found is None or int(found[3] or 0) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return found[1] or found[2], int(found[3] or 5683)


def share(text: str) -> float:
    """Read 5% or 0.05."""
    value = _number(text.rstrip("%"), text) / (100 if text.endswith("%") else 1)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0% and 100%")
    return value


def seconds(text: str) -> float:
    """Read 50ms or 0.05."""
    return _with_unit(text, _SECONDS)


def rate(text: str) -> float:
    """Read 10kB/s; returns bytes a second."""
    value = _with_unit(text, _RATES)
    if not value:
        raise argparse.ArgumentTypeError("a rate of 0 lets nothing through")
    return value


def _with_unit(text: str, units: dict[str, float]) -> float:
    found = re.fullmatch(r"([0-9.]+)([A-Za-z/]*)", text)
    if found is None or found[2] not in units:
        raise argparse.ArgumentTypeError(f"{text!r} has none of the units {', '.join(filter(None, units))}")
    return _number(found[1], text) * units[found[2]]


def _number(text: str, whole: Optional[str] = None) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{whole or text!r} is no number") from None


def shown(host: str, port: int) -> str:
    """Return an address as it is written."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
