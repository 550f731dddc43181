"""Downloads and uploads of files and sinks through sockets: resumed, hashed, told of, and whole in the end."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import stat
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from minicoap import (
    BodyError,
    BytesSource,
    Endpoint,
    FileSink,
    FileSource,
    Limits,
    Request,
    RequestTimeout,
    Resource,
    Response,
    Site,
    StorageError,
    TraceEvent,
    TransferState,
    TransmissionParameters,
    UsageError,
    codes,
    options,
)
from minicoap.asyncio import partfile, uploadstate

BODY = b"".join(n.to_bytes(4, "big") for n in range(16 * 256))  # 16 KiB
QUICK = TransmissionParameters(ack_timeout=0.05, max_retransmit=2, congestion_controlled=True)


class Server:
    """A body under /body, which may be replaced, and which fails from a block on if told so."""

    def __init__(self) -> None:
        self.body, self.etag = BODY, b"v1"
        self.fails_at = 1 << 30
        self.asked: list[int] = []
        self.received: list[bytes] = []

    @property
    def size(self) -> int:
        return len(self.body)

    def read_at(self, offset: int, length: int) -> bytes:
        self.asked.append(offset)
        if offset >= self.fails_at:
            raise OSError(5, "I/O error")
        return self.body[offset : offset + length]

    def take(self, request: Request) -> Response:
        self.received.append(request.payload)
        return Response(codes.CHANGED, str(len(request.payload)).encode())

    def site(self) -> Site:
        return Site(
            Resource("/body", get=lambda _: Response(payload=self), put=self.take, post=self.take),
            Resource("/small", get=lambda _: Response(payload=b"small")),
            Resource("/empty", get=lambda _: Response(payload=b"")),
            Resource("/nameless", get=lambda _: Response(payload=Nameless())),
        )


class Nameless:
    size, etag = len(BODY), None

    def read_at(self, offset: int, length: int) -> bytes:
        return BODY[offset : offset + length]


class Memory:
    def __init__(self) -> None:
        self.data = bytearray()

    def begin(self, response: Response, size: Optional[int]) -> None:
        self.size = size

    def write_at(self, offset: int, data: bytes) -> None:
        self.data[offset:] = data


def run(scenario: Callable[[Endpoint, str, Server], Awaitable[None]], **arguments: Any) -> Server:
    """Run `scenario(client, uri of the server, server)`."""
    served = Server()

    async def main() -> None:
        async with Endpoint(served.site()) as server, Endpoint(parameters=QUICK, **arguments) as client:
            await server.serve("coap://127.0.0.1:0")
            await asyncio.wait_for(scenario(client, server.local_uri, served), 30)  # type: ignore[arg-type]

    asyncio.run(main())
    return served


def beside(path: Path) -> list[str]:
    return sorted(each.name for each in path.iterdir())


# Files


@pytest.mark.parametrize("window", [1, 8])
@pytest.mark.parametrize("what", ["body", "small", "empty", "nameless"])
def test_file_gets_its_name_when_it_is_whole(tmp_path: Path, what: str, window: int) -> None:
    async def scenario(client: Endpoint, uri: str, server: Server) -> None:
        response = await client.download(f"{uri}/{what}", tmp_path / "it", window=window)
        assert (response.code, response.body) == (codes.CONTENT, b"")

    run(scenario)
    assert (tmp_path / "it").read_bytes() == {"small": b"small", "empty": b""}.get(what, BODY)
    assert beside(tmp_path) == ["it"]


@pytest.mark.parametrize("with_digest", [False, True])
@pytest.mark.parametrize("window", [1, 8])
def test_broken_download_leaves_a_part_that_the_next_one_goes_on_with(
    tmp_path: Path, window: int, with_digest: bool
) -> None:
    digest = hashlib.sha256() if with_digest else None

    async def scenario(client: Endpoint, uri: str, server: Server) -> None:
        server.fails_at = 8192
        refused = await client.download(f"{uri}/body", str(tmp_path / "it"), window=window)
        assert refused.code == codes.INTERNAL_SERVER_ERROR
        assert beside(tmp_path) == ["it.part", "it.part.state"]
        state = TransferState.from_dict(json.loads((tmp_path / "it.part.state").read_text()))
        assert state == TransferState(f"{uri}/body", b"v1", 8192)
        server.fails_at = 1 << 30
        server.asked.clear()
        await client.download(f"{uri}/body", str(tmp_path / "it"), window=window, digest=digest)
        assert min(server.asked) == 7168  # one block twice, to see that it is the same

    run(scenario)
    assert (tmp_path / "it").read_bytes() == BODY
    assert beside(tmp_path) == ["it"]
    if digest is not None:
        assert digest.digest() == hashlib.sha256(BODY).digest()


def test_whole_part_without_its_name_costs_one_block(tmp_path: Path) -> None:
    async def scenario(client: Endpoint, uri: str, server: Server) -> None:
        (tmp_path / "it.part").write_bytes(BODY)
        state = TransferState(f"{uri}/body", b"v1", len(BODY))
        (tmp_path / "it.part.state").write_text(json.dumps(state.as_dict()))
        await client.download(f"{uri}/body", tmp_path / "it")

    server = run(scenario)
    assert server.asked == [len(BODY) - 1024]
    assert (tmp_path / "it").read_bytes() == BODY


def test_cancelled_download_is_saved(tmp_path: Path) -> None:
    async def scenario(client: Endpoint, uri: str, server: Server) -> None:
        task: Any = None

        def progress(state: TransferState, size: Optional[int]) -> None:
            assert size == len(BODY)
            if state.offset == 4096:
                task.cancel()

        task = asyncio.ensure_future(client.download(f"{uri}/body", tmp_path / "it", progress=progress))
        with pytest.raises(asyncio.CancelledError):
            await task
        state = TransferState.from_dict(json.loads((tmp_path / "it.part.state").read_text()))
        assert state.offset >= 4096
        assert (tmp_path / "it.part").read_bytes()[: state.offset] == BODY[: state.offset]

    run(scenario)


def test_state_is_saved_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partfile, "SYNC_STEP", 4096)
    saved: list[int] = []

    def progress(state: TransferState, size: Optional[int]) -> None:
        if os.path.exists(tmp_path / "it.part.state"):
            saved.append(json.loads((tmp_path / "it.part.state").read_text())["offset"])

    async def scenario(client: Endpoint, uri: str, server: Server) -> None:
        await client.download(f"{uri}/body", tmp_path / "it", progress=progress)

    run(scenario)
    assert sorted(set(saved)) == [4096, 8192, 12288, 16384]


@pytest.mark.parametrize("restart", [False, True])
def test_other_body_ends_the_download_or_begins_it_anew(tmp_path: Path, restart: bool) -> None:
    digest = hashlib.sha256()

    async def scenario(client: Endpoint, uri: str, server: Server) -> None:
        server.fails_at = 8192
        await client.download(f"{uri}/body", tmp_path / "it")
        server.fails_at, server.body, server.etag = 1 << 30, BODY[::-1][:9000], b"v2"
        download = client.download(f"{uri}/body", tmp_path / "it", restart=restart, digest=digest)
        if restart:
            assert (await download).is_success
        else:
            with pytest.raises(BodyError):
                await download
            assert beside(tmp_path) == ["it.part", "it.part.state"]

    run(scenario)
    if restart:
        assert (tmp_path / "it").read_bytes() == BODY[::-1][:9000]
        assert digest.digest() == hashlib.sha256(BODY[::-1][:9000]).digest()


def test_crash_while_another_body_is_fetched_leaves_nothing_that_is_taken_for_the_first(tmp_path: Path) -> None:
    states: list[bool] = []
    sizes: list[int] = []

    def progress(state: TransferState, size: Optional[int]) -> None:
        states.append((tmp_path / "it.part.state").exists())
        sizes.append((tmp_path / "it.part").stat().st_size)

    async def scenario(client: Endpoint, uri: str, server: Server) -> None:
        server.fails_at = 8192
        await client.download(f"{uri}/body", tmp_path / "it")
        server.fails_at, server.body, server.etag = 1 << 30, BODY[::-1], b"v2"
        await client.download(f"{uri}/body", tmp_path / "it", restart=True, progress=progress)

    run(scenario)
    assert not any(states)
    assert sizes[0] == 1024
    assert (tmp_path / "it").read_bytes() == BODY[::-1]


@pytest.mark.parametrize(
    "change",
    [
        {"uri": "coap://127.0.0.1/other"},
        {"etag": None},
        {"offset": 9000},
        {"szx": 9},
        "not JSON",
        '{"uri": 1}',
        "[]",
    ],
)
def test_state_that_cannot_be_believed_is_left_aside(tmp_path: Path, change: Any) -> None:
    async def scenario(client: Endpoint, uri: str, server: Server) -> None:
        (tmp_path / "it.part").write_bytes(b"#" * 8192)
        fields = TransferState(f"{uri}/body", b"v1", 8192).as_dict()
        text = change if isinstance(change, str) else json.dumps({**fields, **change})
        (tmp_path / "it.part.state").write_text(text)
        await client.download(f"{uri}/body", tmp_path / "it")

    assert run(scenario).asked[0] == 0
    assert (tmp_path / "it").read_bytes() == BODY
    assert beside(tmp_path) == ["it"]


@pytest.mark.parametrize("confirmable", [False, True])
def test_q_block_carries_files_both_ways_and_resumes(tmp_path: Path, confirmable: bool) -> None:
    async def scenario(client: Endpoint, uri: str, server: Server) -> None:
        common: dict[str, Any] = {"qblock": True, "confirmable": confirmable}
        (tmp_path / "it.part").write_bytes(BODY[:4096])
        state = TransferState(f"{uri}/body", b"v1", 4096)
        (tmp_path / "it.part.state").write_text(json.dumps(state.as_dict()))
        digest = hashlib.sha256()
        await client.download(f"{uri}/body", tmp_path / "it", digest=digest, **common)
        assert digest.digest() == hashlib.sha256(BODY).digest()
        assert (await client.upload(f"{uri}/body", tmp_path / "it", **common)).is_success
        assert (await client.put(f"{uri}/body", BODY, **common)).is_success

    server = run(scenario)
    assert min(server.asked) == 3072  # the last block that is there shows whether it is the same body
    assert (tmp_path / "it").read_bytes() == BODY
    assert server.received == [BODY, BODY]
    assert beside(tmp_path) == ["it"]


@pytest.mark.parametrize("qblock", [False, True])
def test_file_that_is_there_already_by_its_etag_stays_as_it_is(tmp_path: Path, qblock: bool) -> None:
    """RFC 7252 §5.9.1.3: a 2.03 stands for what the client has."""
    (tmp_path / "it").write_bytes(BODY)

    async def scenario(client: Endpoint, uri: str, server: Server) -> None:
        options = [(4, b"v1"), (4, b"v0")]
        response = await client.download(f"{uri}/body", tmp_path / "it", options=options, qblock=qblock)
        assert (response.code, response.etag) == (codes.VALID, b"v1")
        assert (tmp_path / "it").read_bytes() == BODY
        server.body, server.etag = BODY[::-1], b"v2"
        response = await client.download(f"{uri}/body", tmp_path / "it", options=options, qblock=qblock)
        assert (response.code, response.etag) == (codes.CONTENT, b"v2")

    run(scenario)
    assert (tmp_path / "it").read_bytes() == BODY[::-1]
    assert beside(tmp_path) == ["it"]


def test_refused_download_leaves_all_alone(tmp_path: Path) -> None:
    async def scenario(client: Endpoint, uri: str, server: Server) -> None:
        (tmp_path / "it").write_bytes(b"kept")
        assert (await client.download(f"{uri}/nothing", tmp_path / "it")).code == codes.NOT_FOUND

    run(scenario)
    assert (tmp_path / "it").read_bytes() == b"kept"
    assert beside(tmp_path) == ["it"]


def test_what_is_no_file_is_written_to_as_it_is(tmp_path: Path) -> None:
    device = tmp_path / "null"
    try:
        os.mknod(device, stat.S_IFCHR | 0o600, os.makedev(1, 3))
        device.write_bytes(b"")
    except PermissionError:
        pytest.skip("devices can be made by root only, and used where the file system allows them")

    async def scenario(client: Endpoint, uri: str, server: Server) -> None:
        assert (await client.download(f"{uri}/body", str(device), window=4)).is_success

    run(scenario)
    assert device.is_char_device()


def test_trouble_with_files_is_a_storage_error_that_names_them(tmp_path: Path) -> None:
    async def scenario(client: Endpoint, uri: str, server: Server) -> None:
        with pytest.raises(StorageError, match="no/such"):
            await client.download(f"{uri}/body", tmp_path / "no/such")
        (tmp_path / "directory").mkdir()
        with pytest.raises(StorageError, match="directory"):
            await client.download(f"{uri}/body", tmp_path / "directory")
        with pytest.raises(StorageError, match="no/such"):
            await client.upload(f"{uri}/body", tmp_path / "no/such")

    run(scenario)
    with pytest.raises(StorageError, match="no/such"):
        FileSource(str(tmp_path / "no/such"))


def test_discarded_part_is_gone(tmp_path: Path) -> None:
    for name in ("it.part", "it.part.state"):
        (tmp_path / name).write_bytes(b"x")
    partfile.discard_part(str(tmp_path / "it"))
    partfile.discard_part(str(tmp_path / "it"))
    assert beside(tmp_path) == []
    (tmp_path / "it.part").mkdir()
    with pytest.raises(StorageError, match=r"it\.part"):
        partfile.discard_part(str(tmp_path / "it"))


# Sinks


@pytest.mark.parametrize("window", [1, 8])
def test_sink_is_resumed_by_a_state(window: int) -> None:
    states: list[TransferState] = []

    async def scenario(client: Endpoint, uri: str, server: Server) -> None:
        sink, digest = Memory(), hashlib.sha256()
        server.fails_at = 8192
        await client.download(f"{uri}/body", sink, window=window, progress=lambda state, size: states.append(state))
        state = TransferState.from_dict(json.loads(json.dumps(states[-1].as_dict())))
        assert state == TransferState(f"{uri}/body", b"v1", 8192)
        server.fails_at = 1 << 30
        digest.update(sink.data[: state.resume_at])
        await client.download(f"{uri}/body", sink, resume=state, window=window, digest=digest)
        assert sink.data == BODY
        assert digest.digest() == hashlib.sha256(BODY).digest()
        with pytest.raises(UsageError, match="not of"):
            await client.download(f"{uri}/small", sink, resume=state)
        with pytest.raises(UsageError, match="beside"):
            await client.download(f"{uri}/body", "name", resume=state)

    run(scenario)


def test_sink_can_stop_the_download() -> None:
    class Careful(Memory):
        def begin(self, response: Response, size: Optional[int]) -> None:
            raise BodyError(f"{size} bytes with {response.etag!r} are not wanted")

    async def scenario(client: Endpoint, uri: str, server: Server) -> None:
        with pytest.raises(BodyError, match=f"{len(BODY)} bytes with b'v1'"):
            await client.download(f"{uri}/body", Careful())

    run(scenario)


@pytest.mark.parametrize("what", ["sink", "progress", "upload"])
def test_callback_that_fails_ends_the_transfer_and_is_named(what: str) -> None:
    class Broken(Memory):
        def write_at(self, offset: int, data: bytes) -> None:
            raise ZeroDivisionError("of mine")

    def progress(state: TransferState, size: Optional[int]) -> None:
        raise ZeroDivisionError("of mine")

    async def scenario(client: Endpoint, uri: str, server: Server) -> None:
        with pytest.raises(UsageError, match="of mine") as raised:
            if what == "sink":
                await client.download(f"{uri}/body", Broken())
            elif what == "progress":
                await client.download(f"{uri}/body", Memory(), progress=progress)
            else:
                await client.upload(f"{uri}/body", BODY, progress=progress)
        assert isinstance(raised.value.__cause__, ZeroDivisionError)
        assert (await client.get(f"{uri}/small")).text == "small"

    run(scenario)


def test_small_blocks_can_be_asked_for() -> None:
    async def scenario(client: Endpoint, uri: str, server: Server) -> None:
        sink = Memory()
        await client.download(f"{uri}/body", sink, szx=2, window=16)
        assert sink.data == BODY
        assert len(server.asked) >= len(BODY) // 64
        assert (await client.get(f"{uri}/body", szx=0)).body == BODY

    run(scenario)


def test_endpoint_with_small_blocks_uses_no_others() -> None:
    async def scenario(client: Endpoint, uri: str, server: Server) -> None:
        assert (await client.get(f"{uri}/body")).body == BODY
        assert len(server.asked) == len(BODY) // 256
        assert (await client.put(f"{uri}/body", BODY)).text == str(len(BODY))

    run(scenario, limits=Limits(block_szx=4))


def test_silence_in_the_middle_is_a_timeout(tmp_path: Path) -> None:
    async def scenario(client: Endpoint, uri: str, server: Server) -> None:
        def progress(state: TransferState, size: Optional[int]) -> None:
            if state.offset == 4096:
                client._shell._receive = lambda _: (_ for _ in ()).throw(BlockingIOError())  # type: ignore[union-attr,assignment]

        with pytest.raises(RequestTimeout):
            await client.download(f"{uri}/body", tmp_path / "it", window=4, progress=progress)
        assert beside(tmp_path) == ["it.part", "it.part.state"]

    run(scenario)


# Uploads


@pytest.mark.parametrize("how", ["bytes", "name", "path", "source"])
def test_upload_takes_bytes_names_and_sources(tmp_path: Path, how: str) -> None:
    (tmp_path / "it").write_bytes(BODY)
    seen: list[tuple[TransferState, Optional[int]]] = []

    async def scenario(client: Endpoint, uri: str, server: Server) -> None:
        name = str(tmp_path / "it")
        with FileSource(name) as file:
            source = {"bytes": BODY, "name": name, "path": tmp_path / "it", "source": file}[how]
            response = await client.upload(
                f"{uri}/body", source, code=codes.POST, progress=lambda state, size: seen.append((state, size))
            )
        assert response.text == str(len(BODY))
        assert [state.offset for state, _ in seen] == list(range(1024, len(BODY) + 1, 1024))
        state, size = seen[0]
        assert (state.uri, state.offset, state.size, size) == (f"{uri}/body", 1024, len(BODY), len(BODY))
        assert state.tag is not None and len(state.tag) == 8
        assert {state._replace(offset=0) for state, _ in seen} == {state._replace(offset=0)}

    assert run(scenario).received == [BODY]


class Blocks:
    """What a server is sent by Block1, as its endpoint's trace sees it: the block's offset and the Request-Tag."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, Optional[bytes]]] = []

    def __call__(self, event: TraceEvent) -> None:
        message = event.message
        if event.direction == "sent" and message is not None:
            value = message.options.uint(options.BLOCK1)
            if value is not None:
                self.sent.append((value >> 4 << (value & 7) + 4, message.options.get(options.REQUEST_TAG)))

    def offsets(self) -> list[int]:
        sent, self.sent = self.sent, []
        return [offset for offset, _ in sent]


class Broken(Exception):
    """The user has had enough."""


def until(offset: int, seen: list[TransferState]) -> Callable[[TransferState, Optional[int]], None]:
    """Something to be told of progress, that ends the upload when it is so far."""

    def moved_on(state: TransferState, size: Optional[int]) -> None:
        seen.append(state)
        if state.offset >= offset:
            raise Broken

    return moved_on


@pytest.mark.parametrize("window", [1, 4])
def test_upload_goes_on_from_a_state(window: int) -> None:
    blocks = Blocks()
    digest = hashlib.sha256()

    async def scenario(client: Endpoint, uri: str, server: Server) -> None:
        seen: list[TransferState] = []
        with pytest.raises(UsageError):
            await client.upload(f"{uri}/body", BODY, window=window, any_order=True, progress=until(6000, seen))
        state = TransferState.from_dict(json.loads(json.dumps(seen[-1].as_dict())))
        tags = {tag for _, tag in blocks.sent}
        blocks.offsets()
        response = await client.upload(f"{uri}/body", BODY, window=window, any_order=True, resume=state, digest=digest)
        assert response.is_success
        assert {tag for _, tag in blocks.sent} == tags == {state.tag}
        assert blocks.offsets() == list(range(state.offset, len(BODY), 1024))

    assert run(scenario, trace=blocks).received == [BODY]
    assert digest.digest() == hashlib.sha256(BODY).digest()


@pytest.mark.parametrize("what", ["content", "length", "no tag", "no etag"])
def test_upload_of_another_body_begins_anew_with_another_tag(what: str) -> None:
    blocks = Blocks()
    body = {"content": BODY[::-1], "length": BODY[:-1]}.get(what, BODY)

    async def scenario(client: Endpoint, uri: str, server: Server) -> None:
        seen: list[TransferState] = []
        with pytest.raises(UsageError):
            await client.upload(f"{uri}/body", BODY, progress=until(6000, seen))
        state = seen[-1]
        if what == "no tag":
            state = state._replace(tag=None)
        if what == "no etag":
            state = state._replace(etag=None)
        blocks.offsets()
        await client.upload(f"{uri}/body", body, resume=state)
        assert {tag for _, tag in blocks.sent} & {state.tag, None} == set()
        assert blocks.offsets() == list(range(0, len(body), 1024))

    assert run(scenario, trace=blocks).received == [body]


def test_source_of_another_length_is_another_whatever_it_is_called() -> None:
    blocks = Blocks()

    async def scenario(client: Endpoint, uri: str, server: Server) -> None:
        state = TransferState(f"{uri}/body", b"same", 8192, 6, len(BODY) + 1, b"the tag")
        await client.upload(f"{uri}/body", BytesSource(BODY, b"same"), resume=state)
        assert b"the tag" not in {tag for _, tag in blocks.sent}
        assert blocks.offsets()[0] == 0

    assert run(scenario, trace=blocks).received == [BODY]


def test_upload_of_which_all_was_taken_sends_its_last_block_for_the_answer() -> None:
    blocks = Blocks()

    async def scenario(client: Endpoint, uri: str, server: Server) -> None:
        state = TransferState(f"{uri}/body", BytesSource(BODY).etag, len(BODY), 6, len(BODY), b"the tag")
        await client.upload(f"{uri}/body", BODY, resume=state)
        assert blocks.offsets()[0] == len(BODY) - 1024

    assert run(scenario, trace=blocks).received == [BODY]


def test_record_stays_where_the_upload_was_refused(tmp_path: Path) -> None:
    record = tmp_path / "record"

    async def scenario(client: Endpoint, uri: str, server: Server) -> None:
        state = TransferState(f"{uri}/small", BytesSource(BODY).etag, 0, 6, len(BODY), b"the tag")
        record.write_text(json.dumps(state.as_dict()))
        assert (await client.upload(f"{uri}/small", BODY, resume=record)).code == codes.METHOD_NOT_ALLOWED
        assert record.exists()

    run(scenario)


def test_upload_that_the_server_has_let_go_of_begins_anew() -> None:
    seen: list[TransferState] = []

    async def scenario(client: Endpoint, uri: str, server: Server) -> None:
        etag = BytesSource(BODY).etag
        state = TransferState(f"{uri}/body", etag, 8192, 6, len(BODY), b"the tag")
        await client.upload(f"{uri}/body", BODY, resume=state, progress=lambda state, _: seen.append(state))

    assert run(scenario).received == [BODY]
    assert (seen[0].offset, seen[-1].offset) == (0, len(BODY))


def test_states_of_other_uploads_are_refused() -> None:
    async def scenario(client: Endpoint, uri: str, server: Server) -> None:
        with pytest.raises(UsageError):
            await client.upload(f"{uri}/body", BODY, resume=TransferState(f"{uri}/other"))
        with pytest.raises(UsageError):
            await client.upload(f"{uri}/body", BODY, resume=TransferState(f"{uri}/body"), qblock=True)

    assert run(scenario).received == []


def test_upload_of_a_file_goes_on_by_what_another_file_says(tmp_path: Path) -> None:
    blocks = Blocks()
    (tmp_path / "it").write_bytes(BODY)

    async def scenario(client: Endpoint, uri: str, server: Server) -> None:
        record = tmp_path / "it.upload"
        with pytest.raises(UsageError):
            await client.upload(f"{uri}/body", tmp_path / "it", resume=record, progress=until(6000, []))
        assert beside(tmp_path) == ["it", "it.upload"]
        offset = json.loads(record.read_text())["offset"]
        assert offset == 6144
        blocks.offsets()
        assert (await client.upload(f"{uri}/body", tmp_path / "it", resume=record, window=4)).is_success
        assert blocks.offsets() == list(range(offset, len(BODY), 1024))
        assert beside(tmp_path) == ["it"]

    assert run(scenario, trace=blocks).received == [BODY]


@pytest.mark.parametrize("text", ["", "{}", "[1]", "\xff", '{"uri": "coap://elsewhere/x"}', "other"])
def test_record_that_is_none_of_ours_is_as_good_as_none(tmp_path: Path, text: str) -> None:
    if text == "other":
        text = json.dumps(TransferState("coap://h/x", b"e", 1024, 6, len(BODY), b"t").as_dict())
    (tmp_path / "record").write_text(text, encoding="latin-1")

    async def scenario(client: Endpoint, uri: str, server: Server) -> None:
        await client.upload(f"{uri}/body", BODY, resume=tmp_path / "record")
        assert beside(tmp_path) == []

    assert run(scenario).received == [BODY]


def test_record_is_written_on_the_way_for_a_process_that_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploadstate, "SAVE_STEP", 4096)
    written: list[int] = []

    async def scenario(client: Endpoint, uri: str, server: Server) -> None:
        def moved_on(state: TransferState, size: Optional[int]) -> None:
            if beside(tmp_path):
                written.append(json.loads((tmp_path / "record").read_text())["offset"])

        await client.upload(f"{uri}/body", BODY, resume=tmp_path / "record", progress=moved_on)

    run(scenario)
    assert sorted(set(written)) == [4096, 8192, 12288, 16384]


def test_record_that_cannot_be_kept_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploadstate, "SAVE_STEP", 1024)

    async def scenario(client: Endpoint, uri: str, server: Server) -> None:
        with pytest.raises(StorageError):
            await client.upload(f"{uri}/body", BODY, resume=tmp_path / "nowhere" / "record")
        with pytest.raises(StorageError):
            await client.upload(f"{uri}/body", BODY, resume=tmp_path)

    run(scenario)


def test_uploads_at_once_do_not_mix() -> None:
    bodies = [bytes([n]) * 5000 for n in range(8)]

    async def scenario(client: Endpoint, uri: str, server: Server) -> None:
        await asyncio.gather(*(client.upload(f"{uri}/body", body, tagged=True) for body in bodies))

    assert sorted(run(scenario).received) == bodies


def test_etag_of_a_file_changes_with_it(tmp_path: Path) -> None:
    name = tmp_path / "it"
    etags = []
    for body in (b"one", b"two", b"three"):
        name.write_bytes(body)
        os.utime(name, ns=(0, len(etags)))
        with FileSource(str(name)) as first, FileSource(str(name)) as second:
            assert first.etag == second.etag
            etags.append(first.etag)
    assert len(set(etags)) == 3
    with FileSource(str(name), etag=b"mine") as named:
        assert named.etag == b"mine"


def test_plain_file_sink_is_emptied_by_the_first_block(tmp_path: Path) -> None:
    (tmp_path / "it").write_bytes(b"#" * 20_000)

    async def scenario(client: Endpoint, uri: str, server: Server) -> None:
        with FileSink(str(tmp_path / "it")) as sink:
            await client.get(f"{uri}/body", sink=sink)

    run(scenario)
    assert (tmp_path / "it").read_bytes() == BODY
