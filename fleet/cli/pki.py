"""`fleet pki`: the fleet's certificate authority, on the machine where it is kept."""

from __future__ import annotations

import argparse
import os
import re
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any, Callable, Optional

from fleet.cli import configuration
from fleet.cli.exitcodes import DONE, REFUSED
from fleet.cli.output import local_time, print_document, printable, table
from fleet.cli.secrets import PASSPHRASE, read_secret
from fleet.cli.server import SETTINGS
from fleet.errors import FormatError, PeerError, UsageError
from fleet.host.clock import SystemClock
from fleet.host.files import replace_file
from fleet.model.formats import encode
from fleet.model.roles import NODE, ROLES
from fleet.model.times import iso_from_ms
from fleet.pki.authority import REVOCATION_LIST, Authority, create_authority, is_locked, open_authority
from fleet.pki.certificates import DAY, REASONS, decode_der, encode_pem
from fleet.pki.keys import PublicKey, grouped, make_key
from fleet.pki.keystore import Keystore
from fleet.pki.names import check_principal
from fleet.pki.register import EXPIRED, REVOKED, VALID, Issued
from fleet.pki.requests import checked_key, load_request
from fleet.pki.tokens import LIFETIME
from fleet.server.certification import issue_server, server_keystore
from fleet.server.config import PKI_DIRECTORY, ServerConfig

EXAMPLES = """\
examples:
  fleet pki init --data-dir /var/lib/fleet-server --host fleet.example.com
  fleet pki issue operator alice --out alice
  fleet pki token --count 20 --lifetime 8h --out token
  fleet pki list
  fleet pki revoke node pump-7 --reason key-compromise
  fleet pki replace pump-7

A passphrase of the authority's key is read from --passphrase-file, FLEET_CA_PASSPHRASE or the terminal."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": DAY}
_DURATION = re.compile(r"(\d{1,7})([smhd]?)\Z")

Command = Callable[[argparse.Namespace, str], int]


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code; raises UsageError."""
    options = _parser().parse_args(arguments)
    settings = configuration.resolve("server", SETTINGS, options)
    data_dir = str(settings.get("data_dir", ServerConfig().data_dir))
    command: Command = options.command
    try:
        return command(options, os.path.join(data_dir, PKI_DIRECTORY))
    except PeerError as error:
        print(f"fleet pki: {error}", file=sys.stderr)
        return REFUSED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fleet pki",
        description="Keep the fleet's certificate authority.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    configuration.add_arguments(parser, [configuration.DEBUG])
    actions = parser.add_subparsers(metavar="ACTION", title="actions", required=True)

    def action(name: str, command: Command, purpose: str, *, signs: bool = True) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = actions.add_parser(
            name, help=purpose, description=f"{purpose}.", allow_abbrev=False
        )
        data_dir = next(setting for setting in SETTINGS if setting.name == "data_dir")
        configuration.add_arguments(made, [data_dir, configuration.DEBUG], argparse.SUPPRESS)
        made.add_argument("--json", action="store_true", help="print a document, for programs")
        if signs:
            made.add_argument("--passphrase-file", metavar="FILE", help="holds the passphrase of the authority's key")
        made.set_defaults(command=command)
        return made

    init = action("init", _init, "Make an authority, and the server's certificate")
    init.add_argument("--name", help="what the authority is called (default: Fleet CA and a few random digits)")
    init.add_argument(
        "--host", dest="hosts", action="append", default=[], help="a name or address of the server; repeatedly"
    )
    init.add_argument("--encrypt", action="store_true", help="protect the authority's key with a passphrase")
    issue = action("issue", _issue, "Make a key and a certificate, or a certificate of a key made elsewhere")
    issue.add_argument("role", choices=ROLES)
    issue.add_argument("name", metavar="NAME", help="a node's id, a person's or server's name")
    issue.add_argument("--out", metavar="DIR", help="where key and certificate are put (default: ROLE-NAME)")
    issue.add_argument(
        "--csr", metavar="FILE", help="certify the key of this request (PKCS #10), print the certificate"
    )
    issue.add_argument(
        "--lifetime", type=_duration, metavar="TIME", help="as in 90d (default: 90d for nodes, else 365d)"
    )
    issue.add_argument(
        "--host", dest="hosts", action="append", default=[], help="a name or address of a server; repeatedly"
    )
    listing = action("list", _list, "List certificates with what they are good for", signs=False)
    listing.add_argument("--role", choices=ROLES)
    listing.add_argument("--state", choices=(VALID, EXPIRED, REVOKED))
    revoke = action("revoke", _revoke, "Let certificates be good no more, at once")
    revoke.add_argument("role", choices=(*ROLES, "serial"), metavar="|".join((*ROLES, "serial")))
    revoke.add_argument("name", metavar="NAME", help="whose certificates, or the serial number of one")
    revoke.add_argument("--reason", choices=tuple(REASONS), default="unspecified", metavar="|".join(REASONS))
    replace = action("replace", _replace, "Have another device take the place of a node, which keeps its history")
    replace.add_argument("node_id", metavar="ID")
    replace.add_argument("--lifetime", type=_duration, default=LIFETIME, metavar="TIME", help="of the token (1h)")
    replace.add_argument("--out", metavar="FILE", help="put the token there, for you alone to read, and print it not")
    token = action("token", _token, "Make a token by which nodes enrol, and print it this once", signs=False)
    token.add_argument("--node", metavar="ID", help="good for this node only")
    token.add_argument("--count", type=int, default=1, metavar="N", help="for how many nodes it is good (1)")
    token.add_argument("--lifetime", type=_duration, default=LIFETIME, metavar="TIME", help="as in 30m, 8h, 7d (1h)")
    token.add_argument("--out", metavar="FILE", help="put the token there, for you alone to read, and print it not")
    tokens = action("tokens", _tokens, "List the tokens that can be used, without what would let them", signs=False)
    tokens.add_argument("--withdraw", metavar="TOKEN", help="let the token that is listed so be used no more")
    export = action("export", _export, "Print the authority's certificate, or the revocation list", signs=False)
    export.add_argument("what", choices=("ca", "crl"))
    action("fingerprint", _fingerprint, "Print what nodes know this fleet by", signs=False)
    return parser


def _init(options: argparse.Namespace, directory: str) -> int:
    passphrase = None
    if options.encrypt or options.passphrase_file:
        passphrase = _passphrase(options, twice=True)
        if passphrase is None:
            raise UsageError(f"--encrypt needs a passphrase: --passphrase-file, {PASSPHRASE} or a terminal")
    name = options.name or f"Fleet CA {os.urandom(3).hex()}"
    try:
        hosts = options.hosts or [socket.gethostname(), "localhost", "127.0.0.1", "::1"]
        authority = create_authority(directory, name, _now(), passphrase)
    except ValueError as error:  # of the library, about the name
        raise UsageError(f"--name: {error}") from error
    try:
        server = issue_server(authority, server_keystore(directory), _now(), hosts)
    finally:
        authority.close()
    document = {
        "directory": directory,
        "name": name,
        "fingerprint": authority.fingerprint,
        "not_after": _time(server.not_after),
        "hosts": hosts,
        "encrypted": passphrase is not None,
    }
    _show(
        options,
        document,
        f"authority {printable(name)} in {directory}; fingerprint of its certificate, by which nodes know the fleet:\n"
        f"{grouped(authority.fingerprint)}\n"
        f"the server's certificate is good for {', '.join(hosts)}\n"
        "next: fleet pki issue operator NAME; fleet server; fleet pki token, and with it fleet enroll on each node",
    )
    return DONE


def _issue(options: argparse.Namespace, directory: str) -> int:
    principal = check_principal(options.role, options.name)
    request_key = _request_key(options.csr) if options.csr else None
    out = options.out or f"{principal.role}-{principal.name}".replace("/", "_")
    keystore = Keystore(out)
    if request_key is None and os.path.exists(keystore.identity_file):
        raise UsageError(f"{keystore.identity_file} exists already; give another --out, or remove it")
    with _Opened(options, directory) as authority:
        at = _now()
        if principal.role == NODE and any(issued.state(at) == VALID for issued in authority.register.of(principal)):
            raise UsageError(
                f"node {principal.name} has a certificate; if another device is to take its place: "
                f"fleet pki replace {principal.name}"
            )
        own_key = make_key() if request_key is None else None
        public_key = own_key.public_key() if own_key is not None else request_key
        assert public_key is not None
        with authority.register.change():
            issued = authority.issue(
                principal, public_key, at, "fleet pki issue", lifetime=options.lifetime, hosts=options.hosts
            )
        certificate = decode_der(issued.der)
        if own_key is not None:
            keystore.put(own_key, certificate, [authority.certificate])
    document = {**_view(issued, at), "directory": out if own_key is not None else None}
    pem = encode_pem(certificate)
    if own_key is not None:
        text = f"{out}: key and certificate of {_who(issued)}, good until {local_time(_time(issued.not_after))}"
        _show(options, document, text)
    elif options.json:
        _show(options, {**document, "certificate": pem.decode()}, "")
    else:
        sys.stdout.write(pem.decode())
    return DONE


def _list(options: argparse.Namespace, directory: str) -> int:
    at = _now()
    with _Opened(options, directory, is_read=True) as authority:
        found = [
            issued
            for issued in authority.register.certificates(options.role)
            if options.state in (None, issued.state(at))
        ]
    rows = [
        (
            issued.role,
            issued.name,
            issued.state(at) + (f" ({issued.reason})" if issued.reason else ""),
            local_time(_time(issued.not_after)),
            issued.issued_for,
            issued.serial,
        )
        for issued in found
    ]
    text = table(("ROLE", "NAME", "STATE", "UNTIL", "ISSUED FOR", "SERIAL"), rows) if rows else "no certificates"
    _show(options, {"certificates": [_view(issued, at) for issued in found]}, text)
    return DONE


def _revoke(options: argparse.Namespace, directory: str) -> int:
    at = _now()
    with _Opened(options, directory) as authority:
        revoked = authority.revoke(authority.find(options.role, options.name, at), at, options.reason)
    _show(
        options,
        {"revoked": [_view(issued._replace(revoked_at=at, reason=options.reason), at) for issued in revoked]},
        "\n".join(f"revoked {issued.serial} of {_who(issued)}" for issued in revoked)
        or "nothing to do: what there is has expired, or was revoked before",
    )
    return DONE


def _replace(options: argparse.Namespace, directory: str) -> int:
    principal = check_principal(NODE, options.node_id)
    _check_new(options.out)
    with _Opened(options, directory) as authority:
        token, stored, revoked = authority.replace(principal, _now(), options.lifetime)
    _show_token(
        options,
        token,
        {"node_id": principal.name, "expires_at": _time(stored.expires_at), "revoked": len(revoked)},
        f"{len(revoked)} certificates of node {principal.name} revoked; the token lets the new device enrol until "
        f"{local_time(_time(stored.expires_at))}",
    )
    return DONE


def _token(options: argparse.Namespace, directory: str) -> int:
    node_id = None if options.node is None else check_principal(NODE, options.node).name
    _check_new(options.out)
    with _Opened(options, directory, is_read=True) as authority:
        token, stored = authority.make_token(_now(), node_id=node_id, uses=options.count, lifetime=options.lifetime)
    whom = f"node {node_id}" if node_id is not None else "one node" if options.count == 1 else f"{options.count} nodes"
    _show_token(
        options,
        token,
        {"node_id": node_id, "count": options.count, "expires_at": _time(stored.expires_at)},
        f"good for {whom} until {local_time(_time(stored.expires_at))}; it is shown this once",
    )
    return DONE


def _tokens(options: argparse.Namespace, directory: str) -> int:
    at = _now()
    with _Opened(options, directory, is_read=True) as authority:
        found = authority.register.tokens(at)
        if options.withdraw is not None:
            gone = [token for token in found if token.label == options.withdraw]
            if not gone:
                raise UsageError(f"there is no token {options.withdraw[:80]!r}; see fleet pki tokens")
            with authority.register.change():
                authority.register.withdraw([token.hash for token in gone])
            found = gone
    views = [
        {
            "token": token.label,
            "node_id": token.node_id,
            "uses_left": token.uses_left,
            "expires_at": _time(token.expires_at),
            "replaces": token.replaces,
        }
        for token in found
    ]
    rows = [
        (token.label, token.node_id or "any", str(token.uses_left), local_time(_time(token.expires_at)))
        for token in found
    ]
    text = table(("TOKEN", "NODE", ">USES LEFT", "UNTIL"), rows) if rows else "no tokens"
    if options.withdraw is not None:
        text = f"withdrawn {options.withdraw}"
    _show(options, {"tokens": views}, text)
    return DONE


def _export(options: argparse.Namespace, directory: str) -> int:
    with _Opened(options, directory, is_read=True) as authority:
        if options.what == "ca":
            text = encode_pem(authority.certificate).decode()
        else:
            path = os.path.join(directory, REVOCATION_LIST)
            try:
                with open(path, encoding="ascii") as file:
                    text = file.read()
            except OSError as error:
                raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    _show(options, {options.what: text}, text.rstrip())
    return DONE


def _fingerprint(options: argparse.Namespace, directory: str) -> int:
    with _Opened(options, directory, is_read=True) as authority:
        _show(options, {"fingerprint": authority.fingerprint}, grouped(authority.fingerprint))
    return DONE


class _Opened:
    """The authority of `directory`, its key as well unless the command only reads."""

    def __init__(self, options: argparse.Namespace, directory: str, *, is_read: bool = False) -> None:
        passphrase = None
        if not is_read and is_locked(directory):
            passphrase = _passphrase(options)
        self._authority = open_authority(directory, passphrase)

    def __enter__(self) -> Authority:
        return self._authority

    def __exit__(self, *_: object) -> None:
        self._authority.close()


def _passphrase(options: argparse.Namespace, *, twice: bool = False) -> Optional[bytes]:
    secret = read_secret(
        "passphrase", options.passphrase_file, PASSPHRASE, prompt="passphrase of the authority's key", twice=twice
    )
    return None if secret is None else secret.encode()


def _request_key(file: str) -> PublicKey:
    try:
        with open(file, "rb") as stream:
            return checked_key(load_request(stream.read()))
    except OSError as error:
        raise UsageError(f"--csr {file}: it cannot be read: {error.strerror}") from error
    except FormatError as error:
        raise UsageError(f"--csr {file}: {error}") from error


def _view(issued: Issued, at: int) -> dict[str, Any]:
    return {
        "serial": issued.serial,
        "role": issued.role,
        "name": issued.name,
        "state": issued.state(at),
        "not_before": _time(issued.not_before),
        "not_after": _time(issued.not_after),
        "issued_at": _time(issued.issued_at),
        "issued_for": issued.issued_for,
        "revoked_at": None if issued.revoked_at is None else _time(issued.revoked_at),
        "reason": issued.reason or None,
        "key": issued.key,
    }


def _show(options: argparse.Namespace, document: dict[str, Any], text: str, aside: str = "") -> None:
    """Print `document` where JSON is asked for, else `text`, with `aside` where only people see it."""
    if options.json:
        print_document(encode(document))
        return
    print(text)
    if aside:
        print(aside, file=sys.stderr)


def _check_new(path: Optional[str]) -> None:
    if path is not None and os.path.lexists(path):
        raise UsageError(f"{path} is there already: --out names a new file")


def _show_token(options: argparse.Namespace, token: str, document: dict[str, Any], aside: str) -> None:
    """Print a token, or put it into the file of `--out`."""
    if options.out is None:
        _show(options, {"token": token, **document}, token, aside)
        return
    try:
        replace_file(os.path.abspath(options.out), f"{token}\n".encode(), 0o600)
    except OSError as error:
        raise UsageError(
            f"--out {options.out}: {error.strerror}; withdraw the token that was made: fleet pki tokens"
        ) from error
    _show(options, {"file": options.out, **document}, options.out, aside)


def _who(issued: Issued) -> str:
    return f"{issued.role} {printable(issued.name)}"


def _duration(text: str) -> int:
    found = _DURATION.match(text)
    if found is None or int(found[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write 90s, 30m, 8h or 7d")
    return int(found[1]) * _UNITS[found[2] or "s"]


def _time(at: int) -> str:
    return iso_from_ms(at * 1000)


def _now() -> int:
    if not SystemClock().is_wall_trusted():
        raise UsageError("this machine's clock is not set, so that it cannot date anything; set it first")
    return int(time.time())
