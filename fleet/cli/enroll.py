"""`fleet enroll`: a fresh node makes its own key and gets its certificate from the fleet's server (EST, RFC 9148)."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Optional

from cryptography import x509

from fleet import errors
from fleet.cli import configuration
from fleet.cli.agent import SETTINGS
from fleet.cli.exitcodes import DONE, NO_ANSWER, REFUSED
from fleet.cli.output import local_time, print_document, printable
from fleet.cli.process import make_data_directory
from fleet.cli.secrets import TOKEN, read_secret
from fleet.cli.session import message_log
from fleet.errors import FormatError, UsageError
from fleet.host.clock import SystemClock
from fleet.host.lock import held
from fleet.model.formats import encode
from fleet.model.roles import NODE
from fleet.model.times import iso_from_ms
from fleet.pki.certificates import certificate_fingerprint, decode_pem
from fleet.pki.connection import stranger_credentials
from fleet.pki.enrolment import EstRequest, Exchange, Retry, authority_request, enrol, read_authority
from fleet.pki.keys import PrivateKey, grouped, parse_fingerprint
from fleet.pki.keystore import CREDENTIALS, Holder, Keystore
from fleet.pki.names import check_principal
from fleet.pki.renewal import KnownTime
from minicoap.asyncio.endpoint import Endpoint
from minicoap.codec.codes import code_name
from minicoap.codec.uri import CoapUri, format_uri, parse_uri
from minicoap.core.request import Response
from minicoap.errors import CoapError, SecurityError
from minicoap.errors import UsageError as WrongUse
from minicoap.shell.trace import MessageLog

EXCHANGE_TIMEOUT = 30.0  # seconds for a request, a block's exchange each
EXAMPLES = """\
examples:
  fleet enroll --server coaps://fleet.example.com --fingerprint 2F:05:... --node-id pump-7 --token-file token
  FLEET_TOKEN=... fleet enroll --server coaps://192.0.2.7 --ca ca.pem --node-id pump-7
  fleet enroll --server coaps://192.0.2.7 --ca ca.pem --node-id pump-7 --wait      (until an operator accepts)

`fleet pki fingerprint` on the server prints the fingerprint, `fleet pki token` a token. Exit codes: 0 enrolled, 1 the
server refused, 2 used wrongly, 3 no answer. Run it again after any interruption."""

_USED = ("server", "node_id", "data_dir", "debug")


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code; raises UsageError."""
    options = _parser().parse_args(arguments)
    settings = configuration.resolve("agent", SETTINGS, options)
    for name in ("server", "node_id"):
        if name not in settings:
            raise configuration.missing(name, "agent")
    server = _server(settings["server"])
    if (options.fingerprint is None) == (options.ca is None):
        raise UsageError(
            "how is this node to know its fleet? Give either --fingerprint, as fleet pki fingerprint prints it on the "
            "server, or --ca"
        )
    fingerprint = None if options.fingerprint is None else parse_fingerprint(options.fingerprint)
    trust = None if options.ca is None else _trust(options.ca)
    token = read_secret("token", options.token_file, TOKEN, prompt=None if options.wait else "enrolment token")
    if token is None and not options.wait:
        raise UsageError(
            f"no token: give --token-file or {TOKEN}, or with --wait wait until an operator says fleet nodes accept"
        )
    data_dir = os.path.abspath(settings.get("data_dir", "fleet-agent"))
    make_data_directory(data_dir)
    with held(data_dir, "agent"):
        keystore = Keystore(os.path.join(data_dir, CREDENTIALS))
        present = keystore.holder()
        is_expired = present is not None and KnownTime(SystemClock()).has_ended(present.not_after)
        if present is not None and not options.again and not is_expired:
            raise UsageError(
                f"this device is {present.principal.role} {present.principal.name} already, until "
                f"{local_time(_time(present.not_after))}; --again makes a new key and enrols anew"
            )
        if options.again:
            keystore.abandon()
        # The old key proves that this is the device which had the certificate that expired.
        key = present.key if present is not None and not options.again else None
        try:
            trace = message_log(settings.get("debug", ""))
            holder = asyncio.run(_enroll(server, keystore, settings["node_id"], fingerprint, trust, token, key, trace))
        except errors.NetworkError as error:
            return _fail(f"{error}; is the server running there, with CoAPS?", NO_ANSWER)
        except errors.RefusedError as error:
            return _fail(f"{printable(str(error))} ({code_name(error.code)})", REFUSED)
        except errors.PeerError as error:
            return _fail(str(error), REFUSED)
    _tell(holder, keystore, as_json=options.json)
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fleet enroll",
        description="Get this node its certificate: the key is made here and never leaves.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    configuration.add_arguments(parser, [setting for setting in SETTINGS if setting.name in _USED])
    parser.add_argument("--fingerprint", metavar="HEX", help="SHA-256 of the certificate of the fleet's authority")
    parser.add_argument("--ca", metavar="FILE", help="the certificate of the fleet's authority, PEM")
    parser.add_argument(
        "--token-file", metavar="FILE", help=f"holds the enrolment token (or: {TOKEN}, or the terminal)"
    )
    parser.add_argument("--wait", action="store_true", help="without a token, until an operator accepts this node")
    parser.add_argument("--again", action="store_true", help="with a new key, though this device has a certificate")
    parser.add_argument("--json", action="store_true", help="print a document, for programs")
    return parser


async def _enroll(
    server: CoapUri,
    keystore: Keystore,
    node_id: str,
    fingerprint: Optional[str],
    trust: Optional[list[x509.Certificate]],
    token: Optional[str],
    key: Optional[PrivateKey],
    trace: Optional[MessageLog] = None,
) -> Holder:
    async def waits(key: str, retry: Retry) -> None:
        print(f"{printable(retry.reason)}; the fingerprint of this device's key is\n{grouped(key)}", file=sys.stderr)
        print(f"asking again in {retry.seconds} s; it is safe to stop and start anew", file=sys.stderr, flush=True)
        await asyncio.sleep(retry.seconds)

    principal = check_principal(NODE, node_id)
    if trust is None:
        # Of a server that is not verified nothing is believed but what has the fingerprint, and nothing told to it.
        async with connected(server, None, trace) as exchange:
            trust = read_authority(await exchange(authority_request()), fingerprint)
    async with connected(server, trust, trace) as exchange:
        return await enrol(exchange, keystore, principal, trust, token=token, key=key, waits=waits)


@asynccontextmanager
async def connected(
    server: CoapUri, trust: Optional[Sequence[x509.Certificate]], trace: Optional[MessageLog] = None
) -> AsyncIterator[Exchange]:
    """A connection to `server`, verified by `trust`, or not at all where that is None."""
    try:
        credentials = stranger_credentials(trust)
    except WrongUse as error:
        raise UsageError(str(error)) from error
    async with Endpoint(credentials=credentials, trace=trace) as endpoint:

        async def exchange(request: EstRequest) -> Response:
            try:
                return await endpoint.request(
                    request.code,
                    format_uri(server._replace(path=request.path)),
                    request.payload,
                    content_format=request.content_format,
                    accept=request.accept,
                    timeout=EXCHANGE_TIMEOUT,
                )
            except WrongUse as error:
                raise UsageError(str(error)) from error
            except CoapError as error:
                if isinstance(error, SecurityError) and error.refused_by == SecurityError.OURSELVES:
                    raise errors.DistrustError(f"this is not the fleet that was meant: {error}") from error
                raise errors.NetworkError(f"no answer from {format_uri(server)}: {error}") from error

        yield exchange


def _server(uri: str) -> CoapUri:
    try:
        server = parse_uri(uri)
    except CoapError as error:
        raise UsageError(f"--server {uri}: {error}") from error
    if server.scheme != "coaps" or not server.port or server.query or any(server.path):
        raise UsageError(f"--server {uri}: give coaps://, host and port only, as in coaps://192.0.2.7")
    return server


def _trust(file: str) -> list[x509.Certificate]:
    try:
        with open(file, "rb") as stream:
            return decode_pem(stream.read())
    except OSError as error:
        raise UsageError(f"--ca {file}: it cannot be read: {error.strerror}") from error
    except FormatError as error:
        raise UsageError(f"--ca {file}: {error}") from error


def _tell(holder: Holder, keystore: Keystore, *, as_json: bool) -> None:
    if as_json:
        document: dict[str, Any] = {
            "node_id": holder.principal.name,
            "directory": keystore.directory,
            "not_after": _time(holder.not_after),
            "authority": certificate_fingerprint(holder.trust[0]),
        }
        print_document(encode(document))
        return
    print(
        f"node {holder.principal.name} is enrolled until {local_time(_time(holder.not_after))}; "
        f"key and certificate are in {keystore.directory}"
    )


def _time(at: int) -> str:
    return iso_from_ms(at * 1000)


def _fail(text: str, code: int) -> int:
    print(f"fleet enroll: {text}", file=sys.stderr)
    return code
