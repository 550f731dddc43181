"""Other people's CoAP clients behind one face: what they ask our server, and what they make of its answers."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, Optional

import pytest

URI_PATH = 11
JSON, CBOR, OCTET_STREAM = 50, 60, 42

# Debian names them after the TLS library; plain CoAP is the same in all.
LIBCOAP = ("coap-client-notls", "coap-client-openssl", "coap-client-gnutls", "coap-client")


class Heard(NamedTuple):
    """An answer: its code as `2.05`, or `2.xx` where the client tells no more of a success; and its payload."""

    code: str
    payload: bytes

    @property
    def is_success(self) -> bool:
        return self.code.startswith("2.")


class Aiocoap:
    """aiocoap's client context."""

    name = "aiocoap"

    def __init__(self, server: str, aiocoap: Any, context: Any) -> None:
        self._server = server
        self._aiocoap = aiocoap
        self._context = context

    @classmethod
    @asynccontextmanager
    async def talking_to(cls, server: str) -> AsyncIterator[Aiocoap]:
        aiocoap = pytest.importorskip("aiocoap")
        context = await aiocoap.Context.create_client_context()
        try:
            yield cls(server, aiocoap, context)
        finally:
            await context.shutdown()

    async def ask(
        self,
        method: str,
        path: Sequence[str],
        payload: bytes = b"",
        *,
        content_format: Optional[int] = None,
        accept: Optional[int] = None,
    ) -> Heard:
        message = self._aiocoap.Message(code=getattr(self._aiocoap, method.upper()), uri=self._server, payload=payload)
        message.opt.uri_path = tuple(path)
        if content_format is not None:
            message.opt.content_format = content_format
        if accept is not None:
            message.opt.accept = accept
        response = await asyncio.wait_for(self._context.request(message).response, 30)
        return Heard(response.code.dotted, response.payload)


class Libcoap:
    """libcoap's coap-client, a process a request."""

    name = "libcoap"

    def __init__(self, server: str, command: str, directory: Path) -> None:
        self._server = server
        self._command = command
        self._directory = directory

    @classmethod
    @asynccontextmanager
    async def talking_to(cls, server: str) -> AsyncIterator[Libcoap]:
        command = next(filter(None, map(shutil.which, LIBCOAP)), None)
        if command is None:
            pytest.skip(f"none of {', '.join(LIBCOAP)} is installed (Debian: libcoap3-bin)")
        with tempfile.TemporaryDirectory() as directory:
            yield cls(server, command, Path(directory))

    async def ask(
        self,
        method: str,
        path: Sequence[str],
        payload: bytes = b"",
        *,
        content_format: Optional[int] = None,
        accept: Optional[int] = None,
    ) -> Heard:
        output = self._directory / "output"
        output.write_bytes(b"")
        arguments = [self._command, "-m", method.lower(), "-o", str(output)]
        for segment in path:
            arguments += ["-O", f"{URI_PATH},{segment}"]
        if payload:
            sent = self._directory / "payload"
            sent.write_bytes(payload)
            arguments += ["-f", str(sent)]
        for flag, number in (("-t", content_format), ("-A", accept)):
            if number is not None:
                arguments += [flag, str(number)]
        process = await asyncio.create_subprocess_exec(
            *arguments, self._server, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        _, said = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 0, said
        # A refusal is written to standard error, code and payload.
        if said[1:2] == b"." and said[:1] in b"45":
            return Heard(said[:4].decode(), said[5:].rstrip(b"\n"))
        assert not said, said
        return Heard("2.xx", output.read_bytes())


CLIENTS = (Aiocoap, Libcoap)
