"""What all of an operator's commands have in common: the server they ask, their form of output, their exit code."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import TYPE_CHECKING, Any, Callable, Optional

from fleet import errors
from fleet.cli import configuration
from fleet.cli.configuration import Setting
from fleet.cli.exitcodes import NO_ANSWER, REFUSED, WRONG_USE
from fleet.cli.output import merged, print_document, printable
from fleet.operator.client import Answer, Fleet, parse_server
from fleet.operator.credentials import default_directory, load_operator
from minicoap.asyncio.endpoint import Endpoint
from minicoap.codec.codes import code_name

if TYPE_CHECKING:
    from minicoap.shell.trace import MessageLog

DEFAULT_SERVER = "coap://127.0.0.1:5683"


def _server(value: Any) -> str:
    server = configuration.text(value)
    try:
        parse_server(server)
    except errors.UsageError as error:
        raise ValueError(str(error)) from error
    return server


SETTINGS = (
    Setting("server", _server, f"the fleet's server (default: {DEFAULT_SERVER})", "URI"),
    Setting(
        "credentials",
        configuration.text,
        "the directory with your certificate, for coaps:// (default: ~/.config/fleet/credentials)",
        "DIR",
    ),
    configuration.DEBUG,
)

Command = Callable[[Fleet, argparse.Namespace], Awaitable[int]]


class Group:
    """A group of commands: `fleet NAME ACTION`, each a coroutine that gets the fleet and the options.

    `default` is the action that runs where none is named.
    """

    def __init__(self, name: str, purpose: str, default: str) -> None:
        self._default = default
        self._parser = parser(f"fleet {name}", purpose)
        self._actions = self._parser.add_subparsers(
            metavar="ACTION", title="actions", description=f"{default} where none is named"
        )

    def action(self, name: str, command: Command, purpose: str) -> argparse.ArgumentParser:
        """Add an action; its own arguments are added to the parser that this returns."""
        action: argparse.ArgumentParser = self._actions.add_parser(
            name, help=purpose, description=f"{purpose}.", allow_abbrev=False
        )
        # What is not given behind the action leaves untouched what was given before it.
        _add_common(action, argparse.SUPPRESS)
        action.set_defaults(command=command)
        return action

    def run(self, arguments: Sequence[str]) -> int:
        """Parse `arguments`, run the command that they name, and return the exit code."""
        options = self._parser.parse_args(arguments)
        if not hasattr(options, "command"):
            options = self._parser.parse_args([*arguments, self._default])
        return run(self._parser.prog, options.command, options)


def parser(prog: str, purpose: str) -> argparse.ArgumentParser:
    """Return a parser that knows what all of an operator's commands take."""
    made = argparse.ArgumentParser(prog=prog, description=f"{purpose}.", allow_abbrev=False)
    _add_common(made, None)
    return made


def run(prog: str, command: Command, options: argparse.Namespace) -> int:
    """Run `command` with a connection to the fleet; what goes wrong is told on standard error."""
    try:
        return asyncio.run(_connected(command, options))
    except errors.UsageError as error:
        return _fail(prog, str(error), WRONG_USE)
    except errors.NetworkError as error:
        return _fail(prog, f"{error}; is the server running there? --server or FLEET_SERVER name another", NO_ANSWER)
    except errors.PeerError as error:
        return _fail(prog, refusal_text(error), REFUSED)


def show_answer(options: argparse.Namespace, answer: Answer[Any], text: str) -> None:
    """Print the server's JSON where it is asked for, else `text`."""
    if options.json:
        print_document(answer.payload)
    elif text:
        print(text)


async def all_pages(pages: AsyncIterator[Answer[Any]], options: argparse.Namespace, field: str) -> Optional[list[Any]]:
    """Return the values of all pages; None, having printed them as one document, where JSON is asked for.

    `field` is what the pages divide between them.
    """
    answers = [page async for page in pages]
    if options.json:
        print_document(merged([answer.payload for answer in answers], field))
        return None
    return [answer.value for answer in answers]


def refusal_text(error: errors.PeerError) -> str:
    """What the fleet said and, where it named one, the field that it complained about."""
    text = printable(str(error))
    field: Optional[str] = None
    if isinstance(error, errors.RefusedError):
        text += f" ({code_name(error.code)})"
        field = error.field
    return f"{text}\n  field: {printable(field)}" if field else text


def message_log(form: str) -> Optional[MessageLog]:
    """Return what shows each message as `--debug` was given; None where it was not."""
    if not form:
        return None
    from minicoap.shell.trace import MessageLog

    return MessageLog(form)


async def _connected(command: Command, options: argparse.Namespace) -> int:
    settings = configuration.resolve("operator", SETTINGS, options)
    server = settings.get("server", DEFAULT_SERVER)
    credentials = None
    if parse_server(server).scheme == "coaps":
        credentials = load_operator(settings.get("credentials", default_directory()))
    async with Endpoint(credentials=credentials, trace=message_log(settings.get("debug", ""))) as endpoint:
        return await command(Fleet(endpoint, server), options)


def _fail(prog: str, text: str, code: int) -> int:
    print(f"{prog}: {text}", file=sys.stderr)
    return code


def _add_common(parser: argparse.ArgumentParser, default: Optional[str]) -> None:
    configuration.add_arguments(parser, SETTINGS, default)
    parser.add_argument(
        "--json", action="store_true", default=default or False, help="print the server's answer itself, for programs"
    )
