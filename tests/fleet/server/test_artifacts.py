"""The store of contents, by itself: room, reservations, claims, and contents as files."""

from __future__ import annotations

import hashlib
import io
import random

import pytest

from fleet.server.artifacts import SYNC_STEP, ArtifactStore, StoreFullError
from tests.fleet.pretended import MemoryFiles


def store_of(files, quota=1000):
    return ArtifactStore(files, "store", quota)


def put(store, *pieces):
    incoming = store.begin(None)
    for piece in pieces:
        incoming.write(piece)
    return incoming.keep()


def test_a_content_is_known_by_the_hash_of_what_came():
    files = MemoryFiles()
    store = store_of(files)

    digest = put(store, b"two ", b"pieces")

    assert digest == hashlib.sha256(b"two pieces").hexdigest()
    assert store.digests() == [digest]
    source = store.source(digest)
    assert (source.size, source.read_at(4, 100), source.etag.hex()) == (10, b"pieces", digest[:16])
    assert files.names("store/incoming") == []


def test_what_is_not_there_has_no_source_and_no_file():
    store = store_of(MemoryFiles())

    assert store.source("0" * 64) is None
    with pytest.raises(FileNotFoundError):
        store.open("0" * 64)


def test_bytes_are_counted_once_whatever_becomes_of_an_upload():
    store = store_of(MemoryFiles())
    kept = put(store, bytes(300))
    put(store, bytes(300))
    dropped = store.begin(None)
    dropped.write(bytes(200))
    assert store.used == 500

    dropped.drop()
    dropped.drop()
    assert store.used == 300
    store.remove(kept)
    store.remove(kept)
    assert store.used == 0


def test_a_new_store_over_old_files_counts_what_is_there():
    files = MemoryFiles()
    put(store_of(files), bytes(300))

    assert store_of(files).used == 300


@pytest.mark.parametrize(("free", "expected", "limit"), [(1 << 30, 701, 700), (50, 51, 50), (0, 1, 0)])
def test_an_announced_upload_has_to_fit(free, expected, limit):
    files = MemoryFiles()
    store = store_of(files)
    put(store, bytes(300))
    files.free = free

    with pytest.raises(StoreFullError) as error:
        store.begin(expected)

    assert error.value.limit == limit
    store.begin(expected - 1)


def test_several_uploads_at_once_cannot_exceed_the_quota_together():
    store = store_of(MemoryFiles())
    one, other = store.begin(600), store.begin(600)
    one.write(bytes(600))
    other.write(bytes(400))

    with pytest.raises(StoreFullError) as error:
        other.write(b"x")

    assert error.value.limit == 400, "the whole body may be as long as what it has written and what is left"
    assert store.used == 1000


def test_a_claimed_content_stays_until_the_last_claim_is_gone():
    store = store_of(MemoryFiles())
    digest = put(store, b"content")
    store.claim(digest)
    store.claim(digest)

    store.remove(digest)
    store.unclaim(digest)
    store.remove(digest)
    assert store.source(digest) is not None
    store.unclaim(digest)
    store.remove(digest)
    assert store.source(digest) is None


def test_a_content_is_on_the_disk_before_it_has_its_name():
    files = MemoryFiles()
    done = []
    files.is_full = lambda operation, path: done.append(operation) is not None

    put(store_of(files, 1 << 30), bytes(SYNC_STEP), b"x")

    assert done == ["append", "fsync", "append", "fsync", "rename"]


def test_an_empty_content_is_one_too():
    store = store_of(MemoryFiles())

    assert store.source(put(store)).size == 0


def test_a_content_reads_like_a_file():
    files = MemoryFiles()
    content = bytes(range(200))
    digest = put(store_of(files), content)
    ours, real = store_of(files).open(digest), io.BytesIO(content)
    chance = random.Random(7)

    for _ in range(500):
        step = chance.choice(("seek", "end", "here", "read", "rest"))
        number = chance.randrange(250)
        if step == "seek":
            assert ours.seek(number) == real.seek(number)
        elif step == "end":
            assert ours.seek(-min(number, 200), io.SEEK_END) == real.seek(-min(number, 200), io.SEEK_END)
        elif step == "here":
            assert ours.seek(3, io.SEEK_CUR) == real.seek(3, io.SEEK_CUR)
        else:
            assert ours.read(number if step == "read" else -1) == real.read(number if step == "read" else -1)
        assert ours.tell() == real.tell()
    assert ours.readable() and ours.seekable()


def test_what_the_disk_does_not_let_go_of_stays_counted_and_goes_at_the_next_start(monkeypatch):
    files = MemoryFiles()
    store = store_of(files)
    digest = put(store, b"content")
    unfinished = store.begin(None)
    unfinished.write(b"part")

    def broken(path):
        raise OSError("the disk is broken")

    with monkeypatch.context() as patch:
        patch.setattr(files, "remove", broken)
        store.remove(digest)
        unfinished.drop()

    assert store.used == 11
    assert store.digests() == [digest]
    store = store_of(files)
    assert store.used == 7
    store.remove(digest)
    assert (store.used, store.digests()) == (0, [])
