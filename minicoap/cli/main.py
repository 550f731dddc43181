"""`minicoap get|put|post|delete|fetch|patch|ipatch|observe|discover|ping URI`: what to ask of any CoAP server.

The payload of a success goes to standard output, all else to standard error. Exit codes: 0 success, 1 a 4.xx or 5.xx
response, 2 wrong use, 3 no answer, 130 interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Optional, Union

from minicoap.asyncio.endpoint import Endpoint
from minicoap.asyncio.files import FileSink, FileSource
from minicoap.asyncio.groups import is_group
from minicoap.asyncio.partfile import discard_part
from minicoap.cli.arguments import METHODS, WITH_PAYLOAD, parser, spelt_out
from minicoap.cli.output import (
    ProgressLine,
    link_document,
    link_table,
    response_document,
    status_lines,
)
from minicoap.codec import codes, contentformats
from minicoap.codec.linkformat import Link, parse_links
from minicoap.codec.uri import format_uri, parse_uri
from minicoap.core.body import Source
from minicoap.core.description import printable
from minicoap.core.request import Response
from minicoap.errors import CoapError, PeerError, RequestTimeout, StorageError, UsageError
from minicoap.shell.entropy import SystemEntropy

SUCCESS = 0
REFUSED = 1
WRONG_USE = 2
NO_ANSWER = 3
INTERRUPTED = 130  # as a shell reports a program ended by SIGINT

_SILENCE = 2.0  # seconds to wait for a response of a class that was not declined, where no --timeout is given


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the command with `arguments`, those of the process where None, and return its exit code."""
    options = parser().parse_args(spelt_out(sys.argv[1:] if arguments is None else arguments))
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
    async with _endpoint(options) as endpoint:
        if options.command == "ping":
            return await _ping(endpoint, options)
        if options.command == "discover":
            return await _discover(endpoint, options)
        if options.command == "observe":
            return await _observe(endpoint, options)
        if is_group(parse_uri(options.uri).host):
            return await _ask_group(endpoint, options)
        return await _request(endpoint, options)


def _endpoint(options: argparse.Namespace) -> Endpoint:
    arguments: dict[str, Any] = {}
    if options.debug:
        from minicoap.shell.trace import MessageLog

        arguments["trace"] = MessageLog(options.debug)
    if getattr(options, "token", None) is not None:
        arguments["entropy"] = _FirstToken(options.token)
    if parse_uri(options.uri).scheme == "coaps":
        if not (options.ca or options.fingerprint or options.unverified):
            raise UsageError("how is the server to be believed? Give --ca FILE or --fingerprint HEX, or --unverified")
        from minicoap.asyncio.credentials import load_credentials

        arguments["credentials"] = load_credentials(
            certificate=options.cert,
            key=options.key,
            trust=options.ca,
            fingerprint=options.fingerprint or "",
            verify_server=not options.unverified,
        )
    return Endpoint(**arguments)


async def _request(endpoint: Endpoint, options: argparse.Namespace) -> int:
    code, _ = METHODS[options.command]
    if options.command == "get" and options.output is not None:
        return await _download(endpoint, options)
    is_file = options.command in WITH_PAYLOAD and options.file is not None
    record = _record(options)
    with ExitStack() as files:
        sink = None
        if options.output is not None:
            sink = files.enter_context(FileSink(options.output))
        payload, content_format = _content(options, files)
        common = {**_common(options), "content_format": content_format, "sink": sink}
        if options.no_response:
            common.update(no_response=options.no_response, timeout=options.timeout or _SILENCE)
        if is_file:
            with ProgressLine(sys.stderr) as line:
                response = await endpoint.upload(
                    options.uri,
                    payload,
                    code=code,
                    resume=record,
                    window=options.window,
                    any_order=options.any_order,
                    progress=line,
                    **common,
                )
        else:
            window = getattr(options, "window", 1)
            response = await endpoint.request(code, options.uri, payload, window=window, **common)
    return _show(response, options)


async def _download(endpoint: Endpoint, options: argparse.Namespace) -> int:
    if not options.resume:
        discard_part(options.output)
    with ProgressLine(sys.stderr) as line:
        response = await endpoint.download(
            options.uri, options.output, restart=True, window=options.window, progress=line, **_common(options)
        )
    return _show(response, options)


def _record(options: argparse.Namespace) -> Optional[str]:
    """Return the file that says how far an upload is; None where nobody needs to know."""
    if options.command not in WITH_PAYLOAD or not options.resume:
        return None
    if options.file in (None, "-"):
        raise UsageError("only what is in a file can be gone on with: --resume wants -f FILE")
    return f"{options.file}.upload"


async def _ask_group(endpoint: Endpoint, options: argparse.Namespace) -> int:
    """Show what each member of a group answers, with its URI."""
    if options.output is not None:
        raise UsageError("a group gives many answers, and --output takes one; ask a member by its own address")
    code, _ = METHODS[options.command]
    with ExitStack() as files:
        payload, content_format = _content(options, files)
        content = payload if isinstance(payload, bytes) else payload.read_at(0, payload.size)
    found = []
    async for member, response in endpoint.multicast(
        options.uri,
        code=code,
        payload=content,
        content_format=content_format,
        accept=options.accept,
        options=options.options,
        duration=options.timeout,
        interface=options.interface,
    ):
        found.append(response.is_success)
        _show(response, options, member=member)
    return _verdict(found)


async def _discover(endpoint: Endpoint, options: argparse.Namespace) -> int:
    target = parse_uri(options.uri)
    path = target.path or (".well-known", "core")
    query = target.query if options.filter is None else (*target.query, options.filter)
    uri = format_uri(target._replace(path=path, query=query))
    if is_group(target.host):
        return await _discover_group(endpoint, uri, options)
    response = await endpoint.get(
        uri,
        accept=contentformats.LINK_FORMAT,
        confirmable=not options.non,
        timeout=options.timeout,
        options=options.options,
    )
    if not response.is_success:
        return _show(response, options)
    if options.verbose:
        _tell(*status_lines(response))
    _show_links([("", link) for link in parse_links(response.text)], options)
    return SUCCESS


async def _discover_group(endpoint: Endpoint, uri: str, options: argparse.Namespace) -> int:
    found = []
    links: list[tuple[str, Link]] = []
    async for member, response in endpoint.multicast(
        uri,
        accept=contentformats.LINK_FORMAT,
        options=options.options,
        duration=options.timeout,
        interface=options.interface,
    ):
        found.append(response.is_success)
        if options.verbose:
            _tell(member, *status_lines(response))
        if response.is_success:
            try:
                links += [(member, link) for link in parse_links(response.text)]
            except PeerError as error:  # one of many
                _tell(f"{member}: {error}")
    if links:
        _show_links(links, options)
    return _verdict(found)


async def _observe(endpoint: Endpoint, options: argparse.Namespace) -> int:
    seen = 0
    states = endpoint.observe(
        options.uri,
        accept=options.accept,
        confirmable=not options.non,
        options=options.options,
        timeout=options.timeout,
    )

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
        return await asyncio.wait_for(show(), options.duration)
    except asyncio.TimeoutError:
        if not seen:
            raise RequestTimeout(f"no answer within {options.duration:g} s") from None
        return SUCCESS
    finally:
        await states.aclose()


async def _ping(endpoint: Endpoint, options: argparse.Namespace) -> int:
    seconds = await endpoint.ping(options.uri, timeout=options.timeout)
    if options.json:
        _print_json({"uri": options.uri, "seconds": round(seconds, 6)})
    else:
        print(f"pong after {seconds * 1000:.1f} ms")
    return SUCCESS


def _common(options: argparse.Namespace) -> dict[str, Any]:
    """What all kinds of requests are told."""
    return {
        "accept": options.accept,
        "confirmable": not (options.non or options.qblock),
        "timeout": options.timeout,
        "options": options.options,
        "szx": options.szx,
        "qblock": options.qblock,
    }


def _show(response: Response, options: argparse.Namespace, *, is_one_of_many: bool = False, member: str = "") -> int:
    if response.code == codes.EMPTY:  # RFC 7967
        _tell("no response, as asked for")
        return SUCCESS
    code = SUCCESS if response.is_success else REFUSED
    if options.json:
        _print_json(response_document(response, member or options.uri))
        return code
    payload = response.body
    name = " ".join(filter(None, (codes.code_name(response.code), printable(response.location))))
    if member:
        _print(f"{member}  {name}")
    if options.verbose:
        _tell(*status_lines(response))
    elif not member and (code != SUCCESS or not (payload or is_one_of_many or options.output)):
        _tell(name)
    if code != SUCCESS and not member:
        if payload:
            _tell(_lines(response.text))
        return code
    sys.stdout.buffer.write(payload)
    is_line = is_one_of_many or (payload and (member or sys.stdout.isatty()))
    if is_line and not payload.endswith(b"\n"):
        sys.stdout.buffer.write(b"\n")
    sys.stdout.flush()
    return code


def _show_links(links: Sequence[tuple[str, Link]], options: argparse.Namespace) -> None:
    if options.json:
        for member, link in links:
            _print_json(link_document(link, member or options.uri))
    else:
        for line in link_table(links):
            _print(line)


def _content(options: argparse.Namespace, files: ExitStack) -> tuple[Union[bytes, Source], Optional[int]]:
    """Return what is sent, and its format."""
    if options.command not in WITH_PAYLOAD:
        return b"", None
    content_format: Optional[int] = options.content_format
    if options.file == "-":
        return sys.stdin.buffer.read(), content_format
    if options.file is not None:
        return files.enter_context(FileSource(options.file)), content_format
    return b"" if options.payload is None else options.payload.encode(errors="surrogateescape"), content_format


class _FirstToken:
    """Randomness of the system, but for the first token of this length that is asked for."""

    LENGTH = 4  # bytes, of the tokens that an endpoint draws

    def __init__(self, token: bytes) -> None:
        self._token: Optional[bytes] = token
        self._entropy = SystemEntropy()
        self.uniform = self._entropy.uniform
        self.integer = self._entropy.integer

    def token(self, length: int) -> bytes:
        token = self._token if length == self.LENGTH else None
        if token is None:
            return self._entropy.token(length)
        self._token = None
        return token


def _verdict(found: Sequence[bool]) -> int:
    """The exit code after the answers of a group, of which these were successes."""
    if not found:
        _tell("minicoap: no member of the group answered")
        return NO_ANSWER
    return SUCCESS if any(found) else REFUSED


def _lines(text: str) -> str:
    """Text of several lines, with what could steer a terminal made visible."""
    return "\n".join(map(printable, text.splitlines()))


def _print(text: str) -> None:
    print(text, flush=True)


def _print_json(document: dict[str, Any]) -> None:
    print(json.dumps(document), flush=True)


def _tell(*lines: str) -> None:
    print(*lines, sep="\n", file=sys.stderr)


def _fail(error: CoapError, code: int) -> int:
    _tell(f"minicoap: {error}")
    return code


if __name__ == "__main__":
    sys.exit(main())
