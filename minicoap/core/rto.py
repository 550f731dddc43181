"""When to give up waiting for an acknowledgement, from what round trips to this peer have taken (RFC 6298).

CoAP's own timeout is fixed, 2 to 3 s, so that an endpoint need measure nothing (RFC 7252 §4.8.1). A transfer with a
window has to measure, says the same section, and uses what it measured; with `TransmissionParameters.adaptive_timeout`
all confirmable messages do.

The estimator is that of RFC 6298 §2, which RFC 8085 §3.1.1 recommends to users of UDP: a smoothed round trip and its
variation. Only messages sent once are measured, since nobody can tell which transmission of a repeated one was
acknowledged, and a timeout that was doubled stays doubled until one is measured (Karn's algorithm, §3, §5); or until a
repeated one is acknowledged just when a usual round trip after its last transmission is over, or else a link that loses
every third datagram would hardly ever be measured, and be waited for a minute each time. Before the first measurement
it is ACK_TIMEOUT. It is never below 1 s (§2.4), or below ACK_TIMEOUT where that was set lower: an
acknowledgement may take as long as the server's work takes. Where something that was sent later has been acknowledged
already that reason is gone, and `expected` says how long a round trip takes with near certainty: what has not come by
then is lost, or so late that to send it again is right (compare RFC 8985, RFC 9002 §6.1.2).
"""

from __future__ import annotations

SHORTEST = 1.0  # seconds, RFC 6298 §2.4
LONGEST = 60.0  # seconds, RFC 6298 §2.5
GRANULARITY = 0.01  # seconds; what the variation is taken to be at least, whatever was measured


class RoundTrips:
    """The round trips to one peer. `timeout` is the retransmission timeout in seconds."""

    __slots__ = ("_backed_off_until", "_fastest", "_shortest", "_smoothed", "_variation", "timeout")

    def __init__(self, ack_timeout: float) -> None:
        self.timeout = ack_timeout
        self._shortest = min(SHORTEST, ack_timeout)
        self._fastest = LONGEST  # of those measured
        self._smoothed = 0.0
        self._variation = 0.0
        self._backed_off_until = 0.0

    @property
    def expected(self) -> float:
        """How long a round trip takes at most with near certainty; `timeout` before the first was measured."""
        if not self._smoothed:
            return self.timeout
        variation = 4.0 * self._variation
        return self._smoothed + (variation if variation > GRANULARITY else GRANULARITY)

    @property
    def probe_after(self) -> float:
        """When to send the last message of several again, which nothing can overtake (RFC 8985 §7.2)."""
        return 2.0 * self.expected

    def measured(self, seconds: float) -> None:
        """Take in a round trip of a message that was sent once."""
        if not self._smoothed:
            self._smoothed = seconds
            self._variation = seconds / 2
        else:
            self._variation += (abs(self._smoothed - seconds) - self._variation) * 0.25
            self._smoothed += (seconds - self._smoothed) * 0.125
        self._fastest = min(self._fastest, seconds)
        self.timeout = min(max(self.expected, self._shortest), LONGEST)

    def repeated(self, seconds: float) -> None:
        """A message sent more than once was acknowledged so long after its last transmission."""
        if self._smoothed and self._fastest <= seconds <= self.expected:
            self.timeout = min(max(self.expected, self._shortest), LONGEST)

    def timed_out(self, now: float) -> None:
        """Wait twice as long from now on, until a round trip is measured (§5.5); once for all that time out at once."""
        if now >= self._backed_off_until:
            self._backed_off_until = now + self.timeout
            self.timeout = min(2.0 * self.timeout, LONGEST)
