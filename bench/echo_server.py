"""A bare echo on `add_reader`: what Python and the system need for a datagram if nothing is done with it.

Every confirmable message with a token of four bytes is answered by an acknowledgement, 2.05, of as many bytes as
`GET /test` of a fleet server has. Prints its port.
"""

from __future__ import annotations

import asyncio
import socket

PAYLOAD = b'\xc1\x32\xff{"status":"ok"}'


async def main() -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    sock.bind(("127.0.0.1", 0))
    print(sock.getsockname()[1], flush=True)
    receive, send = sock.recvfrom, sock.sendto

    def readable() -> None:
        for _ in range(64):
            try:
                data, address = receive(65535)
            except BlockingIOError:
                return
            send(b"\x64\x45" + data[2:8] + PAYLOAD, address)

    asyncio.get_running_loop().add_reader(sock, readable)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
