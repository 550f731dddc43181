"""Downloads: block by block to the disk, going on where they stood, bounded in what they cost."""

from __future__ import annotations

import errno

import pytest

from fleet.agent import download
from fleet.agent.download import BLOCK, SYNC_STEP, Download, Downloads
from fleet.install.interface import Answer
from fleet.model.jobs import ArtifactRef
from minicoap.codec import codes
from minicoap.codec.contentformats import OCTET_STREAM
from minicoap.codec.message import decode
from minicoap.codec.options import BLOCK2
from minicoap.core.endpoint import EndpointCore
from minicoap.core.parameters import Limits
from minicoap.core.request import Response
from minicoap.core.timers import Timers
from minicoap.simulate.world import World
from tests.fleet.agent.noding import NODE, SERVER, ScriptedServer, told
from tests.fleet.pretended import MemoryFiles

CONTENT = bytes(range(256)) * 4 * 30 + b"the end"  # 31 blocks


class Machine:
    """An endpoint and timers as one machine."""

    def __init__(self, endpoint):
        self.endpoint = endpoint
        self.timers = Timers()
        self.datagram_received = endpoint.datagram_received
        self.path_failed = endpoint.path_failed
        self.datagrams_to_send = endpoint.datagrams_to_send

    def next_timeout(self):
        due = [when for when in (self.endpoint.next_timeout(), self.timers.next_deadline()) if when is not None]
        return min(due) if due else None

    def handle_timeout(self, now):
        self.endpoint.handle_timeout(now)
        self.timers.run(now)


class Downloading:
    """A node that downloads, and nothing else."""

    def __init__(self, *contents, limits=Limits()):  # noqa: B008
        self.world = World(0, trace=100_000)
        self.server = ScriptedServer(self.world)
        self.files = MemoryFiles()
        self.host = self.world.host(NODE)
        self.artifacts = tuple(ArtifactRef(**self.server.has(content)) for content in contents)
        self.trusted = {}
        self.progress = []
        self.received = []
        self.outcomes = []
        self.limits = limits

    def monotonic(self):
        return self.world.now

    def begin(self):
        machine = Machine(EndpointCore(self.world.entropy(f"node {self.world.events}"), limits=self.limits))
        self.host.boot(machine)
        downloads = Downloads(
            machine.endpoint, SERVER, files=self.files, directory="downloads", clock=self, timers=machine.timers,
            entropy=self.world.entropy("backoff"),
        )  # fmt: skip
        self.download = Download(
            downloads,
            self.artifacts,
            trusted=lambda index, size: min(size, self.trusted.get(index, 0)),
            progressed=lambda index, offset: self.progress.append((index, offset)),
            received=lambda done, total: self.received.append((done, total)),
            done=self.outcomes.append,
        )
        self.download.start()
        self.host.wake()
        return downloads

    def run(self) -> Answer:
        downloads = self.begin()
        self.world.run_until(lambda: bool(self.outcomes))
        (outcome,) = self.outcomes
        if outcome.ok:
            for artifact in self.artifacts:
                assert self.files.read(downloads.file(artifact)) == self.server.contents[artifact.sha256]
        return outcome

    def part(self, index=0):
        return f"downloads/{self.artifacts[index].sha256}.part"

    def asked(self):
        return len(self.server.asked)


CONTENTS = {
    "one": (CONTENT,), "a whole number of blocks": (bytes(4 * BLOCK),), "less than a block": (b"x",), "empty": (b"",),
    "several": (CONTENT, b"", b"y" * 3000), "the same twice": (CONTENT, CONTENT), "none": (),
}  # fmt: skip


@pytest.mark.parametrize("contents", CONTENTS.values(), ids=CONTENTS)
def test_what_was_asked_for_is_there_in_the_end(contents):
    downloading = Downloading(*contents)

    assert downloading.run() == Answer(ok=True)

    total = sum(map(len, contents))
    if total:
        assert downloading.received[-1][1] == total
    assert sorted(downloading.files.content) == sorted({f"downloads/{each.sha256}" for each in downloading.artifacts})


def test_progress_is_told_after_it_is_on_the_disk_and_the_boot_is_named_before_the_first_byte():
    downloading = Downloading(bytes(2 * SYNC_STEP + 5))
    done = []
    downloading.files.is_full = lambda operation, path: done.append(operation) is not None
    progressed = []
    downloading.progress = progressed
    begin = downloading.begin
    begin()
    download_progress = downloading.download._progressed

    def progress(index, offset):
        progressed.append((done[-1], offset))
        download_progress(index, offset)

    assert progressed == [(0, 0)], "told before the first block came"
    assert done[-1] == "fsync"
    downloading.download._progressed = progress
    downloading.world.run_until(lambda: bool(downloading.outcomes))

    assert [each for each in progressed if each[0] == "fsync"] == [("fsync", SYNC_STEP), ("fsync", 2 * SYNC_STEP)]
    assert done[-2:] == ["fsync", "rename"], "complete before it was synced"


@pytest.mark.parametrize(
    ("part", "trusted", "first_block"),
    [
        (None, 0, 0), (0, 0, 0), (10 * BLOCK, 10 * BLOCK, 10), (10 * BLOCK, 4 * BLOCK, 4), (10 * BLOCK, 0, 0),
        (10 * BLOCK + 500, 10 * BLOCK + 500, 10), (len(CONTENT) - 1, len(CONTENT), 30),
    ],
)  # fmt: skip
def test_it_goes_on_behind_what_can_be_trusted(part, trusted, first_block):
    downloading = Downloading(CONTENT)
    if part is not None:
        downloading.files.content[downloading.part()] = CONTENT[:part]
    downloading.trusted[0] = trusted

    assert downloading.run().ok

    assert downloading.progress[0] == (0, first_block * BLOCK)
    full_blocks = sum(len(each.data) > BLOCK for each in downloading.world.trace)
    assert full_blocks == 30 - first_block


def test_what_was_left_whole_is_not_asked_for_again():
    downloading = Downloading(CONTENT, b"second")
    downloading.files.content[f"downloads/{downloading.artifacts[0].sha256}"] = CONTENT
    downloading.files.content[downloading.part(1)] = b"second"
    downloading.trusted[1] = 6

    assert downloading.run().ok
    assert downloading.server.asked == []


def test_a_complete_file_of_the_wrong_size_is_fetched_again():
    downloading = Downloading(CONTENT)
    downloading.files.content[f"downloads/{downloading.artifacts[0].sha256}"] = b"torn"

    assert downloading.run().ok


def test_a_part_that_is_longer_than_the_artifact_is_cut():
    downloading = Downloading(CONTENT)
    downloading.files.content[downloading.part()] = CONTENT + b"of another"
    downloading.trusted[0] = 1 << 20

    assert downloading.run().ok
    assert downloading.server.asked == []


def test_several_blocks_are_under_way_at_once():
    downloading = Downloading(bytes(200 * BLOCK))

    assert downloading.run() == Answer(ok=True)

    # One at a time takes a round trip, two hundredths of a second, for each block.
    assert downloading.world.now < 200 * 0.02 / 2


def test_another_body_under_the_same_name_is_refused_when_it_goes_on():
    downloading = Downloading(CONTENT * 8)
    downloading.begin()
    downloading.world.run_until(lambda: len(downloading.received) >= 5)
    downloading.world.partition(downloading.host, downloading.server.host)
    downloading.world.run_for(100)
    (name,) = downloading.server.contents
    downloading.server.contents[name] = bytes(len(CONTENT * 8))
    site = downloading.server.site  # the server starts anew: it keeps nothing of the old body
    downloading.server.host.boot(EndpointCore(downloading.world.entropy("again"), site=site))
    downloading.world.heal()
    downloading.world.run_until(lambda: bool(downloading.outcomes))

    (outcome,) = downloading.outcomes
    assert (outcome.ok, outcome.reason) == (False, download.FAILED)


def test_a_lost_network_costs_no_block_twice():
    downloading = Downloading(CONTENT)
    downloading.begin()
    downloading.world.run_until(lambda: len(downloading.received) == 12)
    downloading.world.partition(downloading.host, downloading.server.host)
    downloading.world.run_for(500)
    assert downloading.outcomes == []

    downloading.world.heal()
    downloading.world.run_until(lambda: bool(downloading.outcomes))

    assert downloading.outcomes == [Answer(ok=True)]
    assert [done for done, _total in downloading.received] == [min(n * BLOCK, len(CONTENT)) for n in range(1, 32)]


def test_a_server_that_cannot_now_is_asked_again_a_little_later_each_time():
    downloading = Downloading(CONTENT)
    busy = Response(codes.SERVICE_UNAVAILABLE, max_age=5)
    path = f"/firmware/{downloading.artifacts[0].sha256}"
    whole = Response(codes.CONTENT, CONTENT, OCTET_STREAM)
    downloading.server.say("GET", path, busy, busy, Response(codes.TOO_MANY_REQUESTS, max_age=1), busy, busy, whole)

    assert downloading.run().ok

    times = [asked.at for asked in downloading.server.asked[:6]]
    waits = [later - earlier for earlier, later in zip(times, times[1:])]
    for wait, longest in zip(waits, (2, 4, 8, 16, 32)):
        assert longest / 2 <= wait <= longest + 0.1


@pytest.mark.parametrize("code", [codes.NOT_FOUND, codes.BAD_OPTION, codes.FORBIDDEN, codes.BAD_REQUEST])
def test_a_refusal_is_final_and_says_what_was_refused(code):
    downloading = Downloading(CONTENT)
    downloading.server.say("GET", f"/firmware/{downloading.artifacts[0].sha256}", told({"error": "gone"}, code))

    outcome = downloading.run()

    assert (outcome.ok, outcome.reason) == (False, download.REFUSED)
    assert downloading.artifacts[0].name in outcome.output
    assert codes.code_text(code) in outcome.output
    assert "gone" in outcome.output
    assert downloading.asked() == 1


def test_failures_without_progress_have_an_end():
    downloading = Downloading(CONTENT)
    downloading.server.say("GET", f"/firmware/{downloading.artifacts[0].sha256}", Response(codes.SERVICE_UNAVAILABLE))

    outcome = downloading.run()

    assert (outcome.ok, outcome.reason) == (False, download.FAILED)
    assert "5.03" in outcome.output
    assert downloading.asked() == download.FAILURES + 1
    assert downloading.world.now > 1800


def test_progress_sets_the_failures_back(monkeypatch):
    monkeypatch.setattr(download, "FAILURES", 5)
    downloading = Downloading(CONTENT)
    downloading.begin()
    for blocks in range(2, 60, 2):
        downloading.world.run_until(lambda blocks=blocks: len(downloading.received) >= blocks or downloading.outcomes)
        downloading.world.partition(downloading.host, downloading.server.host)
        downloading.world.run_for(100)
        downloading.world.heal()
    downloading.world.run_until(lambda: bool(downloading.outcomes))

    assert downloading.outcomes == [Answer(ok=True)]


@pytest.mark.parametrize("served", [CONTENT + b"more", CONTENT[:-1], b"", b"short"])
def test_a_body_of_another_length_is_refused_at_once(served):
    downloading = Downloading(CONTENT)
    path = f"/firmware/{downloading.artifacts[0].sha256}"
    downloading.server.say("GET", path, Response(codes.CONTENT, served, OCTET_STREAM))

    outcome = downloading.run()

    assert (outcome.ok, outcome.reason) == (False, download.FAILED)
    assert str(len(served)) in outcome.output
    assert downloading.asked() <= 1


@pytest.mark.parametrize("served", [CONTENT + b"more", CONTENT[: 20 * BLOCK]])
def test_a_resumed_body_of_another_length_is_refused_too(served):
    downloading = Downloading(CONTENT)
    downloading.files.content[downloading.part()] = CONTENT[: 10 * BLOCK]
    downloading.trusted[0] = 10 * BLOCK
    path = f"/firmware/{downloading.artifacts[0].sha256}"
    downloading.server.say("GET", path, Response(codes.CONTENT, served, OCTET_STREAM))

    outcome = downloading.run()

    assert (outcome.ok, outcome.reason) == (False, download.FAILED)
    assert f"downloads/{downloading.artifacts[0].sha256}" not in downloading.files.content
    assert len(downloading.files.content[downloading.part()]) <= len(CONTENT)


def test_bytes_beyond_the_budget_end_it(monkeypatch):
    monkeypatch.setattr(download, "BUDGET_FACTOR", 0)
    monkeypatch.setattr(download, "BUDGET_EXTRA", 5 * BLOCK)
    downloading = Downloading(CONTENT)

    outcome = downloading.run()

    assert (outcome.ok, outcome.reason) == (False, download.OVER_BUDGET)
    assert downloading.received[-1][0] == 5 * BLOCK


def test_bytes_that_came_before_their_turn_and_were_of_no_use_count_too(monkeypatch):
    """One block never comes: those behind it do, and go with the fetch that is given up."""
    monkeypatch.setattr(download, "BUDGET_FACTOR", 0)
    monkeypatch.setattr(download, "BUDGET_EXTRA", 60 * BLOCK)
    downloading = Downloading(bytes(100 * BLOCK))
    downloading.begin()
    core = downloading.server.core
    downloading.server.host.boot(DeafToOneBlock(core, 40))
    downloading.world.run_until(lambda: bool(downloading.outcomes))

    (outcome,) = downloading.outcomes
    assert (outcome.ok, outcome.reason) == (False, download.OVER_BUDGET)
    assert downloading.received[-1][0] == 40 * BLOCK
    came = sum(len(each.data) > BLOCK for each in downloading.world.trace)
    assert came > 60


class DeafToOneBlock:
    """A server that never hears the requests for one block."""

    def __init__(self, core, number):
        self.core = core
        self.number = number
        self.next_timeout = core.next_timeout
        self.handle_timeout = core.handle_timeout
        self.datagrams_to_send = core.datagrams_to_send
        self.path_failed = core.path_failed

    def datagram_received(self, data, path, now):
        value = decode(data).options.uint(BLOCK2)
        if value is None or value >> 4 != self.number:
            self.core.datagram_received(data, path, now)


def test_a_server_that_lets_blocks_trickle_comes_to_an_end(monkeypatch):
    monkeypatch.setattr(download, "LEAST_TIME", 3600.0)
    downloading = Downloading(bytes(200 * BLOCK))
    downloading.begin()
    for blocks in range(1, 200):
        downloading.world.run_until(lambda blocks=blocks: len(downloading.received) >= blocks or downloading.outcomes)
        if downloading.outcomes:
            break
        downloading.world.partition(downloading.host, downloading.server.host)
        downloading.world.run_for(3600)
        downloading.world.heal()

    (outcome,) = downloading.outcomes
    assert (outcome.ok, outcome.reason) == (False, download.TOO_SLOW)
    longest = download.LEAST_TIME + 200 * BLOCK / download.LEAST_RATE
    assert longest < downloading.world.now < longest + 3 * 3600


@pytest.mark.parametrize("part", [None, CONTENT[: 10 * BLOCK]], ids=["from the start", "after a restart"])
def test_a_content_that_is_named_as_another_is_refused_at_its_first_block(part):
    downloading = Downloading(CONTENT)
    if part is not None:
        downloading.files.content[downloading.part()] = part
        downloading.trusted[0] = len(part)
    path = f"/firmware/{downloading.artifacts[0].sha256}"
    downloading.server.say("GET", path, Response(codes.CONTENT, CONTENT, OCTET_STREAM, etag=b"another!"))

    outcome = downloading.run()

    assert (outcome.ok, outcome.reason) == (False, download.FAILED)
    assert b"another!".hex() in outcome.output
    assert downloading.received == []


@pytest.mark.parametrize("operation", ["write_at", "fsync", "rename"])
def test_a_full_disk_is_told_as_that(operation):
    downloading = Downloading(CONTENT)
    downloading.files.is_full = lambda done, path: done == operation

    outcome = downloading.run()

    assert (outcome.ok, outcome.reason) == (False, "no_space")
    assert "No space left" in outcome.output


def test_a_disk_that_fills_up_in_the_middle_is_told_as_that():
    downloading = Downloading(CONTENT)
    downloading.files.is_full = lambda done, path: len(downloading.received) > 10

    assert downloading.run().reason == "no_space"
    assert len(downloading.received) == 11


def test_a_disk_that_is_broken_is_no_full_one():
    downloading = Downloading(CONTENT)

    def fail(operation, path):
        raise OSError(errno.EIO, "Input/output error", path)

    downloading.files.is_full = fail

    assert downloading.run().reason == download.FAILED


@pytest.mark.parametrize("when", ["during a block", "while it waits"])
def test_what_is_stopped_tells_nothing_and_writes_nothing_any_more(when):
    downloading = Downloading(CONTENT)
    downloading.begin()
    downloading.world.run_until(lambda: len(downloading.received) == 5)
    if when == "while it waits":
        downloading.world.partition(downloading.host, downloading.server.host)
        downloading.world.run_for(100)
    before = dict(downloading.files.content)

    downloading.download.stop()
    downloading.world.heal()
    downloading.world.run_for(1000)

    assert downloading.outcomes == []
    assert downloading.files.content == before


def test_what_is_stopped_before_it_asked_asks_for_nothing():
    downloading = Downloading(CONTENT)
    downloading.progress = Stopping(downloading)

    downloading.begin()
    downloading.world.run_for(1000)

    assert (downloading.server.asked, downloading.outcomes) == ([], [])


class Stopping(list):
    """Stops the download when it tells its progress."""

    def __init__(self, downloading):
        self.downloading = downloading

    def append(self, told):
        self.downloading.download.stop()


def test_an_endpoint_without_room_is_waited_for():
    downloading = Downloading(CONTENT, limits=Limits(queued_messages=0))
    blocked = []
    begin = downloading.begin
    begin()
    downloading.download.stop()
    downloading.world.run_for(1.0)  # until the server has been heard of
    endpoint = downloading.host.machine.endpoint
    endpoint.request(codes.GET, SERVER, blocked.append, downloading.world.now, uri_path=("nodes",))

    downloading.download = Download(
        downloading.download._downloads, downloading.artifacts, trusted=lambda index, size: 0,
        progressed=lambda index, offset: None, received=lambda done, total: None, done=downloading.outcomes.append,
    )  # fmt: skip
    downloading.download.start()
    downloading.host.wake()
    downloading.world.run_until(lambda: bool(downloading.outcomes))

    assert downloading.outcomes == [Answer(ok=True)]


def test_everything_is_removed_when_no_job_needs_it():
    downloading = Downloading(CONTENT)
    downloads = downloading.begin()
    downloading.world.run_until(lambda: len(downloading.received) == 5)
    downloading.download.stop()
    downloading.files.content[downloads.file(downloading.artifacts[0])] = b"x"

    downloads.clear()

    assert downloading.files.content == {}
