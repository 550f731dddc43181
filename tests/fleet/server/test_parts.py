"""Uploads that say what their content's hash is: what came of them stays, and anybody goes on with it."""

from __future__ import annotations

import hashlib
import os
from collections import Counter

import pytest

from fleet.server import parts
from fleet.server.artifacts import ArtifactStore, StoreFullError
from fleet.server.parts import PART_LIFETIME, PART_LIMIT
from minicoap.codec import codes
from minicoap.codec.contentformats import OCTET_STREAM
from minicoap.codec.message import decode
from minicoap.codec.options import BLOCK1, IF_MATCH, IF_NONE_MATCH
from minicoap.core.endpoint import EndpointCore
from tests.fleet.pretended import MemoryFiles
from tests.fleet.server.serving import SERVER, Client, Served, document

GET, PUT, DELETE = codes.GET, codes.PUT, codes.DELETE
CONTENT = bytes(range(256)) * 80  # twenty blocks
SHA256 = hashlib.sha256(CONTENT).hexdigest()
TAG = bytes.fromhex(SHA256[:16])
DAY = 86_400.0


def send(client, content=CONTENT, *, name="f.bin", sha256=SHA256, done=0, **arguments):
    return client.send(
        PUT, "firmware", name, query=(f"sha256={sha256}",), payload=content, content_format=OCTET_STREAM, tag=TAG,
        sent=done // 1024 * 1024, **arguments,
    )  # fmt: skip


def put(served, *arguments, client=None, **more):
    client = client or served.client
    return client.outcome(send(client, *arguments, **more))


def break_off(served, blocks, content=CONTENT, *, sha256=SHA256, name="f.bin", client=None, **arguments):
    """Begin an upload that ends when so many blocks are there, and the client with it."""
    client = client or Client(served, ("192.0.2.66", 1000 + served.world.events % 60000))
    send(client, content, sha256=sha256, name=name, **arguments)
    assert served.world.run_until(lambda: size_of(served, sha256) >= blocks * 1024)
    client.host.crash()
    return client


def size_of(served, sha256=SHA256):
    part = served.server.services.artifacts.parts.find(sha256)
    return 0 if part is None else part.size


def done(served, sha256=SHA256):
    answer = served.client.outcome(served.client.send(GET, "firmware", query=(f"sha256={sha256}",)))
    assert document(answer)["sha256"] == sha256
    return document(answer)["bytes_done"]


def part_files(served):
    return served.files.names("data/artifacts/parts")


def sent_blocks(served, since=0):
    found = []
    for datagram in list(served.world.trace)[since:]:
        message = decode(datagram.data)
        if message.code == PUT and message.options.uint(BLOCK1) is not None:
            found.append(message.options.uint(BLOCK1) >> 4)
    return found


def stored(served, name="f.bin"):
    return served.ask(GET, f"/firmware/{name}").body


def used(served):
    return served.server.services.artifacts.used


# Going on


@pytest.mark.parametrize("window", [1, 8])
@pytest.mark.parametrize("restarted", ["client", "server", "both"])
def test_what_came_stays_and_another_client_goes_on_behind_it(served, restarted, window):
    if restarted == "server":
        send(served.client, window=window)
        assert served.world.run_until(lambda: size_of(served) >= 7 * 1024)
    else:
        break_off(served, 7, window=window)
    if restarted != "client":
        served.boot()
    if restarted == "server":  # and the client has noticed nothing but a while of silence
        assert served.world.run_until(lambda: not size_of(served))
        assert max(sent_blocks(served).count(number) for number in range(20)) <= 3
    else:
        there = done(served)
        assert there >= 7 * 1024
        since = len(served.world.trace)
        assert put(served, done=there, window=window).code == codes.CREATED
        assert sorted(set(sent_blocks(served, since))) == list(range(there // 1024, 20))
    assert stored(served) == CONTENT
    assert (part_files(served), used(served)) == ([], len(CONTENT))


def test_nothing_is_there_of_what_nobody_has_sent(served):
    assert done(served) == 0


def test_client_that_is_wrong_about_how_much_is_there_begins_anew(served):
    break_off(served, 5)

    assert put(served, done=15 * 1024).code == codes.CREATED
    assert stored(served) == CONTENT


def test_client_that_begins_at_the_beginning_is_heard_to_the_end(served):
    break_off(served, 5)

    assert put(served).code == codes.CREATED
    assert stored(served) == CONTENT


def test_part_that_is_whole_needs_its_last_block_only(served):
    served.files.content[f"data/artifacts/parts/{SHA256}"] = CONTENT
    served.boot()

    assert done(served) == len(CONTENT)
    assert put(served, done=len(CONTENT) - 1).code == codes.CREATED
    assert stored(served) == CONTENT


@pytest.mark.parametrize("size", [1, 1500, 10_241])
def test_part_that_ends_within_a_block_goes_on_with_that(served, size):
    served.files.content[f"data/artifacts/parts/{SHA256}"] = CONTENT[:size]
    served.boot()

    assert put(served, done=size).code == codes.CREATED
    assert stored(served) == CONTENT


def test_answer_waits_until_what_an_earlier_server_took_is_hashed(served, monkeypatch):
    monkeypatch.setattr(parts, "HASH_STEP", 100)
    served.files.content[f"data/artifacts/parts/{SHA256}"] = CONTENT[:-1000]
    served.boot()

    outcomes = send(served.client, done=len(CONTENT) - 1)
    assert not served.server.services.artifacts.parts.has_unhashed  # nobody has sent to it yet
    assert served.client.outcome(outcomes).code == codes.CREATED
    assert stored(served) == CONTENT


def test_small_content_in_one_message(served):
    sha256 = hashlib.sha256(b"small").hexdigest()

    answer = served.client.outcome(
        served.client.send(PUT, "firmware", "s", query=(f"sha256={sha256}",), payload=b"small")
    )

    assert (answer.code, stored(served, "s"), part_files(served)) == (codes.CREATED, b"small", [])


def test_nothing_at_all_is_a_content_too(served):
    sha256 = hashlib.sha256(b"").hexdigest()

    answer = served.client.outcome(served.client.send(PUT, "firmware", "s", query=(f"sha256={sha256}",)))

    assert (answer.code, stored(served, "s"), part_files(served)) == (codes.CREATED, b"", [])


def test_two_clients_may_send_the_same_content_at_once(served):
    other = Client(served, ("192.0.2.10", 40000))
    outcomes = [send(served.client, name="a", window=4), send(other, name="b", window=2)]

    assert [served.client.outcome(each).code for each in outcomes] == [codes.CREATED] * 2
    assert (stored(served, "a"), stored(served, "b")) == (CONTENT, CONTENT)
    assert max(Counter(sent_blocks(served)).values()) == 2  # once by each
    assert (part_files(served), used(served)) == ([], len(CONTENT))


def test_two_contents_under_one_name_do_not_mix(served):
    other, content = Client(served, ("192.0.2.10", 40000)), CONTENT[::-1]
    outcomes = [send(served.client), send(other, content, sha256=hashlib.sha256(content).hexdigest())]

    assert {served.client.outcome(each).code for each in outcomes} == {codes.CREATED, codes.CHANGED}
    assert stored(served) in (CONTENT, content)
    assert used(served) == len(CONTENT)


# What is not right


def test_content_with_another_hash_is_refused_and_not_kept(served):
    answer = put(served, CONTENT[::-1])

    assert (answer.code, document(answer)["field"]) == (codes.UNPROCESSABLE_ENTITY, "sha256")
    assert (part_files(served), used(served)) == ([], 0)


def test_part_that_was_damaged_is_noticed_and_sent_anew(served):
    served.files.content[f"data/artifacts/parts/{SHA256}"] = bytes(10 * 1024)
    served.boot()

    assert put(served, done=10 * 1024).code == codes.CREATED
    assert stored(served) == CONTENT


def test_part_that_is_longer_than_the_content_makes_room_for_it(served):
    served.files.content[f"data/artifacts/parts/{SHA256}"] = CONTENT + b"more"
    served.boot()

    assert put(served, done=len(CONTENT) - 1).code == codes.CREATED
    assert stored(served) == CONTENT


@pytest.mark.parametrize("blocks", [2, 15])
def test_client_whose_part_another_one_spoils_begins_anew(served, blocks):
    outcomes = send(served.client)
    assert served.world.run_until(lambda: size_of(served) >= 10 * 1024)
    liar = Client(served, ("192.0.2.10", 40000))

    assert put(served, CONTENT[: blocks * 1024], client=liar).code != codes.CREATED
    assert served.client.outcome(outcomes).code == codes.CREATED
    assert stored(served) == CONTENT
    assert (part_files(served), used(served)) == ([], len(CONTENT))


def test_part_that_cannot_be_read_is_answered(served, monkeypatch):
    served.files.content[f"data/artifacts/parts/{SHA256}"] = CONTENT[:-1000]
    served.boot()
    monkeypatch.setattr(served.files, "read_at", lambda path, offset, length: b"")

    assert put(served, done=len(CONTENT) - 1).code == codes.SERVICE_UNAVAILABLE
    assert used(served) == size_of(served)


@pytest.mark.parametrize("operation", ["write_at", "fsync", "rename"])
def test_disk_that_fails_is_answered_and_what_came_is_counted_once(served, operation):
    break_off(served, 5)
    served.files.is_full = lambda each, path: each == operation and "parts" in path
    assert put(served, done=5 * 1024).code == codes.SERVICE_UNAVAILABLE
    assert used(served) == size_of(served)
    served.world.run_for(1000.0)  # until the server has let go of whom it hears no more of
    assert served.server.services.artifacts.parts.find(SHA256).users == 0

    served.files.is_full = lambda each, path: False
    assert put(served, done=size_of(served) - 1).code == codes.CREATED
    assert (stored(served), used(served)) == (CONTENT, len(CONTENT))


@pytest.mark.parametrize("query", ["sha256=", "sha256=xyz", f"sha256={SHA256.upper()}", f"sha256={SHA256}&x", "sha=1"])
@pytest.mark.parametrize("method", [GET, PUT])
@pytest.mark.parametrize("sent", [0, 1024])
def test_what_is_no_hash_is_refused(served, query, method, sent):
    path = ("firmware",) if method == GET else ("firmware", "x")
    more = {} if method == GET else {"payload": CONTENT, "sent": sent}
    answer = served.client.outcome(served.client.send(method, *path, query=query.split("&"), **more))
    assert answer.code == (codes.UNPROCESSABLE_ENTITY)


# Conditions


@pytest.mark.parametrize("option", [(IF_NONE_MATCH, b""), (IF_MATCH, b"other")])
def test_conditions_hold_where_an_upload_goes_on(served, option):
    served.told(PUT, "/firmware/f.bin", b"before")
    break_off(served, 5, options=(option,))

    assert put(served, done=5 * 1024, options=(option,)).code == codes.PRECONDITION_FAILED
    assert stored(served) == b"before"
    assert (part_files(served), used(served)) == ([], len(b"before"))


def test_condition_that_holds_lets_it_go_on(served):
    break_off(served, 5, options=((IF_NONE_MATCH, b""),))
    since = len(served.world.trace)

    assert put(served, done=size_of(served), options=((IF_NONE_MATCH, b""),)).code == codes.CREATED
    assert sent_blocks(served, since)[:2] == [0, 5]
    assert stored(served) == CONTENT


# Bounds


def store_of(files, quota=1000):
    return ArtifactStore(files, "store", quota)


def left(store, data, number, now=0.0):
    part = store.parts.begin(f"{number:064x}", None)
    part.write(data)
    store.parts.leave(part, now)
    return part


def test_parts_count_and_give_way_to_contents_the_oldest_first():
    files = MemoryFiles()
    store = store_of(files)
    for number in range(3):
        left(store, bytes(300), number)
    assert (store.used, store.room()) == (900, 1000)

    incoming = store.begin(500)
    incoming.write(bytes(500))
    assert files.names("store/parts") == [f"{2:064x}"]
    assert store.used == 800


def test_what_comes_is_hashed_at_once_and_what_was_there_in_steps(monkeypatch):
    files = MemoryFiles()
    store = store_of(files)
    part = left(store, b"some", 0)
    assert part.is_hashed

    monkeypatch.setattr(parts, "HASH_STEP", 3)
    store = store_of(files)
    part = store.parts.begin(f"{0:064x}", None)
    part.write(b" more")
    told = []
    part.when_hashed(told.append)
    steps = 0
    while store.parts.has_unhashed:
        store.parts.hash_on()
        steps += 1
    assert (steps, told, part.is_hashed) == (3, [None], True)
    assert (part.keep(), store.parts.find(part.sha256)) == (False, None)


def test_part_that_could_not_be_read_is_read_again_when_its_hash_is_wanted(monkeypatch):
    files = MemoryFiles()
    left(store_of(files), b"some", 0)
    store = store_of(files)
    part = store.parts.begin(f"{0:064x}", None)
    with monkeypatch.context() as broken:
        broken.setattr(files, "read_at", lambda path, offset, length: b"")
        store.parts.hash_on()
    assert not store.parts.has_unhashed

    told = []
    part.when_hashed(told.append)
    store.parts.hash_on()
    assert told == [None]


def test_nobody_hashes_for_a_part_that_nobody_sends_to():
    files = MemoryFiles()
    left(store_of(files), b"some", 0)
    store = store_of(files)
    part = store.parts.begin(f"{0:064x}", None)
    assert store.parts.has_unhashed
    store.parts.leave(part, 0.0)
    assert not store.parts.has_unhashed


def test_part_of_which_nothing_came_is_none():
    store = store_of(MemoryFiles())
    store.parts.leave(store.parts.begin("0" * 64, 10), 0.0)
    assert len(store.parts) == 0


def test_part_that_there_is_no_room_to_go_on_with_gives_way():
    store = store_of(MemoryFiles())
    left(store, bytes(300), 0)
    with pytest.raises(StoreFullError) as error:
        store.parts.begin(f"{0:064x}", 1001)
    assert error.value.limit == 1000
    assert store.room() == 1000


def test_what_the_disk_wrote_of_a_block_that_it_had_no_room_for_is_cut_off():
    files = MemoryFiles()
    store = store_of(files)
    content = b"content"
    part = store.parts.begin(hashlib.sha256(content).hexdigest(), None)
    part.write(content)
    files.content[part.path] += b"half a bl"
    assert part.keep()
    assert files.content[f"store/contents/{part.sha256}"] == content


def test_part_that_is_sent_to_does_not_give_way():
    store = store_of(MemoryFiles())
    part = store.parts.begin("0" * 64, None)
    part.write(bytes(900))
    with pytest.raises(StoreFullError):
        store.begin(200)
    with pytest.raises(StoreFullError):
        store.begin(None).write(bytes(200))
    assert store.used == 900


def test_only_so_many_parts_are_kept():
    files = MemoryFiles()
    store = store_of(files)
    for number in range(PART_LIMIT + 5):
        left(store, b"x", number)
    assert files.names("store/parts") == [f"{number:064x}" for number in range(5, PART_LIMIT + 5)]
    assert store.used == PART_LIMIT


def test_part_that_is_used_again_is_young_again():
    store = store_of(MemoryFiles())
    left(store, b"x", 0)
    for number in range(1, PART_LIMIT):
        left(store, b"x", number)
    left(store, b"y", 0)
    left(store, b"x", PART_LIMIT)
    assert store.parts.find(f"{0:064x}") is not None
    assert store.parts.find(f"{1:064x}") is None


@pytest.mark.parametrize("restarted", [False, True])
def test_parts_go_when_nobody_has_sent_to_them_for_a_day(restarted):
    files = MemoryFiles()
    store = store_of(files)
    left(store, b"x", 0, 100.0)
    if restarted:
        store = store_of(files)
        store.parts.expire(100.0)
    store.parts.expire(100.0 + PART_LIFETIME - 1)
    assert store.used == 1
    store.parts.expire(100.0 + PART_LIFETIME)
    assert (store.used, files.names("store/parts")) == (0, [])


def test_server_lets_go_of_them_by_itself(served):
    break_off(served, 5)
    assert served.server.endpoint.footprint()["bodies"] == 1
    served.world.run_for(1000.0)
    assert served.server.endpoint.footprint()["bodies"] == 0
    assert used(served) >= 5 * 1024

    served.world.run_for(DAY + 2000.0)
    assert (part_files(served), used(served)) == ([], 0)


def test_many_uploads_that_are_abandoned_leave_no_more_than_their_bound(served):
    for number in range(40):
        content = os.urandom(3000)
        break_off(served, 1, content, sha256=hashlib.sha256(content).hexdigest(), name=f"n{number}")
    served.world.run_for(1000.0)
    assert len(part_files(served)) == PART_LIMIT
    assert used(served) == sum(len(served.files.content[f"data/artifacts/parts/{name}"]) for name in part_files(served))
    assert served.server.endpoint.footprint()["bodies"] == 0


def test_announced_content_that_does_not_fit_is_refused_before_it_comes(served):
    answer = put(served, bytes(70 * 1024), sha256="0" * 64)
    assert answer.code == codes.REQUEST_ENTITY_TOO_LARGE
    assert (part_files(served), used(served)) == ([], 0)


def test_what_has_come_of_a_content_counts_when_the_room_is_weighed():
    quota = 30 * 1024
    served = Served(artifact_quota=quota)
    break_off(served, 15)
    assert put(served, done=15 * 1024).code == codes.CREATED


def test_names_that_are_no_hash_are_not_parts():
    files = MemoryFiles()
    files.content["store/parts/x.tmp"] = b"x"
    store = store_of(files)
    assert (len(store.parts), store.used, files.names("store/parts")) == (0, 0, [])


def test_client_with_a_window_shares_the_store_with_a_client_of_another_kind(served):
    """One that knows nothing of hashes, and one that does, under the same name."""
    core = EndpointCore(served.world.entropy("plain"))
    host = served.world.host(("192.0.2.11", 40000))
    host.boot(core)
    outcomes = []
    core.request(PUT, SERVER, outcomes.append, served.world.now, uri_path=("firmware", "f.bin"), payload=CONTENT[::-1])
    host.wake()
    assert put(served, window=8).is_success
    assert served.world.run_until(lambda: bool(outcomes))
    assert stored(served) in (CONTENT, CONTENT[::-1])
