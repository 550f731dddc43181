"""`minicoap get|put|post|delete|fetch|patch|ipatch|observe|discover|ping URI`: what to ask of any CoAP server.

The payload of a success goes to standard output, all else to standard error. Exit codes: 0 success, 1 a 4.xx or 5.xx
response, 2 wrong use, 3 no answer.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Optional, Union

from minicoap.asyncio.endpoint import Endpoint
from minicoap.asyncio.files import FileSink, FileSource
from minicoap.asyncio.partfile import discard_part
from minicoap.cli.output import ProgressLine, link_table, printable, status_lines
from minicoap.codec import codes, contentformats
from minicoap.codec.linkformat import parse_links
from minicoap.codec.uri import format_uri, parse_uri
from minicoap.core.body import Source
from minicoap.core.congestion import LARGEST_WINDOW
from minicoap.core.request import Response
from minicoap.errors import CoapError, RequestTimeout, StorageError, UsageError

if TYPE_CHECKING:
    from minicoap.security.credentials import Credentials

SUCCESS = 0
REFUSED = 1
WRONG_USE = 2
NO_ANSWER = 3
INTERRUPTED = 130  # as a shell reports a program ended by SIGINT

_METHODS = {
    "get": (codes.GET, "read a resource"),
    "put": (codes.PUT, "write a resource"),
    "post": (codes.POST, "have a resource process a payload"),
    "delete": (codes.DELETE, "remove a resource"),
    "fetch": (codes.FETCH, "read the part of a resource that a payload describes"),
    "patch": (codes.PATCH, "change a resource as a payload says"),
    "ipatch": (codes.IPATCH, "change a resource as a payload says that may be repeated"),
}
_WITH_PAYLOAD = ("put", "post", "fetch", "patch", "ipatch")


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the command with `arguments`, those of the process where None, and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return asyncio.run(_run(options))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # who reads our output has seen enough; nor is the interpreter to flush it at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SUCCESS
    except (UsageError, StorageError) as error:
        return _fail(error, WRONG_USE)
    except CoapError as error:
        return _fail(error, NO_ANSWER)


async def _run(options: argparse.Namespace) -> int:
    async with Endpoint(credentials=_credentials(options)) as endpoint:
        if options.command == "ping":
            return await _ping(endpoint, options)
        if options.command == "discover":
            return await _discover(endpoint, options)
        if options.command == "observe":
            return await _observe(endpoint, options)
        return await _request(endpoint, options)


def _credentials(options: argparse.Namespace) -> Optional[Credentials]:
    if parse_uri(options.uri).scheme != "coaps":
        return None
    if options.ca is None and options.fingerprint is None:
        raise UsageError(f"{options.uri}: say whom to believe, --ca FILE or --fingerprint SHA256")
    from minicoap.asyncio.credentials import load_credentials

    return load_credentials(
        certificate=options.cert, key=options.key, trust=options.ca, fingerprint=options.fingerprint or ""
    )


async def _request(endpoint: Endpoint, options: argparse.Namespace) -> int:
    code, _ = _METHODS[options.command]
    if options.command == "get" and options.output is not None:
        return await _download(endpoint, options)
    with ExitStack() as files:
        sink = None
        if options.output is not None:
            sink = files.enter_context(FileSink(options.output))
        payload: Union[bytes, Source] = b""
        content_format = None
        if options.command in _WITH_PAYLOAD:
            payload = _payload(options, files)
            content_format = options.content_format
        common = {
            "accept": options.accept,
            "confirmable": not (options.non or options.qblock),
            "timeout": options.timeout,
            "qblock": options.qblock,
        }
        if options.command in _WITH_PAYLOAD and options.file is not None:
            with ProgressLine(sys.stderr) as line:
                response = await endpoint.upload(
                    options.uri, payload, code=code, content_format=content_format, sink=sink, progress=line, **common
                )
        else:
            window = options.window if options.command == "get" else 1
            response = await endpoint.request(
                code, options.uri, payload, content_format=content_format, sink=sink, window=window, **common
            )
    return _show(response, options)


async def _download(endpoint: Endpoint, options: argparse.Namespace) -> int:
    if not options.resume:
        discard_part(options.output)
    with ProgressLine(sys.stderr) as line:
        response = await endpoint.download(
            options.uri,
            options.output,
            restart=True,
            window=options.window,
            qblock=options.qblock,
            progress=line,
            accept=options.accept,
            confirmable=not (options.non or options.qblock),
            timeout=options.timeout,
        )
    return _show(response, options)


async def _discover(endpoint: Endpoint, options: argparse.Namespace) -> int:
    target = parse_uri(options.uri)
    path = target.path or (".well-known", "core")
    query = target.query if options.filter is None else (*target.query, options.filter)
    response = await endpoint.get(
        format_uri(target._replace(path=path, query=query)),
        accept=contentformats.LINK_FORMAT,
        confirmable=not options.non,
        timeout=options.timeout,
    )
    if not response.is_success:
        return _show(response, options)
    if options.verbose:
        _tell(*status_lines(response))
    for line in link_table(parse_links(response.text)):
        print(line)
    return SUCCESS


async def _observe(endpoint: Endpoint, options: argparse.Namespace) -> int:
    seen = 0
    states = endpoint.observe(options.uri, accept=options.accept, confirmable=not options.non)

    async def show() -> int:
        nonlocal seen
        async for response in states:
            seen += 1
            if response.is_success and not response.is_notification:
                _tell("the server does not tell of changes: this is how it is now")
            code = _show(response, options, is_one_of_many=True)
            if code != SUCCESS or seen == options.count:
                return code
        return SUCCESS

    try:
        return await asyncio.wait_for(show(), options.timeout)
    except asyncio.TimeoutError:
        if not seen:
            raise RequestTimeout(f"no answer within {options.timeout} s") from None
        return SUCCESS
    finally:
        await states.aclose()


async def _ping(endpoint: Endpoint, options: argparse.Namespace) -> int:
    seconds = await endpoint.ping(options.uri, timeout=options.timeout)
    print(f"pong after {seconds * 1000:.1f} ms")
    return SUCCESS


def _show(response: Response, options: argparse.Namespace, *, is_one_of_many: bool = False) -> int:
    payload = response.body
    if options.verbose:
        _tell(*status_lines(response))
    elif not response.is_success or not (payload or is_one_of_many or options.output):
        _tell(" ".join(filter(None, (codes.code_name(response.code), printable(response.location)))))
    if not response.is_success:
        if payload:
            _tell(response.text)
        return REFUSED
    sys.stdout.buffer.write(payload)
    if (is_one_of_many or (payload and sys.stdout.isatty())) and not payload.endswith(b"\n"):
        sys.stdout.buffer.write(b"\n")
    sys.stdout.flush()
    return SUCCESS


def _payload(options: argparse.Namespace, files: ExitStack) -> Union[bytes, Source]:
    if options.file == "-":
        return sys.stdin.buffer.read()
    if options.file is not None:
        return files.enter_context(FileSource(options.file))
    return b"" if options.payload is None else options.payload.encode(errors="surrogateescape")


def _tell(*lines: str) -> None:
    print(*lines, sep="\n", file=sys.stderr)


def _fail(error: CoapError, code: int) -> int:
    _tell(f"minicoap: {error}")
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="minicoap",
        description="Talk to a CoAP server (RFC 7252).",
        epilog="Exit codes: 0 success, 1 the server refused (4.xx, 5.xx), 2 wrong use, 3 no answer.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (_, purpose) in _METHODS.items():
        command = _command(commands, name, purpose)
        command.add_argument("--accept", metavar="FORMAT", type=_format, help="the format wanted: json, cbor, 50, …")
        command.add_argument("-o", "--output", metavar="FILE", help="write the payload to FILE, block by block")
        command.add_argument(
            "--qblock", action="store_true",
            help="send blocks ten at a time, without an answer to each, if the server does so too (RFC 9177)",
        )  # fmt: skip
        if name == "get":
            command.add_argument(
                "--resume", action="store_true", help="go on with FILE.part if an earlier attempt left it"
            )
            command.add_argument(
                "--window", metavar="N", type=_window, default=1,
                help="have up to N blocks under way at once, as many as the network bears (1)",
            )  # fmt: skip
        if name in _WITH_PAYLOAD:
            source = command.add_mutually_exclusive_group()
            source.add_argument("--payload", metavar="TEXT", help="what to send")
            source.add_argument("--file", metavar="FILE", help="send a file, of any size; - is standard input")
            command.add_argument(
                "--content-format", metavar="FORMAT", type=_format, help="what the payload is: json, cbor, 50, …"
            )
    observe = _command(
        commands, "observe", "show a resource whenever it changes (RFC 7641)", timeout="stop after so long"
    )
    observe.add_argument("--accept", metavar="FORMAT", type=_format, help="the format wanted: json, cbor, 50, …")
    observe.add_argument("--count", metavar="N", type=_count, help="stop after N states")
    discover = _command(commands, "discover", "list a server's resources (RFC 6690)")
    discover.add_argument("--filter", metavar="NAME=VALUE", help="only those that match: rt=temperature*, href=/a/*")
    _command(commands, "ping", "see whether a CoAP endpoint is there, and how far")
    return parser


def _command(
    commands: Any, name: str, purpose: str, timeout: str = "the most that an answer may take"
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=purpose, description=purpose[0].upper() + purpose[1:] + "."
    )
    command.add_argument("uri", metavar="URI", help="coap://host[:port][/path][?query], or coaps://")
    command.add_argument("--timeout", metavar="SECONDS", type=_seconds, help=timeout)
    security = command.add_argument_group("coaps")
    security.add_argument("--ca", metavar="FILE", help="certificates of the authorities that servers have theirs from")
    security.add_argument("--fingerprint", metavar="SHA256", help="the server's certificate, whoever it is from")
    security.add_argument("--cert", metavar="FILE", help="our certificate, in PEM")
    security.add_argument("--key", metavar="FILE", help="its private key, in PEM")
    if name != "ping":
        command.add_argument("--non", action="store_true", help="send non-confirmable messages: once, come what may")
        command.add_argument("-v", "--verbose", action="store_true", help="show the response's code and options")
    return command


def _format(text: str) -> int:
    number = contentformats.content_format_number(text)
    if number is None:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number up to 65535 nor a registered media type")
    return number


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def _window(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= LARGEST_WINDOW:
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


if __name__ == "__main__":
    sys.exit(main())
