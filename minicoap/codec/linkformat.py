"""CoRE link format: the list of links that `/.well-known/core` answers with, and the filters on it (RFC 6690)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Optional

from minicoap.errors import PeerError, UsageError

# Attributes whose value is a list of words; a filter matches one of them (RFC 6690 §4.1, RFC 7252 §7.2.1).
_LISTS = ("rel", "rev", "rt", "if", "ct")

# What may stand in a value without quotation marks (RFC 6690 §2, `ptokenchar`).
_TOKEN = frozenset("!#$%&'()*+-./:<=>?@[]^_`{|}~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


class Link(NamedTuple):
    """A link: the URI reference it points to, and its attributes in order; one without "=" has the value None."""

    target: str
    attributes: tuple[tuple[str, Optional[str]], ...] = ()

    def get(self, name: str) -> Optional[str]:
        """Return the first value of the attribute `name`; None if there is none."""
        for attribute, value in self.attributes:
            if attribute == name:
                return value
        return None


def format_links(links: Iterable[Link]) -> str:
    """Write links as one line. Raises UsageError where a target contains "<" or ">": percent-encode it."""
    return ",".join([_format_link(link) for link in links])


def parse_links(text: str) -> list[Link]:
    """Read links; spaces and line breaks around separators are accepted. Raises PeerError at what is no link format."""
    return _Reader(text).links()


def matches(link: Link, query: str) -> bool:
    """Whether `link` passes the filter `query`, "name=value" or "name=prefix*", percent-decoded (RFC 6690 §4.1).

    The name "href" means the target. A filter without "=" asks whether the attribute is there.
    """
    name, equals, pattern = query.partition("=")
    if name == "href":
        values: list[Optional[str]] = [link.target]
    else:
        values = [value for attribute, value in link.attributes if attribute == name]
    if not equals:
        return bool(values)
    for value in values:
        text = value or ""
        words = text.split(" ") if name in _LISTS else [text]
        for word in words:
            if word.startswith(pattern[:-1]) if pattern.endswith("*") else word == pattern:
                return True
    return False


def _format_link(link: Link) -> str:
    if "<" in link.target or ">" in link.target:
        raise UsageError(f"link target {link.target!r}: '<' and '>' have to be percent-encoded")
    parts = [f"<{link.target}>"]
    for name, value in link.attributes:
        if value is None:
            parts.append(name)
        elif value.isascii() and value.isdigit():
            parts.append(f"{name}={value}")
        else:
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            parts.append(f'{name}="{escaped}"')
    return ";".join(parts)


class _Reader:
    """Reads a text from left to right, one position."""

    __slots__ = ("_at", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def links(self) -> list[Link]:
        links: list[Link] = []
        self._skip_spaces()
        if self._at == len(self._text):
            return links
        while True:
            links.append(self._link())
            if self._at == len(self._text):
                return links
            self._expect(",")

    def _link(self) -> Link:
        self._expect("<")
        end = self._text.find(">", self._at)
        if end < 0:
            raise self._error("'>' is missing")
        target = self._text[self._at : end]
        self._at = end + 1
        attributes: list[tuple[str, Optional[str]]] = []
        self._skip_spaces()
        while self._peek() == ";":
            self._at += 1
            attributes.append(self._attribute())
            self._skip_spaces()
        return Link(target, tuple(attributes))

    def _attribute(self) -> tuple[str, Optional[str]]:
        self._skip_spaces()
        start = self._at
        while self._peek() in _TOKEN and self._peek() != "=":
            self._at += 1
        name = self._text[start : self._at]
        if not name:
            raise self._error("the name of an attribute is missing")
        self._skip_spaces()
        if self._peek() != "=":
            return name, None
        self._at += 1
        self._skip_spaces()
        return name, self._quoted() if self._peek() == '"' else self._token()

    def _token(self) -> str:
        start = self._at
        while self._peek() in _TOKEN:
            self._at += 1
        if start == self._at:
            raise self._error("the value of an attribute is missing")
        return self._text[start : self._at]

    def _quoted(self) -> str:
        self._at += 1
        characters: list[str] = []
        while (character := self._peek()) != '"':
            if character == "\\":
                self._at += 1
                character = self._peek()
            if not character:
                raise self._error("the closing quotation mark is missing")
            characters.append(character)
            self._at += 1
        self._at += 1
        return "".join(characters)

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _skip_spaces(self) -> None:
        while self._peek() in (" ", "\t", "\r", "\n"):
            self._at += 1

    def _expect(self, character: str) -> None:
        self._skip_spaces()
        if self._peek() != character:
            raise self._error(f"{character!r} is missing")
        self._at += 1

    def _error(self, text: str) -> PeerError:
        return PeerError(f"link format: {text} at character {self._at}")
