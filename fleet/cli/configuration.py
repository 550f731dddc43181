"""Where a setting's value comes from: defaults < configuration file < environment < flags, by one table a command.

A setting `data_dir` is the flag `--data-dir`, the variable `FLEET_DATA_DIR` and the key `data_dir` in the command's
section of the file, which is TOML. What is wrong is a UsageError that names the place and the remedy.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Callable, NamedTuple, Optional

from fleet.errors import UsageError

SECTIONS = ("server", "agent", "operator")
_WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


class Setting(NamedTuple):
    """One setting: its `name`, how to `read` a value (from text, or from what TOML has), and what its help says.

    `read` raises ValueError that says what is wrong and what to give. `flag` is the flag where it is not the name with
    dashes, `is_many` lets it be given several times, `switch` is the value that a flag without argument stands for;
    with a `metavar` as well the flag may have an argument, behind "=".
    """

    name: str
    read: Callable[[Any], Any]
    help: str
    metavar: Optional[str] = None
    flag: str = ""
    is_many: bool = False
    switch: Optional[str] = None

    @property
    def flag_name(self) -> str:
        """`--data-dir`."""
        return self.flag or "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """`FLEET_DATA_DIR`."""
        return "FLEET_" + self.name.upper()


class LeanHelp(argparse.HelpFormatter):
    """argparse's own, which to learn the terminal's width would load all of shutil, compression included."""

    def __init__(self, prog: str) -> None:
        try:
            width = os.get_terminal_size().columns
        except OSError:  # no terminal
            width = 80
        super().__init__(prog, width=width - 2)


def add_arguments(parser: argparse.ArgumentParser, settings: Sequence[Setting], default: Optional[str] = None) -> None:
    """Give `parser` the flags of `settings`, and `--config`; `default` is what argparse sets where they are absent."""
    for setting in settings:
        form: dict[str, Any] = {"metavar": setting.metavar, "action": "append" if setting.is_many else "store"}
        if setting.switch is not None:
            form = {"const": setting.switch, "action": "store_const"}
            if setting.metavar is not None:
                form = {"const": setting.switch, "nargs": "?", "metavar": setting.metavar}
        parser.add_argument(setting.flag_name, dest=setting.name, default=default, help=setting.help, **form)
    parser.add_argument(
        "--config", metavar="FILE", default=default, help="the configuration file, TOML (default: ~/.config/fleet.toml)"
    )


def resolve(
    section: str,
    settings: Sequence[Setting],
    options: argparse.Namespace,
    environment: Mapping[str, str] = os.environ,
    required: Sequence[str] = (),
) -> dict[str, Any]:
    """Return what is given for `settings` anywhere, by name; what is given nowhere is left to its default.

    Raises UsageError for the first thing that is wrong; something `required` that is given nowhere is.
    """
    values, problems = resolve_all(section, settings, options, environment, required)
    if problems:
        raise problems[0]
    return values


def resolve_all(
    section: str,
    settings: Sequence[Setting],
    options: argparse.Namespace,
    environment: Mapping[str, str] = os.environ,
    required: Sequence[str] = (),
) -> tuple[dict[str, Any], list[UsageError]]:
    """Return what can be read of `settings`, and all that is wrong with the rest, see `resolve`."""
    file, keys, problems = _section(section, settings, getattr(options, "config", None), environment)
    values: dict[str, Any] = {}
    for setting in settings:
        flag = getattr(options, setting.name, None)
        text = environment.get(setting.variable)
        try:
            if flag is not None:
                values[setting.name] = _read(setting, flag, setting.flag_name)
            elif text:
                values[setting.name] = _read(setting, text.split(",") if setting.is_many else text, setting.variable)
            elif setting.name in keys:
                values[setting.name] = _read(setting, keys[setting.name], f"{file}, [{section}], {setting.name}")
            elif setting.name in required:
                problems.append(missing(setting.name, section))
        except UsageError as error:
            problems.append(error)
    return values, problems


def missing(setting_name: str, section: str) -> UsageError:
    """The error of a setting that has no default and is given nowhere."""
    flag = "--" + setting_name.replace("_", "-")
    return UsageError(
        f"{flag} is missing; give it, or FLEET_{setting_name.upper()}, or {setting_name} in [{section}] of the "
        "configuration file"
    )


def _read(setting: Setting, value: Any, source: str) -> Any:
    try:
        if not setting.is_many:
            return setting.read(value)
        if not isinstance(value, list):
            raise ValueError(f"{value!r} is no list; write [{value!r}]")
        return tuple(setting.read(item) for item in value)
    except ValueError as error:
        raise UsageError(f"{source}: {error}") from error


# Readers of values


def text(value: Any) -> str:
    """Any text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is no text; give one in quotes")
    return value


def port(value: Any) -> int:
    """A UDP port; 0 lets the system choose."""
    number = _integer(value)
    if number is None or not 0 <= number <= 65535:
        raise ValueError(f"{value!r} is no port; give a number from 0 (any free one) to 65535")
    return number


def seconds(value: Any) -> float:
    """A duration above zero."""
    try:
        number = float(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else 0.0
    except ValueError:
        number = 0.0
    if not 0.0 < number < float("inf"):
        raise ValueError(f"{value!r} is no time; give a number of seconds above 0")
    return number


def size(value: Any) -> int:
    """A number of bytes above zero."""
    number = _integer(value)
    if number is None or number <= 0:
        raise ValueError(f"{value!r} is no size; give a number of bytes above 0")
    return number


def count(value: Any) -> int:
    """A number above zero."""
    number = _integer(value)
    if number is None or number <= 0:
        raise ValueError(f"{value!r} is no number of things; give one above 0")
    return number


def switch(value: Any) -> bool:
    """Yes or no."""
    known = value if isinstance(value, bool) else _WORDS.get(value.lower()) if isinstance(value, str) else None
    if known is None:
        raise ValueError(f"{value!r} is neither true nor false; give one of them")
    return known


def debug_form(value: Any) -> str:
    """How messages are shown: "text" or "json"; the empty string for not at all."""
    if value in DEBUG_FORMS:
        return str(value)
    try:
        return DEBUG_FORMS[0] if switch(value) else ""
    except ValueError:
        raise ValueError(f"{value!r} is no way to show messages; write --debug or --debug=json") from None


DEBUG_FORMS = ("text", "json")
DEBUG = Setting(
    "debug",
    debug_form,
    "show each message sent and received on standard error; --debug=json: for programs",
    "json",
    switch=DEBUG_FORMS[0],
)
"""What every command takes."""


def spelt_out(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with `--debug` as `--debug=text`, so that what follows is not taken for its value."""
    flag = DEBUG.flag_name
    return [f"{flag}={DEBUG.switch}" if argument == flag else argument for argument in arguments]


def _integer(value: Any) -> Optional[int]:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


# The file


def _section(
    section: str, settings: Sequence[Setting], named: Optional[str], environment: Mapping[str, str]
) -> tuple[str, Mapping[str, Any], list[UsageError]]:
    """The file's name, the keys of its section, what is wrong; no keys if there is no file and none was named."""
    file = named or environment.get("FLEET_CONFIG")
    if not file:
        file = _default_file(environment)
        if not os.path.exists(file):
            return file, {}, []
    try:
        document = _load(file)
    except UsageError as error:
        return file, {}, [error]
    problems = []
    for name, content in document.items():
        if name not in SECTIONS or not isinstance(content, dict):
            known = ", ".join(f"[{known}]" for known in SECTIONS)
            problems.append(
                UsageError(f"{file}: {name!r} is no section; there are {known}, and keys stand in one of them")
            )
    found = document.get(section)
    keys: Mapping[str, Any] = found if isinstance(found, dict) else {}
    names = [setting.name for setting in settings]
    problems += [
        UsageError(f"{file}, [{section}]: there is no setting {key!r}; there are {', '.join(names)}")
        for key in keys
        if key not in names
    ]
    return file, keys, problems


def _default_file(environment: Mapping[str, str]) -> str:
    directory = environment.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return os.path.join(directory, "fleet.toml")


def _load(file: str) -> dict[str, Any]:
    try:
        # In the standard library from 3.11 on.
        toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    except ImportError:
        version = ".".join(map(str, sys.version_info[:2]))
        raise UsageError(f"to read {file}, Python {version} needs a package: pip install tomli") from None
    try:
        with open(file, "rb") as stream:
            document: dict[str, Any] = toml.load(stream)
    except OSError as error:
        raise UsageError(f"the configuration file {file} cannot be read: {error.strerror}") from error
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError are such
        raise UsageError(f"{file} is no TOML: {error}") from error
    return document
