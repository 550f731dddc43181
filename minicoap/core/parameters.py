"""What an endpoint may be told: the protocol's times (RFC 7252 §4.8) and the bounds of its memory."""

from __future__ import annotations

from typing import NamedTuple, Optional

from minicoap.errors import UsageError

_ACK_TIMEOUT = 2.0  # seconds; with NSTART what §4.8 found to be safe in the Internet
_NSTART = 1
_MAX_PAYLOADS = 10  # RFC 9177 §7.2


class TransmissionParameters(NamedTuple):
    """RFC 7252 §4.8, under its names; times in seconds, `probing_rate` in bytes/s.

    An endpoint has one such value, and a request may bring its own. `congestion_controlled` says that something else
    sees to it that the network is not overrun, such as a link that is one's own; only then may NSTART be raised or
    ACK_TIMEOUT shortened (§4.8.1), and PROBING_RATE is not enforced (§4.7). A transfer with a window needs no such
    permission: it has a congestion control of its own.

    With `adaptive_timeout` the time to wait for an acknowledgement does not follow ACK_TIMEOUT but what round trips to
    that peer have been measured to take (`minicoap.core.rto`), and is never below 1 s: for paths that are slower than
    ACK_TIMEOUT expects, or known to be faster. Transfers with a window do so anyway.

    `max_payloads` and those that begin with `non_` are Q-Block's (RFC 9177 §7.2): how many blocks are sent before an
    answer or a pause of NON_TIMEOUT, how long and how often who receives asks for what is missing, and when a body of
    which nothing more comes is given up. Both sides have to have the same `max_payloads`. Where None they follow from
    the others as §7.2 says; see `quick_blocks`.
    """

    ack_timeout: float = _ACK_TIMEOUT
    ack_random_factor: float = 1.5
    max_retransmit: int = 4
    nstart: int = _NSTART
    default_leisure: float = 5.0
    probing_rate: float = 1.0
    max_latency: float = 100.0
    adaptive_timeout: bool = False
    congestion_controlled: bool = False
    max_payloads: int = _MAX_PAYLOADS
    non_timeout: Optional[float] = None
    non_receive_timeout: Optional[float] = None
    non_max_retransmit: Optional[int] = None
    non_probing_wait: Optional[float] = None
    non_partial_timeout: Optional[float] = None

    @property
    def max_transmit_span(self) -> float:
        """From the first transmission of a confirmable message to its last (§4.8.2)."""
        return self.ack_timeout * ((1 << self.max_retransmit) - 1) * self.ack_random_factor

    @property
    def max_transmit_wait(self) -> float:
        """From the first transmission to giving up on an acknowledgement (§4.8.2)."""
        return self.ack_timeout * ((2 << self.max_retransmit) - 1) * self.ack_random_factor

    @property
    def processing_delay(self) -> float:
        """The longest a node takes to turn a request into an acknowledgement (§4.8.2)."""
        return self.ack_timeout

    @property
    def exchange_lifetime(self) -> float:
        """How long a message ID of a confirmable message must not be used again (§4.8.2)."""
        return self.max_transmit_span + 2 * self.max_latency + self.processing_delay

    @property
    def non_lifetime(self) -> float:
        """How long a message ID of a non-confirmable message must not be used again (§4.8.2)."""
        return self.max_transmit_span + self.max_latency

    @property
    def quick_blocks(self) -> QuickBlocks:
        """The parameters of Q-Block, with the defaults filled in (RFC 9177 §7.2)."""
        timeout = self.ack_timeout if self.non_timeout is None else self.non_timeout
        longest = timeout * self.ack_random_factor
        receive = self.non_receive_timeout
        retransmit = self.max_retransmit if self.non_max_retransmit is None else self.non_max_retransmit
        lifetime = longest * ((1 << max(retransmit, 0)) - 1) + 2 * self.max_latency
        return QuickBlocks(
            self.max_payloads,
            timeout,
            longest,
            max(2 * timeout, longest + 1) if receive is None else receive,
            retransmit,
            lifetime + longest if self.non_probing_wait is None else self.non_probing_wait,
            lifetime + timeout if self.non_partial_timeout is None else self.non_partial_timeout,
        )

    def check(self) -> TransmissionParameters:
        """Return self; raises UsageError for values that cannot work."""
        if self.ack_timeout <= 0 or self.ack_random_factor < 1 or self.max_retransmit < 0 or self.nstart < 1:
            raise UsageError(
                "ack_timeout must be above 0, ack_random_factor and nstart at least 1, max_retransmit at least 0"
            )
        if self.probing_rate <= 0 or self.default_leisure < 0 or self.max_latency < 0:
            raise UsageError("probing_rate must be above 0, default_leisure and max_latency at least 0")
        if not self.congestion_controlled and (self.nstart > _NSTART or self.ack_timeout < _ACK_TIMEOUT):
            # §4.8.1: MUST NOT without mechanisms that ensure congestion control safety
            raise UsageError(
                f"nstart above {_NSTART} or ack_timeout below {_ACK_TIMEOUT:g} s overruns networks; "
                "set congestion_controlled=True where something else prevents that"
            )
        self._check_quick_blocks()
        return self

    def _check_quick_blocks(self) -> None:
        """Raise UsageError for what Q-Block cannot work with (RFC 9177 §7.2)."""
        quick = self.quick_blocks
        if quick.max_payloads < 1 or quick.timeout <= 0 or quick.max_retransmit < 0:
            raise UsageError("max_payloads has to be at least 1, non_timeout above 0, non_max_retransmit at least 0")
        if quick.receive_timeout < quick.longest_timeout + 1:  # so that the next set can begin before
            raise UsageError(
                f"non_receive_timeout {quick.receive_timeout:g} s has to be one second above the longest non_timeout, "
                f"{quick.longest_timeout:g} s"
            )
        if quick.probing_wait < 0 or quick.partial_timeout <= 0:
            raise UsageError("non_probing_wait has to be at least 0, non_partial_timeout above 0")
        if not self.congestion_controlled and (quick.max_payloads > _MAX_PAYLOADS or quick.timeout < _ACK_TIMEOUT):
            raise UsageError(
                f"max_payloads above {_MAX_PAYLOADS} or non_timeout below {_ACK_TIMEOUT:g} s overruns networks; "
                "set congestion_controlled=True where something else prevents that"
            )


class QuickBlocks(NamedTuple):
    """The parameters of Q-Block (RFC 9177 §7.2), as they are in force; times in seconds.

    NON_TIMEOUT_RANDOM is drawn from `timeout` to `longest_timeout`.
    """

    max_payloads: int
    timeout: float
    longest_timeout: float
    receive_timeout: float
    max_retransmit: int
    probing_wait: float
    partial_timeout: float


class Limits(NamedTuple):
    """How much an endpoint keeps, whatever the network does. Each overflow has the answer named beside it."""

    peers: int = 65536  # further peers: the longest idle one is forgotten; if none is idle, messages to new ones fail
    queued_messages: int = 64  # per peer, behind NSTART; further requests fail at once, late answers go unreliably
    remembered_answers: int = 200_000  # further ones push out the older half
    remembered_bytes: int = 32 * 1024 * 1024  # the same, by bytes
    deferred: int = 10_000  # requests awaiting a late answer; further ones are answered 5.03 with Max-Age
    # Block-wise bodies under way. Further ones take the place of one that has gone quiet, else of one of the host that
    # has the most if theirs has less, else they are answered 5.03. From half of them on, a new one whose address may be
    # forged is first answered 4.01 with Echo (unless `amplification` is 0).
    open_bodies: int = 1024
    open_body_bytes: int = 16 * 1024 * 1024  # what those bodies hold in memory together; the same answer
    body_grace: float = 30.0  # seconds after which a quiet body may be given up for a new one
    assembled_body: int = 16 * 1024 * 1024  # bytes of a response body that the client keeps in memory; then BodyError
    block_szx: int = 6  # the largest block that is asked for, sent or taken without asking for smaller: 16 << szx bytes
    observers: int = 32_768  # further ones get a plain answer (RFC 7641 §4.1); fewer than peers, whom they keep busy
    observers_per_peer: int = 1024  # the same
    # An answer to an address never verified has so many times its request's bytes at most; a larger one becomes 4.01
    # with Echo, or small blocks (RFC 9175 §2.4). 0 is no bound; this machine's own addresses are always believed.
    amplification: int = 3
    token_length: int = 256  # bytes of a request's token (RFC 8974); a longer one is answered 4.00
    piggyback_delay: float = 1.0  # seconds a deferred answer may take and still travel in the acknowledgement
