"""The download of a job's artifacts, one after the other, each block straight to its file.

A file under way is `<sha256>.part`; complete and synced it loses the ending. It goes on where it stood: after a lost
network at the next block, after a restart of the process too, after a power cut where the last sync was. What costs the
operator money is bounded: bytes that came in all, those too that were of no use; failures without a byte of progress;
and time, since a server that lets a block trickle through now and then would hold the job, and the radio, for ever.
"""

from __future__ import annotations

import errno
import logging
from typing import Callable, Optional, Union

from fleet.agent.backoff import Backoff
from fleet.host.clock import Clock
from fleet.host.files import Files
from fleet.install.interface import NO_SPACE, Answer
from fleet.model.jobs import ArtifactRef
from minicoap.codec import codes
from minicoap.core.block_client import Transfer
from minicoap.core.endpoint import EndpointCore
from minicoap.core.entropy import Entropy
from minicoap.core.request import ClientRequest, Path, Response
from minicoap.core.timers import Timer, Timers
from minicoap.errors import BodyError, CoapError, NetworkError, StorageError

logger = logging.getLogger(__name__)

FAILED = "download_failed"
REFUSED = "artifact_refused"
OVER_BUDGET = "download_over_budget"
TOO_SLOW = "download_too_slow"

BLOCK = 1024  # bytes
ETAG_LENGTH = 8  # bytes: the ETag that the server gives a content is the beginning of its SHA-256
WINDOW = 16  # blocks under way at most; congestion control decides how many, and a link that loses much gets one
SYNC_STEP = 256 * 1024  # bytes between syncs: what a power cut costs at most
FAILURES = 40  # without progress, before it is given up; with the waits below, most of an hour
FIRST_WAIT, LONGEST_WAIT = 2.0, 120.0  # seconds
BUDGET_FACTOR = 3  # bytes that may be received for one byte of the job
BUDGET_EXTRA = 1024 * 1024  # bytes, whatever the size
# The slowest link in use, NB-IoT where coverage is worst, carries a few hundred bits a second: half of that is no link.
# Beside it hours for waits, since a network that is away for one is no reason to give up.
LEAST_RATE = 16  # bytes a second, over the whole download of one life of the process
LEAST_TIME = 6 * 3600.0  # seconds, whatever the size


class Downloads:
    """Downloads into `directory` from the server at `path`."""

    def __init__(
        self,
        endpoint: EndpointCore,
        path: Path,
        *,
        files: Files,
        directory: str,
        clock: Clock,
        timers: Timers,
        entropy: Entropy,
    ) -> None:
        self.endpoint = endpoint
        self.path = path
        self.files = files
        self.directory = directory
        self.clock = clock
        self.timers = timers
        self.entropy = entropy
        files.make_directory(directory)

    def file(self, artifact: ArtifactRef) -> str:
        """Where a complete artifact is."""
        return f"{self.directory}/{artifact.sha256}"

    def clear(self) -> None:
        """Remove everything: no job needs it."""
        for name in self.files.names(self.directory):
            self.files.remove(f"{self.directory}/{name}")


class Download:
    """One job's download.

    `trusted(index, size)` says how many bytes of an unfinished file may be believed; `progressed(index, offset)` is
    told what is synced, `received(done, total)` how far it is; `done` gets the outcome, unless it is stopped before.
    """

    def __init__(
        self,
        downloads: Downloads,
        artifacts: tuple[ArtifactRef, ...],
        *,
        trusted: Callable[[int, int], int],
        progressed: Callable[[int, int], None],
        received: Callable[[int, int], None],
        done: Callable[[Answer], None],
    ) -> None:
        self._downloads = downloads
        self._files = downloads.files
        self._artifacts = artifacts
        self._trusted = trusted
        self._progressed = progressed
        self._received = received
        self._done: Optional[Callable[[Answer], None]] = done
        self._total = sum(artifact.size for artifact in artifacts)
        self._budget = BUDGET_FACTOR * self._total + BUDGET_EXTRA
        self._spent = 0  # bytes that came by fetches that are over
        self._fetch: Optional[Transfer] = None  # the one under way, once its first block has come
        self._ends_at = downloads.clock.monotonic() + LEAST_TIME + self._total / LEAST_RATE
        self._backoff = Backoff(downloads.entropy, FIRST_WAIT, LONGEST_WAIT)
        self._index = 0
        self._before = 0  # bytes of the artifacts that are complete
        self._offset = 0  # bytes of the one under way
        self._synced = 0
        self._etag: Optional[bytes] = None  # of the body under way, as far as this life has seen it
        self._transfer: Optional[ClientRequest] = None
        self._timer: Optional[Timer] = None

    def start(self) -> None:
        """Begin, or go on where an earlier life stood."""
        try:
            self._next()
        except OSError as error:
            self._fail_storage(error)

    def stop(self) -> None:
        """Stop at once; the outcome is not told."""
        self._done = None
        if self._transfer is not None:
            self._transfer.cancel(self._downloads.clock.monotonic())
        if self._timer is not None:
            self._timer.cancel()

    # ClientSink

    def begin(self, response: Response, size: Optional[int]) -> None:
        """Refuse a body that is not as long as the job says, or is named as another."""
        self._etag = response.etag
        expected = bytes.fromhex(self._artifact.sha256[: 2 * ETAG_LENGTH])
        # An ETag of another length is not a fleet server's: a proxy may have made it, and it says nothing of the hash.
        if response.etag is not None and len(response.etag) == ETAG_LENGTH and response.etag != expected:
            raise BodyError(f"the server has another content now (its ETag is {response.etag.hex()})")
        if size is not None and size != self._artifact.size:
            raise BodyError(f"the server has {size} bytes, the job says {self._artifact.size}")

    def write_at(self, offset: int, data: bytes) -> None:
        """Take a block."""
        if offset + len(data) > self._artifact.size or self._spends(len(data)) > self._budget:
            raise BodyError("more bytes come than the job allows")
        if self._is_late:
            raise BodyError("the server sends too slowly")
        self._files.write_at(self._part, offset, data)
        self._offset = offset + len(data)
        self._backoff.reset()
        if self._offset - self._synced >= SYNC_STEP:
            self._sync()
        self._received(self._before + self._offset, self._total)

    # How it goes on

    def _moved_on(self, fetch: Transfer) -> None:
        self._fetch = fetch

    def _spends(self, size: int) -> int:
        """Return how many bytes came in all, of the fetch under way `size` if nothing is known of it yet."""
        return self._spent + (size if self._fetch is None else self._fetch.taken)

    @property
    def _is_late(self) -> bool:
        return self._downloads.clock.monotonic() > self._ends_at

    @property
    def _why(self) -> str:
        """The reason of a failure that is no refusal."""
        return OVER_BUDGET if self._spent > self._budget else TOO_SLOW if self._is_late else FAILED

    @property
    def _artifact(self) -> ArtifactRef:
        return self._artifacts[self._index]

    @property
    def _part(self) -> str:
        return self._downloads.file(self._artifact) + ".part"

    def _next(self) -> None:
        """Go on with the first artifact that is not complete."""
        while self._index < len(self._artifacts):
            artifact = self._artifact
            if self._files.size(self._downloads.file(artifact)) != artifact.size:
                self._begin_artifact(artifact)
                return
            self._before += artifact.size
            self._index += 1
        self._finish(Answer(ok=True))

    def _begin_artifact(self, artifact: ArtifactRef) -> None:
        size = self._files.size(self._part)
        if size is None:
            self._files.write_at(self._part, 0, b"")
            size = 0
        offset = min(self._trusted(self._index, size), artifact.size)
        if offset < artifact.size:
            offset -= offset % BLOCK
        self._files.truncate(self._part, offset)
        # What is told as synced is synced: an earlier life of this boot may have left bytes that are not.
        self._files.fsync(self._part)
        self._offset = self._synced = offset
        self._etag = None
        # Names the boot before the first byte is written, see Machine.progressed.
        self._progressed(self._index, offset)
        self._request()

    def _request(self) -> None:
        if self._done is None:
            return
        if self._offset >= self._artifact.size:
            self._complete_artifact()
            return
        downloads = self._downloads
        try:
            self._transfer = downloads.endpoint.request(
                codes.GET,
                downloads.path,
                self._answered,
                downloads.clock.monotonic(),
                uri_path=("firmware", self._artifact.sha256),
                sink=self,
                offset=self._offset,
                etag=self._etag,
                szx=BLOCK.bit_length() - 5,
                window=WINDOW,
                progress=self._moved_on,
            )
        except NetworkError as error:
            self._retry(error)

    def _answered(self, outcome: Union[Response, CoapError]) -> None:
        self._transfer = None
        self._spent = self._spends(0)
        self._fetch = None
        try:
            if isinstance(outcome, StorageError):
                self._fail_storage(outcome.error)
            elif isinstance(outcome, BodyError):
                self._finish(Answer(ok=False, reason=self._why, output=str(outcome)))
            elif isinstance(outcome, CoapError):
                self._retry(outcome)
            elif outcome.is_success:
                self._complete_artifact()
            elif outcome.code >> 5 == 4 and outcome.code != codes.TOO_MANY_REQUESTS:
                text = f"{self._artifact.name}: {codes.code_name(outcome.code)} {outcome.text}"
                self._finish(Answer(ok=False, reason=REFUSED, output=text))
            else:
                self._retry(outcome)
        except OSError as error:
            self._fail_storage(error)

    def _complete_artifact(self) -> None:
        if self._offset != self._artifact.size:
            text = f"{self._artifact.name} ended after {self._offset} of {self._artifact.size} bytes"
            self._finish(Answer(ok=False, reason=FAILED, output=text))
            return
        self._files.fsync(self._part)
        self._files.rename(self._part, self._downloads.file(self._artifact))
        self._next()

    def _retry(self, why: Union[Response, CoapError]) -> None:
        """Go on after a while, at the block where it stands."""
        if self._done is None:
            return
        text = codes.code_name(why.code) if isinstance(why, Response) else str(why)
        if self._backoff.failures >= FAILURES or self._why != FAILED:
            self._finish(Answer(ok=False, reason=self._why, output=f"{self._artifact.name}: {text}"))
            return
        self._offset -= self._offset % BLOCK
        wait = self._backoff.wait()
        logger.info("download of %s goes on in %.0f s: %s", self._artifact.name, wait, text)
        self._timer = self._downloads.timers.at(self._downloads.clock.monotonic() + wait, self._resume)

    def _resume(self, now: float) -> None:
        self._timer = None
        try:
            self._request()
        except OSError as error:
            self._fail_storage(error)

    def _sync(self) -> None:
        self._files.fsync(self._part)
        self._synced = self._offset
        self._progressed(self._index, self._offset)

    def _fail_storage(self, error: OSError) -> None:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        text = f"the download cannot be stored: {error.strerror or error}"
        self._finish(Answer(ok=False, reason=NO_SPACE if full else FAILED, output=text))

    def _finish(self, outcome: Answer) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(outcome)
