"""`coap` and `coaps` URIs, taken apart into options and put together again (RFC 7252 §6, RFC 3986).

Path segments and query arguments are kept decoded and apart, as the options Uri-Path and Uri-Query carry them, so that
a "/" inside a segment stays one. A host is a name in lower case or an IP literal without brackets; the zone of a
link-local IPv6 address follows "%" ("fe80::1%eth0"), which a URI writes as "%25" (RFC 6874).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Optional, Union

from minicoap.errors import UsageError

DEFAULT_PORTS: dict[str, int] = {"coap": 5683, "coaps": 5684}

LONGEST_SEGMENT = 255  # bytes in a Uri-Path, Uri-Query or Uri-Host option (RFC 7252 Table 4)

_ALPHANUMERIC = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_UNRESERVED = _ALPHANUMERIC + "-._~"
_PATH_SAFE = frozenset((_UNRESERVED + "!$&'()*+,;=:@").encode())
_QUERY_SAFE = frozenset((_UNRESERVED + "!$'()*+,;=:@/?").encode())  # no "&": it ends an argument
_HOST_SAFE = frozenset((_UNRESERVED + "!$&'()*+,;=").encode())


class CoapUri(NamedTuple):
    """A URI in the parts that a request needs; `port` is the scheme's own where the text named none."""

    scheme: str
    host: str
    port: int
    path: tuple[str, ...] = ()
    query: tuple[str, ...] = ()


def parse_uri(text: str) -> CoapUri:
    """Take an absolute URI apart (RFC 7252 §6.4). Raises UsageError with what is wrong and where."""
    if any(character <= " " or character == "\x7f" or "\ud800" <= character <= "\udfff" for character in text):
        raise UsageError(f"URI {text!r}: spaces, control characters and bytes have to be percent-encoded")
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in DEFAULT_PORTS:
        raise UsageError(f"URI {text!r}: it has to begin with coap:// or coaps://")
    if "#" in rest:
        raise UsageError(f"URI {text!r}: a CoAP URI has no fragment (#)")
    hierarchy, question, query_text = rest.partition("?")
    authority, _, path_text = hierarchy.partition("/")
    host, port = _parse_authority(authority, text)
    return CoapUri(
        scheme,
        host,
        DEFAULT_PORTS[scheme] if port is None else port,
        _parse_path(path_text, text),
        tuple(_decode(argument, text) for argument in query_text.split("&")) if question else (),
    )


def format_uri(uri: CoapUri) -> str:
    """Put a URI together (RFC 7252 §6.5); the scheme's own port is left out."""
    if ":" in uri.host:
        address, percent, zone = uri.host.partition("%")
        host = f"[{address}%25{_encode(zone, _HOST_SAFE)}]" if percent else f"[{address}]"
    else:
        host = _encode(uri.host, _HOST_SAFE)
    port = "" if uri.port == DEFAULT_PORTS.get(uri.scheme) else f":{uri.port}"
    return f"{uri.scheme}://{host}{port}{format_path(uri.path)}{format_query(uri.query)}"


def format_path(path: Sequence[Union[str, bytes]]) -> str:
    """Return the segments percent-encoded behind a "/" each; "/" alone for none. Bytes need not be UTF-8."""
    return "".join("/" + _encode(segment, _PATH_SAFE) for segment in path) or "/"


def format_query(query: Sequence[Union[str, bytes]]) -> str:
    """Return the arguments percent-encoded behind "?" and "&"; the empty string for none. Bytes need not be UTF-8."""
    return "?" + "&".join(_encode(argument, _QUERY_SAFE) for argument in query) if query else ""


def is_ip_literal(host: str) -> bool:
    """Whether `host` is an address and not a name; a name belongs into the Uri-Host option (RFC 7252 §5.10.1, §6.4)."""
    if ":" in host:
        return True
    parts = host.split(".")
    return len(parts) == 4 and all(part.isascii() and part.isdigit() and int(part) <= 255 for part in parts)


def _parse_authority(authority: str, text: str) -> tuple[str, Optional[int]]:
    if "@" in authority:
        raise UsageError(f"URI {text!r}: a CoAP URI has no user name (@)")
    if authority.startswith("["):
        literal, bracket, tail = authority[1:].partition("]")
        if not bracket or (tail and not tail.startswith(":")):
            raise UsageError(f"URI {text!r}: an IPv6 address stands in [brackets]")
        address, percent, zone = literal.partition("%25")
        if "%" in literal and not percent:
            raise UsageError(f"URI {text!r}: a zone stands behind %25, as in [fe80::1%25eth0]")  # RFC 6874 §2
        if ":" not in address or address.strip("0123456789abcdefABCDEF:."):
            raise UsageError(f"URI {text!r}: {address!r} is not an IPv6 address")
        if percent and not zone:
            raise UsageError(f"URI {text!r}: the zone behind %25 is empty")
        host = address.lower() + ("%" + _decode(zone, text) if percent else "")
        port_text = tail[1:]
    else:
        name, _, port_text = authority.partition(":")
        if ":" in port_text:
            raise UsageError(f"URI {text!r}: an IPv6 address stands in [brackets]")
        host = _decode(_ascii_lower(name), text)  # §6.4, step 5: in this order
    if not host:
        raise UsageError(f"URI {text!r}: the host is missing")
    if not port_text:
        return host, None
    if not (port_text.isascii() and port_text.isdigit()) or len(port_text) > 5 or int(port_text) > 65535:
        raise UsageError(f"URI {text!r}: a port is a number up to 65535")
    return host, int(port_text)


def _ascii_lower(name: str) -> str:
    return "".join(chr(ord(character) | 0x20) if "A" <= character <= "Z" else character for character in name)


def _parse_path(path_text: str, text: str) -> tuple[str, ...]:
    """Decode the segments behind the first "/", with "." and ".." resolved (RFC 3986 §5.2.4)."""
    if not path_text:
        return ()
    raw = path_text.split("/")
    segments: list[str] = []
    for segment in raw:
        if segment == "..":
            del segments[-1:]
        elif segment != ".":
            segments.append(_decode(segment, text))
    if raw[-1] in (".", "..") and segments:
        segments.append("")
    if "." in segments or ".." in segments:
        raise UsageError(f"URI {text!r}: a segment cannot be '.' or '..' (RFC 7252 §5.10.1)")
    return tuple(segments)


def _decode(part: str, text: str) -> str:
    if "%" in part:
        first, *escaped = part.split("%")
        data = bytearray(first.encode())
        for piece in escaped:
            digits = piece[:2]
            if len(digits) < 2 or digits.strip("0123456789abcdefABCDEF"):
                raise UsageError(f"URI {text!r}: '%' has to be followed by two hexadecimal digits")
            data.append(int(digits, 16))
            data += piece[2:].encode()
        try:
            part = data.decode()
        except UnicodeDecodeError:
            raise UsageError(f"URI {text!r}: the percent-encoded bytes are not UTF-8") from None
    if len(part.encode()) > LONGEST_SEGMENT:
        raise UsageError(f"URI {text!r}: a part of it is longer than the {LONGEST_SEGMENT} bytes of an option")
    return part


def _encode(part: Union[str, bytes], safe: frozenset[int]) -> str:
    data = part.encode() if isinstance(part, str) else part
    return "".join(chr(byte) if byte in safe else f"%{byte:02X}" for byte in data)
