"""Has the system drop what a flood of hellos has too much of, before it takes the place of sessions' datagrams.

All that comes to a socket waits in one buffer; whoever sends quicker than we can read fills it, and good datagrams are
lost with the others. Linux can run a small program on each datagram before that (a classic BPF, as tcpdump's are), in
the time of whoever delivers it: this one lets one hello in so many through, drawn by lot, and all that is no hello.
"""

from __future__ import annotations

import array
import errno
import socket
import struct
import sys

_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27  # asm-generic/socket.h
_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter: code, what to skip if true and if false, constant
_PROGRAM = struct.Struct("@HP")  # struct sock_fprog: how many instructions, and where they are

# linux/bpf_common.h, linux/filter.h
_LOAD_BYTE, _LOAD_HALF, _LOAD_WORD, _LOAD_BYTE_BEHIND = 0x30, 0x28, 0x20, 0x50
_TO_INDEX, _AND, _SKIP, _SKIP_IF_EQUAL, _RETURN = 0x07, 0x54, 0x05, 0x15, 0x06
_LOT = 0xFFFFF000 + 56  # SKF_AD_OFF + SKF_AD_RANDOM
_DROPPED, _WHOLE = 0, 0xFFFFFFFF  # bytes that are let through
_UDP = 8  # bytes of its header, with which a datagram begins here


def share_hellos(sock: socket.socket, without_cookie: int, with_cookie: int) -> None:
    """Let one hello in two to the power of these through to `sock`; all of them for 0. Raises OSError.

    Does nothing on systems other than Linux.
    """
    if sys.platform != "linux":
        return
    if not without_cookie and not with_cookie:
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
        except OSError as error:
            if error.errno != errno.ENOENT:  # there was none
                raise
        return
    instructions = array.array("B", _program((1 << without_cookie) - 1, (1 << with_cookie) - 1))
    address, size = instructions.buffer_info()
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, _PROGRAM.pack(size // _INSTRUCTION.size, address))


def _program(mask_without: int, mask_with: int) -> bytes:
    """Return the program. A hello comes through if the bits of its lot under the mask are 0; one cut short never."""
    instructions = (
        (_LOAD_BYTE, 0, 0, _UDP),
        (_SKIP_IF_EQUAL, 0, 15, 22),  # a record of a handshake's (RFC 6347 §4.1)
        (_LOAD_HALF, 0, 0, _UDP + 3),
        (_SKIP_IF_EQUAL, 0, 13, 0),  # of epoch 0
        (_LOAD_BYTE, 0, 0, _UDP + 13),
        (_SKIP_IF_EQUAL, 0, 11, 1),  # with a client's hello (RFC 6347 §4.3.2)
        (_LOAD_BYTE, 0, 0, _UDP + 59),  # length of the session ID
        (_TO_INDEX, 0, 0, 0),
        (_LOAD_BYTE_BEHIND, 0, 0, _UDP + 60),  # length of the cookie
        (_SKIP_IF_EQUAL, 3, 0, 0),
        (_LOAD_WORD, 0, 0, _LOT),
        (_AND, 0, 0, mask_with),
        (_SKIP, 0, 0, 2),
        (_LOAD_WORD, 0, 0, _LOT),
        (_AND, 0, 0, mask_without),
        (_SKIP_IF_EQUAL, 1, 0, 0),
        (_RETURN, 0, 0, _DROPPED),
        (_RETURN, 0, 0, _WHOLE),
    )
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in instructions)
