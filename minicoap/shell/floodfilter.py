"""Has the system drop what a flood has too much of, before it takes the place of sessions' datagrams.

All that comes to a socket waits in one buffer; whoever sends quicker than we can read fills it, and good datagrams are
lost with the others. Linux can run a small program on each datagram before that (a classic BPF, as tcpdump's are), in
the time of whoever delivers it: this one draws the hellos by lot that come through, and lets other records of DTLS come
through that are from ports of sessions, of which whoever pretends to be anybody guesses few.
"""

from __future__ import annotations

import array
import errno
import socket
import struct
import sys
from collections.abc import Iterable

from minicoap.security.hello import Admission

_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27  # asm-generic/socket.h
_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter: code, what to skip if true and if false, constant
_PROGRAM = struct.Struct("@HP")  # struct sock_fprog: how many instructions, and where they are
_MOST_PORTS = 2000  # a program's instructions take 8 bytes each, of 20 KiB where the system is an older one
_A_REACH = 250  # instructions; a condition skips at most 255

# linux/bpf_common.h, linux/filter.h
_LOAD_BYTE, _LOAD_HALF, _LOAD_WORD, _LOAD_BYTE_BEHIND = 0x30, 0x28, 0x20, 0x50
_TO_INDEX, _AND, _SKIP, _SKIP_IF_EQUAL, _SKIP_IF_AT_LEAST, _RETURN = 0x07, 0x54, 0x05, 0x15, 0x35, 0x06
_LOT = 0xFFFFF000 + 56  # SKF_AD_OFF + SKF_AD_RANDOM
_DROPPED, _WHOLE = 0, 0xFFFFFFFF  # bytes that are let through
_UDP = 8  # bytes of its header, with which a datagram begins here

Instructions = list[tuple[int, int, int, int]]


def admit(sock: socket.socket, admission: Admission) -> None:
    """Let through to `sock` what `admission` says. Does nothing on systems other than Linux. Raises OSError."""
    if sys.platform != "linux":
        return
    if admission == Admission():
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
        except OSError as error:
            if error.errno != errno.ENOENT:  # there was none
                raise
        return
    ports = admission.ports
    if ports is not None and len(ports) > _MOST_PORTS:
        ports = None
    instructions = _hellos(admission) + ([(_RETURN, 0, 0, _WHOLE)] if ports is None else _records(ports))
    program = array.array("B", b"".join(_INSTRUCTION.pack(*instruction) for instruction in instructions))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, _PROGRAM.pack(len(instructions), program.buffer_info()[0]))


def _hellos(admission: Admission) -> Instructions:
    """Decide about hellos, and go on behind with what is none. They come through if the lot's bits under a mask are 0.

    One that is cut short does not: what is loaded from behind its end ends the program so.
    """
    return [
        (_LOAD_BYTE, 0, 0, _UDP),
        (_SKIP_IF_EQUAL, 0, 16, 22),  # a record of a handshake's (RFC 6347 §4.1)
        (_LOAD_HALF, 0, 0, _UDP + 3),
        (_SKIP_IF_EQUAL, 0, 14, 0),  # of epoch 0
        (_LOAD_BYTE, 0, 0, _UDP + 13),
        (_SKIP_IF_EQUAL, 0, 12, 1),  # with a client's hello (RFC 6347 §4.3.2)
        (_LOAD_BYTE, 0, 0, _UDP + 59),  # length of the session ID
        (_TO_INDEX, 0, 0, 0),
        (_LOAD_BYTE_BEHIND, 0, 0, _UDP + 60),  # length of the cookie
        (_SKIP_IF_EQUAL, 3, 0, 0),
        (_LOAD_WORD, 0, 0, _LOT),
        (_AND, 0, 0, (1 << admission.with_cookie) - 1),
        (_SKIP, 0, 0, 2),
        (_LOAD_WORD, 0, 0, _LOT),
        (_AND, 0, 0, (1 << admission.without_cookie) - 1),
        (_SKIP_IF_EQUAL, 1, 0, 0),
        (_RETURN, 0, 0, _DROPPED),
        (_RETURN, 0, 0, _WHOLE),
    ]


def _records(ports: Iterable[int]) -> Instructions:
    """Decide about the rest: what is no DTLS comes through (RFC 7983), and what comes from one of `ports`."""
    instructions = [
        (_LOAD_BYTE, 0, 0, _UDP),
        (_SKIP_IF_AT_LEAST, 2, 0, 128),
        (_SKIP_IF_AT_LEAST, 0, 1, 64),
        (_RETURN, 0, 0, _WHOLE),
        (_LOAD_HALF, 0, 0, 0),  # the port it was sent from
    ]
    listed = sorted(ports)
    for begin in range(0, len(listed), _A_REACH):
        reach = listed[begin : begin + _A_REACH]
        instructions += [(_SKIP_IF_EQUAL, len(reach) - at, 0, port) for at, port in enumerate(reach)]
        instructions += [(_SKIP, 0, 0, 1), (_RETURN, 0, 0, _WHOLE)]
    return [*instructions, (_RETURN, 0, 0, _DROPPED)]
