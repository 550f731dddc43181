"""What the command line takes: its commands and flags, and how their values are read."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, Optional

from minicoap.codec import codes, contentformats
from minicoap.codec.options import (
    BLOCK1,
    BLOCK2,
    DEFINITIONS,
    FORMAT_EMPTY,
    FORMAT_STRING,
    FORMAT_UINT,
    NO_RESPONSE,
    OBSERVE,
    Q_BLOCK1,
    Q_BLOCK2,
    encode_uint,
)
from minicoap.core.congestion import LARGEST_WINDOW

METHODS = {
    "get": (codes.GET, "read a resource"),
    "put": (codes.PUT, "write a resource"),
    "post": (codes.POST, "have a resource process a payload"),
    "delete": (codes.DELETE, "remove a resource"),
    "fetch": (codes.FETCH, "read the part of a resource that a payload describes"),
    "patch": (codes.PATCH, "change a resource as a payload says"),
    "ipatch": (codes.IPATCH, "change a resource as a payload says that may be repeated"),
}
WITH_PAYLOAD = ("put", "post", "fetch", "patch", "ipatch")

_MANAGED = {
    OBSERVE: "minicoap observe",
    BLOCK1: "--block-size",
    BLOCK2: "--block-size",
    Q_BLOCK1: "--block-size",
    Q_BLOCK2: "--block-size",
    NO_RESPONSE: "--no-response",
}
"""Options that the endpoint sets itself, with what asks for them."""

_NUMBERS = {definition.name.lower(): number for number, definition in DEFINITIONS.items()}
_UNWANTED = {"2": 2, "4": 8, "5": 16}  # RFC 7967 §2.1
_BLOCK_SIZES = {str(16 << szx): szx for szx in range(7)}

_EXIT_CODES = """\
Exit codes: 0 success, 1 the server refused (4.xx, 5.xx), 2 wrong use, 3 no answer, 130 interrupted."""
_EXAMPLES = """\
examples:
  minicoap get coap://192.0.2.7/time
  minicoap get -o image.bin --window 16 --resume coap://192.0.2.7/firmware/image.bin
  minicoap put -e '{"on": true}' -t json coap://[fe80::1%25eth0]/light
  minicoap observe --count 10 coap://192.0.2.7/temperature
  minicoap discover --filter 'rt=temperature*' coap://192.0.2.7
  minicoap discover coap://[ff02::fd%25eth0]           (whoever is there)
  minicoap get --debug coap://192.0.2.7/time           (every message, on standard error)
"""

_COMMAND_EXAMPLES = {
    "get": """\
  minicoap get -A json coap://192.0.2.7/state
  minicoap get -O ETag=0x01ff coap://192.0.2.7/state    (2.03 if it is still that)
  minicoap get coap://224.0.1.187/time                  (each member of the group answers)""",
    "put": """\
  minicoap put -e 21.5 coap://192.0.2.7/setpoint
  minicoap put -f image.bin -t octet-stream --block-size 256 coap://192.0.2.7/image
  minicoap put -f image.bin --window 16 --any-order --resume coap://192.0.2.7/image
  minicoap put -e on -O If-None-Match coap://192.0.2.7/new""",
    "post": """\
  echo '{"name": "x"}' | minicoap post -f - -t json coap://192.0.2.7/jobs
  minicoap post -N --no-response 2,4,5 -e ping coap://192.0.2.7/log""",
    "delete": """\
  minicoap delete -O If-Match=0x01ff coap://192.0.2.7/jobs/7""",
    "fetch": """\
  minicoap fetch -e '[1, 2]' -t json -A senml+json coap://192.0.2.7/values""",
    "patch": """\
  minicoap patch -e '{"a": 1}' -t merge-patch+json coap://192.0.2.7/config""",
    "ipatch": """\
  minicoap ipatch -e '{"a": 1}' -t merge-patch+json -O If-Match=0x01ff coap://192.0.2.7/config""",
    "observe": """\
  minicoap observe coap://192.0.2.7/temperature           (until Ctrl-C)
  minicoap observe --duration 60 --json coap://192.0.2.7/temperature""",
    "discover": """\
  minicoap discover coap://192.0.2.7
  minicoap discover --filter if=sensor coap://192.0.2.7
  minicoap discover coap://rd.example/rd-lookup/res       (a resource directory, RFC 9176)""",
    "ping": """\
  minicoap ping --timeout 5 coap://192.0.2.7""",
}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    made = argparse.ArgumentParser(
        prog="minicoap",
        description="Talk to a CoAP server (RFC 7252).",
        epilog=f"{_EXAMPLES}\n{_EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_debug(made, None)
    commands = made.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (_, purpose) in METHODS.items():
        _add_method(_command(commands, name, purpose), name)
    observe = _command(commands, "observe", "show a resource whenever it changes (RFC 7641)")
    _add_accept(observe)
    _add_message(observe)
    observe.add_argument("--count", metavar="N", type=_count, help="stop after N states")
    observe.add_argument("--duration", metavar="SECONDS", type=_seconds, help="stop after so long")
    discover = _command(commands, "discover", "list a server's resources (RFC 6690)")
    _add_message(discover)
    discover.add_argument("--filter", metavar="NAME=VALUE", help="only those that match: rt=temperature*, href=/a/*")
    _add_interface(discover)
    _command(commands, "ping", "see whether a CoAP endpoint is there, and how far")
    return made


def spelt_out(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with `--debug` as `--debug=text`: what follows it is no form, but a command or a URI."""
    return ["--debug=text" if argument == "--debug" else argument for argument in arguments]


def _add_method(command: argparse.ArgumentParser, name: str) -> None:
    _add_accept(command)
    command.add_argument("-o", "--output", metavar="FILE", help="write the payload to FILE, block by block")
    command.add_argument(
        "--qblock", action="store_true",
        help="send blocks ten at a time, without an answer to each, if the server does so too (RFC 9177)",
    )  # fmt: skip
    if name == "get":
        command.add_argument("--resume", action="store_true", help="go on with FILE.part if an earlier attempt left it")
    if name in WITH_PAYLOAD:
        command.add_argument(
            "--resume", action="store_true",
            help="with -f: go on where an earlier attempt stood; how far it is, is kept in FILE.upload meanwhile",
        )  # fmt: skip
        command.add_argument(
            "--any-order", action="store_true",
            help="the server keeps blocks that come before their turn, as minicoap's does: use the window for uploads",
        )  # fmt: skip
    if name == "get" or name in WITH_PAYLOAD:
        command.add_argument(
            "--window", metavar="N", type=_window, default=1,
            help="have up to N blocks under way at once, as many as the network bears (1)",
        )  # fmt: skip
    if name in WITH_PAYLOAD:
        source = command.add_mutually_exclusive_group()
        source.add_argument("-e", "--payload", metavar="TEXT", help="what to send")
        source.add_argument("-f", "--file", metavar="FILE", help="send a file, of any size; - is standard input")
        command.add_argument(
            "-t", "--content-format", metavar="FORMAT", type=_format, help="what the payload is: json, cbor, 50, ..."
        )
    _add_message(command)
    command.add_argument(
        "--block-size", metavar="BYTES", type=_block_size, dest="szx", help="the largest block: 16, 32, ... 1024"
    )
    command.add_argument(
        "--no-response", metavar="CLASSES", type=_no_response, default=0,
        help="which responses not to send: 2 for 2.xx, 4, 5, or several: 2,4,5 (RFC 7967)",
    )  # fmt: skip
    command.add_argument(
        "--token", metavar="HEX", type=_token, help="the token of the first message; those of further blocks are drawn"
    )
    _add_interface(command)


def _command(commands: Any, name: str, purpose: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=purpose,
        description=f"{purpose[0].upper()}{purpose[1:]}.",
        epilog=f"examples:\n{_COMMAND_EXAMPLES[name]}\n\n{_EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_argument("uri", metavar="URI", help="coap://host[:port][/path][?query], or coaps://")
    command.add_argument("--timeout", metavar="SECONDS", type=_seconds, help="the most that an answer may take")
    command.add_argument("--json", action="store_true", help="print each answer as a line of JSON")
    _add_debug(command, argparse.SUPPRESS)
    secure = command.add_argument_group("coaps", "who we are and whom we believe; PEM files")
    secure.add_argument("--ca", metavar="FILE", help="the authorities whose servers are believed")
    secure.add_argument("--fingerprint", metavar="HEX", help="believe the server with this certificate: its SHA-256")
    secure.add_argument("--cert", metavar="FILE", help="our certificate, and those between it and its authority")
    secure.add_argument("--key", metavar="FILE", help="its private key")
    secure.add_argument("--unverified", action="store_true", help="believe whoever answers, to look around")
    command.add_argument("--proxy", metavar="URI", type=_no_proxy, help=argparse.SUPPRESS)
    return command


def _add_debug(command: argparse.ArgumentParser, default: Optional[str]) -> None:
    command.add_argument(
        "--debug", metavar="json", nargs="?", const="text", default=default, type=_debug,
        help="show each message sent and received on standard error; --debug=json: for programs",
    )  # fmt: skip


def _add_accept(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-A", "--accept", metavar="FORMAT", type=_format, help="the format wanted: json, cbor, 50, ..."
    )


def _add_message(command: argparse.ArgumentParser) -> None:
    command.add_argument("-N", "--non", action="store_true", help="send non-confirmable messages: once, come what may")
    command.add_argument("-v", "--verbose", action="store_true", help="show the response's code and options")
    command.add_argument(
        "-O", "--option", metavar="OPTION=VALUE", dest="options", action="append", default=[], type=_option,
        help="a further option by name or number; the value as text, number or 0x and hexadecimal digits; repeatedly",
    )  # fmt: skip


def _add_interface(command: argparse.ArgumentParser) -> None:
    command.add_argument("--interface", metavar="NAME", help="of a group's URI: the network interface to ask on")


def _format(text: str) -> int:
    number = contentformats.content_format_number(text)
    if number is None:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number up to 65535 nor a registered media type")
    return number


def _option(text: str) -> tuple[int, bytes]:
    name, equals, value = text.partition("=")
    number = int(name) if name.isascii() and name.isdigit() else _NUMBERS.get(name.lower())
    if number is None or not 0 < number <= 65535:
        raise argparse.ArgumentTypeError(f"{name!r} is neither the name of an option nor a number from 1 to 65535")
    if number in _MANAGED:
        raise argparse.ArgumentTypeError(f"{name} is set by the endpoint itself; see {_MANAGED[number]}")
    data = _option_value(number, name, value)
    definition = DEFINITIONS.get(number)
    if definition is None:
        return number, data
    if definition.format != FORMAT_EMPTY and not equals:
        raise argparse.ArgumentTypeError(f"{name} needs a value: {name}=...")
    if not definition.minimum <= len(data) <= definition.maximum:
        allowed = f"{definition.minimum} to {definition.maximum}" if definition.maximum else "no"
        raise argparse.ArgumentTypeError(f"{name} takes {allowed} bytes, not {len(data)}")
    return number, data


def _option_value(number: int, name: str, value: str) -> bytes:
    definition = DEFINITIONS.get(number)
    form = definition.format if definition is not None else ""
    if value[:2].lower() == "0x" and form != FORMAT_STRING:
        try:
            return bytes.fromhex(value[2:])
        except ValueError:
            raise argparse.ArgumentTypeError(f"{name}: {value!r} is not 0x and pairs of hexadecimal digits") from None
    if form != FORMAT_UINT:
        return value.encode(errors="surrogateescape")
    if value.isascii() and value.isdigit():
        return encode_uint(int(value))
    raise argparse.ArgumentTypeError(f"{name} is a number, not {value!r}")


def _no_response(text: str) -> int:
    unwanted = 0
    for part in text.split(","):
        if part.removesuffix(".xx") not in _UNWANTED:
            raise argparse.ArgumentTypeError(f"{part!r} is no class of responses; there are 2, 4 and 5")
        unwanted |= _UNWANTED[part.removesuffix(".xx")]
    return unwanted


def _block_size(text: str) -> int:
    if text not in _BLOCK_SIZES:
        raise argparse.ArgumentTypeError(f"{text!r} is no size of a block; there are {', '.join(_BLOCK_SIZES)}")
    return _BLOCK_SIZES[text]


def _token(text: str) -> bytes:
    try:
        token = bytes.fromhex(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no token: write pairs of hexadecimal digits") from None
    if len(token) > 8:
        raise argparse.ArgumentTypeError(f"a token has at most 8 bytes, not {len(token)}")
    return token


def _no_proxy(text: str) -> str:
    raise argparse.ArgumentTypeError(
        "minicoap asks servers directly; a forward proxy can be asked by its own URI with -O Proxy-Uri=coap://..."
    )


def _debug(text: str) -> str:
    if text not in ("text", "json"):
        raise argparse.ArgumentTypeError(f"{text!r} is no form of a message log; write --debug or --debug=json")
    return text


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def _window(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= LARGEST_WINDOW:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of blocks from 1 to {LARGEST_WINDOW}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds
