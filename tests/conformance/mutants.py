"""Deliberate faults in our server, one at a time, each of which a conformance test has to find.

Each is a file, a piece of its text that stands there once, what is put in its place, and a test that fails for it.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """A fault: in `file`, `old` becomes `new`; `caught_by` is the id of a test that finds that."""

    name: str
    file: str
    old: str
    new: str
    caught_by: str


MESSAGE = "minicoap/codec/message.py"
RELIABILITY = "minicoap/core/reliability.py"
EXCHANGE = "minicoap/core/exchange.py"
BLOCKS = "minicoap/core/block_server.py"
BODIES = "minicoap/core/block_bodies.py"
OBSERVERS = "minicoap/core/observe_server.py"
RESOURCE = "minicoap/core/resource.py"

MUTANTS = (
    # Messages
    Mutant(
        "malformed messages are not rejected",
        RELIABILITY,
        "        if error.header is not None and error.header[0] == CON:\n",
        "        if error.header is None:\n",
        "MALFORMED_02",
    ),
    Mutant(
        "malformed acknowledgements are rejected",
        RELIABILITY,
        "error.header is not None and error.header[0] == CON:",
        "error.header is not None:",
        "MALFORMED_12",
    ),
    Mutant(
        "a payload marker may stand alone",
        MESSAGE,
        "            if marker == length - 1:\n",
        "            if marker == length:\n",
        "MALFORMED_02",
    ),
    Mutant(
        "the last option may be cut off",
        MESSAGE,
        "        if end > length:\n",
        "        if end > length + 64:\n",
        "MALFORMED_05",
    ),
    Mutant(
        "the version does not matter",
        MESSAGE,
        "    if first & 0xC0 != VERSION_BITS:\n",
        "    if first & 0xC0 == 0x100:\n",
        "MALFORMED_10",
    ),
    Mutant(
        "codes of reserved classes are ignored",
        RELIABILITY,
        '        """Reject a confirmable message of a reserved class (§4.2)."""\n        if message.type == CON:\n',
        '        """Reject a confirmable message of a reserved class (§4.2)."""\n        if message.type == NON:\n',
        "MALFORMED_09",
    ),
    Mutant(
        "an acknowledgement may have a request",
        RELIABILITY,
        "        if message.type > NON:\n            return  # §4.2",
        "        if message.type > 9:\n            return  # §4.2",
        "MALFORMED_11",
    ),
    Mutant(
        "a ping is acknowledged",
        RELIABILITY,
        "        if message.type == CON:\n            self.send_empty(RST, message.message_id, path)\n"
        "            return\n        peer",
        "        if message.type == CON:\n            self.send_empty(ACK, message.message_id, path)\n"
        "            return\n        peer",
        "TD_COAP_CORE_31",
    ),
    Mutant(
        "responses that nobody asked for are ignored",
        RELIABILITY,
        "        if peer is None:\n            self.send_empty(RST, message.message_id, path)\n            return\n",
        "        if peer is None:\n            return\n",
        "MALFORMED_13",
    ),
    Mutant(
        "non-confirmable requests are acknowledged",
        RELIABILITY,
        "            type = NON\n            message_id = peer.next_message_id()\n",
        "            peer.next_message_id()\n",
        "TD_COAP_CORE_05",
    ),
    Mutant(
        "long tokens are cut",
        RELIABILITY,
        "        token = message.token\n        size = len(token)\n",
        "        token = message.token[:4]\n        size = len(token)\n",
        "TD_COAP_CORE_10",
    ),
    Mutant(
        "repeated requests are carried out again",
        RELIABILITY,
        "        remembers = message.code in _NOT_IDEMPOTENT or",
        "        remembers = False and",
        "DUPLICATE_02",
    ),
    Mutant(
        "repeated requests are not answered again",
        RELIABILITY,
        "                    self._outbox.append((known, path))\n            return True\n",
        "                    pass\n            return True\n",
        "DUPLICATE_02",
    ),
    Mutant(
        "an unwanted response means no acknowledgement",
        RELIABILITY,
        "        if message.type == CON:\n            self.send_empty(ACK, message.message_id, path)\n"
        "        return record_of(VERSION_BITS, message)\n",
        "        return record_of(VERSION_BITS, message)\n",
        "NO_RESPONSE_03",
    ),
    Mutant(
        "No-Response suppresses every response",
        RELIABILITY,
        "        if mask & _MAY_HAVE_NO_ANSWER and not is_wanted(message.options, answer):\n",
        "        if mask & _MAY_HAVE_NO_ANSWER and message.options.get(258):\n",
        "NO_RESPONSE_02",
    ),
    # Options
    Mutant(
        "critical options that are not known are ignored",
        EXCHANGE,
        "    if options.mask & NOT_UNDERSTOOD:\n",
        "    if options.mask & NOT_UNDERSTOOD:\n        return None\n    if not options.mask:\n",
        "OPTION_01",
    ),
    Mutant(
        "critical options may come twice",
        MESSAGE,
        "                or (number == previous and not definition.repeatable)\n",
        "",
        "OPTION_04",
    ),
    Mutant(
        "critical options may have any length",
        MESSAGE,
        "                not definition.minimum <= len(value) <= definition.maximum\n                or",
        "                len(value) > 500\n                or",
        "OPTION_07",
    ),
    Mutant(
        "elective options may have any length",
        MESSAGE,
        "                if definition is None or definition.minimum <= len(value) <= definition.maximum:\n"
        "                    return value\n",
        "                if number:\n                    return value\n",
        "OPTION_08",
    ),
    Mutant(
        "requests to a proxy are answered in its place",
        EXCHANGE,
        "    if options.mask & _PROXY:\n",
        "    if options.mask & _PROXY:\n        return None\n    if not options.mask:\n",
        "OPTION_11",
    ),
    Mutant(
        "Hop-Limit may be zero",
        EXCHANGE,
        "    if not 1 <= hops[0] <= 255:\n",
        "    if not 2 <= hops[0] <= 254:\n",
        "HOP_LIMIT_01",
    ),
    Mutant(
        "a method that is not there is answered 4.04",
        RESOURCE,
        "            return Response.refusal(codes.METHOD_NOT_ALLOWED, _methods(resource))\n",
        "            return Response.refusal(codes.NOT_FOUND, _methods(resource))\n",
        "OPTION_12",
    ),
    Mutant(
        "Accept is ignored",
        RESOURCE,
        "        if mask & 1 << ACCEPT and resource.content_formats and",
        "        if not mask and",
        "TD_COAP_CORE_20",
    ),
    Mutant(
        "bodies of any Content-Format are taken",
        RESOURCE,
        "        if resource.accepts and request.payload and",
        "        if not mask and",
        "METHOD_06",
    ),
    Mutant(
        "filters leave the first link",
        RESOURCE,
        "            links = [link for link in links if matches(link, query)]\n",
        "            links = links[:1]\n",
        "TD_COAP_LINK_03",
    ),
    Mutant(
        "every ETag is confirmed",
        BLOCKS,
        "    if etag is None or etag not in request.etags or",
        "    if etag is None or",
        "TD_COAP_CORE_21",
    ),
    Mutant(
        "If-Match is always met",
        "minicoap/core/request.py",
        "        if if_match and (etag is None or",
        "        if not self.options and (etag is None or",
        "TD_COAP_CORE_22",
    ),
    Mutant(
        "Echo values of anybody are believed",
        "minicoap/core/echo.py",
        "        if not self._key or value[_TIME_BYTES:] != self._hash(time, path):\n",
        "        if not self._key:\n",
        "ECHO_02",
    ),
    # Blocks
    Mutant(
        "the reserved block size is taken",
        BLOCKS,
        '    if block is None:\n        raise ValueError("block size exponent 7 is reserved")\n',
        "    if block is None:\n        block = Block(0, False, 6)\n",
        "BLOCK_21",
    ),
    Mutant(
        "block numbers have 16 bits",
        BODIES,
        "options=self._options.at(block.number, more, block.szx)",
        "options=self._options.at(block.number & 0xFFFF, more, block.szx)",
        "BLOCK_31",
    ),
    Mutant(
        "blocks are a byte short",
        BODIES,
        "        payload = self.source.read_at(block.offset, block.size)\n",
        "        payload = self.source.read_at(block.offset, block.size - 1)\n",
        "TD_COAP_BLOCK_01",
    ),
    Mutant(
        "later blocks begin too late",
        BODIES,
        "        payload = self.source.read_at(block.offset, block.size)\n",
        "        payload = self.source.read_at(block.offset + 8, block.size)\n",
        "TD_COAP_BLOCK_06",
    ),
    Mutant(
        "the block size asked for is ignored",
        BLOCKS,
        "        if block is None or block.szx <= self._szx:\n            return block\n",
        "        if block is None:\n            return block\n        block = Block(block.number, False, 9)\n",
        "TD_COAP_BLOCK_06",
    ),
    Mutant(
        "bodies may have gaps",
        BLOCKS,
        "        if block.offset > upload.offset:\n            if block.more and self._hold(",
        "        if block.offset > upload.offset and block.more:\n            if block.more and self._hold(",
        "BLOCK_27",
    ),
    Mutant(
        "blocks are acknowledged by another number",
        BLOCKS,
        "options=Options(((BLOCK1, Block(block.number, True, szx).encode()),)))",
        "options=Options(((BLOCK1, Block(block.number + 1, True, szx).encode()),)))",
        "TD_COAP_BLOCK_03",
    ),
    Mutant(
        "the last block is not the last",
        BLOCKS,
        "(BLOCK1, Block(block1.number, False, szx).encode())",
        "(BLOCK1, Block(block1.number, True, szx).encode())",
        "TD_COAP_BLOCK_03",
    ),
    Mutant(
        "blocks of different formats make one body",
        BLOCKS,
        "tuple([item for item in items if item[0] not in PER_BLOCK])",
        "tuple([item for item in items if item[0] == 11])",
        "BLOCK_28",
    ),
    Mutant(
        "Q-Block1 needs no Request-Tag",
        "minicoap/core/qblock_server.py",
        '            return Response.refusal(codes.BAD_REQUEST, "Q-Block1 needs a Request-Tag and Size1")  # §4.3\n',
        "            return Response(codes.CHANGED)\n",
        "Q_BLOCK_05",
    ),
    # Observe
    Mutant(
        "nobody leaves the list by asking to",
        OBSERVERS,
        "        if value == DEREGISTER:\n            if known is not None:\n                self.remove(known, now)\n",
        "        if value == DEREGISTER:\n",
        "TD_COAP_OBS_12",
    ),
    Mutant(
        "nobody leaves the list by a reset",
        OBSERVERS,
        "        if error is not None:\n            self.remove(observer, now)\n",
        "        if error is not None:\n            self._make_ready(observer)\n",
        "TD_COAP_OBS_06",
    ),
    Mutant(
        "notifications have one sequence number",
        OBSERVERS,
        "        notification.options = rendering.options(observer.next_number(now), now)\n",
        "        notification.options = rendering.options(7, now)\n",
        "TD_COAP_OBS_01",
    ),
    Mutant(
        "the Content-Format of notifications may change",
        OBSERVERS,
        "            elif observer.content_format != response.content_format:\n",
        "            elif not response.code:\n",
        "TD_COAP_OBS_08",
    ),
    Mutant(
        "errors are notifications like others",
        OBSERVERS,
        "        if response.code >> 5 != 2:\n            observer.outgoing = None",
        "        if not response.code:\n            observer.outgoing = None",
        "TD_COAP_OBS_07",
    ),
)
