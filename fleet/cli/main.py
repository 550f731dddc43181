"""The `fleet` command: finds the group of commands that is asked for and hands over to it.

Nothing but that group's module is imported: an agent lives for months and must not carry the server's code.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from itertools import takewhile
from typing import Optional

from fleet.cli.configuration import DEBUG, spelt_out
from fleet.cli.exitcodes import DONE, INTERRUPTED, PIPE_CLOSED, WRONG_USE
from fleet.errors import UsageError

GROUPS = {
    "server": "run a server, or make it a service",
    "agent": "run the agent of a node, or make it a service",
    "health": "show the fleet on a page",
    "nodes": "list, show and remove nodes, let devices in",
    "updates": "create update jobs, install, watch and steer them",
    "firmware": "put wheels and files into the store, get and delete them",
    "audit": "show who did what, when, from where, with what result",
    "system": "show, restart or shut down the server",
    "pki": "keep the fleet's certificate authority, hand out tokens, revoke",
    "enroll": "get this node its certificate",
}

EXTRAS = {
    "msgspec": "fleet",
    "cryptography": "fleet,dtls",
    "OpenSSL": "fleet,dtls",
}
"""The extra of ours that installs a package."""

HELP = """\
usage: fleet COMMAND [OPTION ...]

{commands}

`fleet COMMAND --help` says more. Each takes --debug: every message sent and received, on standard error; with
--debug=json for programs. Exit codes: 0 done, 1 the fleet said no, 2 used wrongly, 3 no answer."""


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the command with `arguments`, those of the process where None, and return its exit code."""
    given = spelt_out(sys.argv[1:] if arguments is None else arguments)
    # What stands before the command is the command's.
    before = list(takewhile(lambda argument: argument.startswith(DEBUG.flag_name + "="), given))
    name, *others = given[len(before) :] or [""]
    others = before + others
    if name in ("-h", "--help"):
        print(_help())
        return DONE
    if name not in GROUPS:
        return _fail(f"there is no command {name!r}\n\n{_help()}" if name else _help())
    try:
        code: int = importlib.import_module(f"fleet.cli.{name}").main(others)
        sys.stdout.flush()
    except UsageError as error:
        return _fail(f"fleet {name}: {error}")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        return _fail(f"fleet {name}: the package {package} is missing; pip install 'minicoap[{EXTRAS[package]}]'")
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return PIPE_CLOSED  # whoever read has left
    return code


def _help() -> str:
    return HELP.format(commands="\n".join(f"  {name:<10} {purpose}" for name, purpose in GROUPS.items()))


def _fail(text: str) -> int:
    print(text, file=sys.stderr)
    return WRONG_USE


if __name__ == "__main__":
    sys.exit(main())
