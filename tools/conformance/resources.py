"""Which resource of a server plays which part: by a file, by the names of the ETSI descriptions, or found by asking.

Only what can be read is ever found by asking: a device's resources are not written to, nor deleted, unless their
owner named them in the file or gave them an ETSI name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from minicoap.codec import codes
from minicoap.codec.contentformats import LINK_FORMAT
from minicoap.codec.linkformat import Link, parse_links
from minicoap.errors import PeerError
from tools.conformance.model import Failure, Inconclusive
from tools.conformance.peer import Peer

ETSI_NAMES: dict[str, str] = {
    "readable": "/test",
    "writable": "/test",
    "postable": "/test",
    "deletable": "/test",
    "separate": "/separate",
    "segments": "/seg1/seg2/seg3",
    "query": "/query",
    "location": "/test",
    "location_query": "/location-query",
    "multi_format": "/multi-format",
    "validate": "/validate",
    "create": "/create1",
    "large": "/large",
    "large_update": "/large-update",
    "large_create": "/large-create",
    "large_post": "/large-post",
    "observable": "/obs",
    "observable_non": "/obs-non",
    "observable_large": "/obs-large",
    "observable_pumping": "/obs-pumping",
}
"""The roles, and the names that ETSI CoAP#4 gives their resources."""

NAMES: dict[str, str] = {
    **ETSI_NAMES,
    "observable_written": "/obs",
    "counter": "/counter",
    "fresh": "/fresh",
    "fetchable": "/fetch",
    "patchable": "/patch",
    "huge": "/huge",
    "huge_update": "/huge-update",
}
"""These, and the roles of the tests of our own."""

WRITTEN = frozenset(
    ("writable", "postable", "deletable", "location", "location_query", "create", "large_update", "large_create",
     "large_post", "validate", "observable_written", "counter", "fresh", "fetchable", "patchable", "huge_update")
)  # fmt: skip
WELL_KNOWN_CORE = (".well-known", "core")
LARGE = 1024  # bytes: what is longer travels in several blocks


def load_map(file: str) -> dict[str, tuple[str, ...]]:
    """Read a file of lines `role = /path`; `#` begins a comment. Raises ValueError with line and remedy."""
    roles: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(Path(file).read_text(encoding="utf-8").splitlines(), 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        role, equals, path = (part.strip() for part in text.partition("="))
        if not equals or not path.startswith("/") or role not in NAMES:
            raise ValueError(f"{file}, line {number}: write ROLE = /PATH; roles are {', '.join(NAMES)}")
        roles[role] = segments(path)
    return roles


def segments(path: str) -> tuple[str, ...]:
    """Return the segments of a path."""
    return tuple(segment for segment in path.split("/") if segment)


def find(peer: Peer, given: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Return the roles that the server can play: those `given`, and what its links and answers tell."""
    roles = dict(given)
    links = discovered(peer)
    targets = {segments(link.target): link for link in links}
    for role, name in NAMES.items():
        path = segments(name)
        if role not in roles and (path in targets or _answers(peer, path, role)):
            roles[role] = path
    readable = [path for path, link in targets.items() if path != WELL_KNOWN_CORE and _is_short_text(link)]
    for path in readable:
        if "readable" in roles:
            break
        answer = _get(peer, path)
        if answer is not None and answer[0] == codes.CONTENT and 0 < answer[1] < LARGE:
            roles["readable"] = path
    if "readable" not in roles and _get(peer, WELL_KNOWN_CORE) is not None:
        roles["readable"] = WELL_KNOWN_CORE
    for path, link in targets.items():
        names = {name for name, _ in link.attributes}
        if "observable" not in roles and "obs" in names:
            roles["observable"] = path
        size = dict(link.attributes).get("sz") or ""
        if "large" not in roles and size.isdigit() and int(size) > LARGE:
            roles["large"] = path
    return roles


def discovered(peer: Peer) -> list[Link]:
    """Return the links of `/.well-known/core`; none if the server has no such resource."""
    from tools.conformance.blocks import fetch

    try:
        code, content_format, body = fetch(peer, WELL_KNOWN_CORE)
    except (Failure, Inconclusive):
        return []
    if code != codes.CONTENT or content_format not in (None, LINK_FORMAT):
        return []
    try:
        return list(parse_links(body.decode()))
    except (PeerError, UnicodeDecodeError):
        return []


def _is_short_text(link: Link) -> bool:
    size = dict(link.attributes).get("sz") or ""
    return not size.isdigit() or int(size) <= LARGE


def _answers(peer: Peer, path: tuple[str, ...], role: str) -> bool:
    """Whether a GET finds the resource, or at least finds that there is one."""
    answer = _get(peer, path)
    if answer is None:
        return False
    if role in ("create",):  # it is to be created
        return answer[0] in (codes.CONTENT, codes.NOT_FOUND) and role not in WRITTEN
    return answer[0] == codes.CONTENT or (role in WRITTEN and answer[0] == codes.METHOD_NOT_ALLOWED)


def _get(peer: Peer, path: tuple[str, ...]) -> tuple[int, int] | None:
    try:
        answer = peer.ask(codes.GET, path)
    except (Failure, Inconclusive):
        return None
    return answer.code, len(answer.payload)
