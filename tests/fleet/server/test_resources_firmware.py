"""The firmware store: bytes in by Block1, out by Block2, under a name or their hash."""

from __future__ import annotations

import hashlib

import pytest

from minicoap.codec import codes
from minicoap.codec.contentformats import CBOR, JSON, OCTET_STREAM
from minicoap.codec.options import (
    BLOCK1,
    BLOCK2,
    ETAG,
    IF_MATCH,
    IF_NONE_MATCH,
    LOCATION_PATH,
    MAX_AGE,
    SIZE1,
    SIZE2,
    decode_uint,
    encode_uint,
)
from tests.fleet.server.serving import QUOTA, Client, Served, document

GET, POST, PUT, DELETE = codes.GET, codes.POST, codes.PUT, codes.DELETE

CONTENT = bytes(range(256)) * 40  # ten blocks
SHA256 = hashlib.sha256(CONTENT).hexdigest()
TAG = bytes.fromhex(SHA256[:16])


def block(number, more=False):
    return encode_uint(number << 4 | more << 3 | 6)


def listed(served):
    return served.told(GET, "/firmware")["firmware"]


def incoming(served):
    return served.files.names("data/artifacts/incoming")


@pytest.mark.parametrize("content", [b"", b"x", CONTENT, CONTENT[:-1], bytes(1024), bytes(1025)])
def test_what_was_put_is_what_is_got(served, content):
    digest = hashlib.sha256(content).hexdigest()

    put = served.ask(PUT, "/firmware/f.bin", content, content_format=OCTET_STREAM)

    assert put.code == codes.CREATED
    assert put.options.all(LOCATION_PATH) == (b"firmware", b"f.bin")
    assert document(put) == {"name": "f.bin", "size": len(content), "sha256": digest, "status": "stored"}
    for name in ("f.bin", digest):
        got = served.ask(GET, f"/firmware/{name}")
        assert (got.body, got.content_format, got.etag) == (content, OCTET_STREAM, bytes.fromhex(digest[:16]))
    (item,) = listed(served)
    assert (item["name"], item["size"], item["sha256"]) == ("f.bin", len(content), digest)
    assert item["created_at"].startswith("2026-09-21T")
    assert incoming(served) == []


def test_a_content_stays_fresh_under_its_hash_and_not_under_its_name(served):
    served.told(PUT, "/firmware/f.bin", CONTENT)

    assert served.ask(GET, f"/firmware/{SHA256}").max_age == 31_536_000
    assert served.ask(GET, "/firmware/f.bin").options.get(MAX_AGE) == b""


def test_any_block_can_be_asked_for_at_any_time(served):
    served.told(PUT, "/firmware/f.bin", CONTENT)
    served.boot()

    for number in (7, 0, 9, 3):
        got = served.client.outcome(served.client.send(GET, "firmware", SHA256, offset=number * 1024))
        assert got.body == CONTENT[number * 1024 :]


def test_the_first_block_says_how_long_the_body_is(served):
    served.told(PUT, "/firmware/f.bin", CONTENT)

    got = served.client.outcome(served.client.send(GET, "firmware", "f.bin", sink=(sink := Sink())))

    assert got.code == codes.CONTENT
    assert (sink.size, sink.etag, bytes(sink.data)) == (len(CONTENT), TAG, CONTENT)


class Sink:
    def __init__(self):
        self.data = bytearray()

    def begin(self, response, size):
        self.size, self.etag = size, response.etag
        assert response.options.uint(SIZE2) == size

    def write_at(self, offset, data):
        assert offset == len(self.data)
        self.data += data


def test_a_block_behind_the_end_is_a_bad_request(served):
    served.told(PUT, "/firmware/f.bin", CONTENT)

    assert served.ask(GET, "/firmware/f.bin", options=((BLOCK2, block(10)),)).code == codes.BAD_REQUEST


def test_a_client_that_has_the_content_is_told_that_it_is_valid(served):
    served.told(PUT, "/firmware/f.bin", CONTENT)

    valid = served.ask(GET, "/firmware/f.bin", options=((ETAG, b"other"), (ETAG, TAG)))
    other = served.ask(GET, "/firmware/f.bin", options=((ETAG, b"other"),))

    assert (valid.code, valid.body, valid.etag) == (codes.VALID, b"", TAG)
    assert (other.code, other.body) == (codes.CONTENT, CONTENT)


def test_a_name_is_replaced_and_its_old_content_goes(served):
    served.told(PUT, "/firmware/f.bin", CONTENT)

    put = served.ask(PUT, "/firmware/f.bin", b"new")

    assert put.code == codes.CHANGED
    assert served.ask(GET, "/firmware/f.bin").body == b"new"
    assert served.ask(GET, f"/firmware/{SHA256}").code == codes.NOT_FOUND
    assert served.server.services.artifacts.used == 3


def test_two_names_may_share_a_content_that_stays_while_either_is_there(served):
    served.told(PUT, "/firmware/a", CONTENT)
    served.told(PUT, "/firmware/b", CONTENT)
    assert served.server.services.artifacts.used == len(CONTENT)

    served.told(DELETE, "/firmware/a")
    assert served.ask(GET, f"/firmware/{SHA256}").body == CONTENT
    served.told(DELETE, "/firmware/b")
    assert served.ask(GET, f"/firmware/{SHA256}").code == codes.NOT_FOUND
    assert served.server.services.artifacts.used == 0


CONDITIONS = {
    "If-None-Match, new": (PUT, (), ((IF_NONE_MATCH, b""),), codes.CREATED),
    "If-None-Match, there": (PUT, ("f",), ((IF_NONE_MATCH, b""),), codes.PRECONDITION_FAILED),
    "If-Match, the content": (PUT, ("f",), ((IF_MATCH, TAG),), codes.CHANGED),
    "If-Match, one of them": (PUT, ("f",), ((IF_MATCH, b"other"), (IF_MATCH, TAG)), codes.CHANGED),
    "If-Match, another": (PUT, ("f",), ((IF_MATCH, b"other"),), codes.PRECONDITION_FAILED),
    "If-Match, any, there": (PUT, ("f",), ((IF_MATCH, b""),), codes.CHANGED),
    "If-Match, any, new": (PUT, (), ((IF_MATCH, b""),), codes.PRECONDITION_FAILED),
    "delete, If-Match, the content": (DELETE, ("f",), ((IF_MATCH, TAG),), codes.DELETED),
    "delete, If-Match, another": (DELETE, ("f",), ((IF_MATCH, b"other"),), codes.PRECONDITION_FAILED),
    "delete, If-Match, not there": (DELETE, (), ((IF_MATCH, TAG),), codes.PRECONDITION_FAILED),
    "delete, If-None-Match, there": (DELETE, ("f",), ((IF_NONE_MATCH, b""),), codes.BAD_OPTION),
    "get, If-Match": (GET, ("f",), ((IF_MATCH, TAG),), codes.BAD_OPTION),
}


@pytest.mark.parametrize("case", CONDITIONS)
def test_conditions_are_honoured(served, case):
    method, present, options, code = CONDITIONS[case]
    for name in present:
        served.told(PUT, f"/firmware/{name}", CONTENT)
    before = listed(served)

    response = served.ask(method, "/firmware/f", b"new content" if method == PUT else None, options=options)

    assert response.code == code
    if code >= codes.BAD_REQUEST:
        assert listed(served) == before
        assert served.server.services.artifacts.used == sum(item["size"] for item in before)
        assert document(response)["error"]


NAMES = ("a\\b", "a\nb", "\x7f", "x" * 256, "0" * 64)


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:4]))
def test_a_name_that_cannot_be_one_is_refused(served, name):
    response = served.client.outcome(served.client.send(PUT, "firmware", name, payload=b"x"))

    assert response.code in (codes.UNPROCESSABLE_ENTITY, codes.BAD_REQUEST, codes.BAD_OPTION)
    assert listed(served) == []


@pytest.mark.parametrize("spelled", ["..%2Fevil", "%2e%2e/evil", "../evil", "..", "x/../../evil"])
def test_a_name_cannot_lead_out_of_the_store(served, spelled):
    response = served.client.outcome(served.client.send(PUT, "firmware", spelled, payload=b"x"))

    assert response.code in (codes.BAD_REQUEST, codes.NOT_FOUND)
    assert [path for path in served.files.content if "artifacts" in path] == []


def test_names_may_be_in_any_language(served):
    for name in ("größe.bin", "固件-1.bin", "a b+c.bin", "100%25.bin"):
        served.told(PUT, f"/firmware/{name}", CONTENT)
        assert served.ask(GET, f"/firmware/{name}").body == CONTENT

    assert [item["name"] for item in listed(served)] == ["100%.bin", "a b+c.bin", "größe.bin", "固件-1.bin"]


def test_the_list_comes_in_pages(served):
    for number in range(5):
        served.told(PUT, f"/firmware/f{number}", b"%d" % number)

    first = served.told(GET, "/firmware", query=["limit=3"])
    rest = served.told(GET, "/firmware", query=["limit=3", f"after={first['next']}"])

    assert [item["name"] for item in first["firmware"] + rest["firmware"]] == ["f0", "f1", "f2", "f3", "f4"]
    assert rest["next"] is None


def test_what_a_job_needs_is_not_deleted_before_its_end(served):
    served.told(PUT, "/firmware/app.conf", CONTENT)
    served.register("n1")
    job_id = served.running(package_type="file", artifacts=["app.conf"])

    refused = served.ask(DELETE, "/firmware/app.conf")
    assert refused.code == codes.CONFLICT
    assert job_id in document(refused)["error"]
    assert served.ask(GET, f"/firmware/{SHA256}").body == CONTENT
    assert served.report(job_id, "n1", 1, "succeeded").is_success
    assert served.ask(DELETE, "/firmware/app.conf").code == codes.DELETED
    assert served.server.services.artifacts.digests() == []


def test_more_than_the_quota_is_refused_before_it_comes_with_what_would_be_taken(served):
    served.told(PUT, "/firmware/first", bytes(1000))
    sent = len(served.world.trace)

    response = served.ask(PUT, "/firmware/second", bytes(QUOTA))

    assert response.code == codes.REQUEST_ENTITY_TOO_LARGE
    assert decode_uint(response.options.get(SIZE1)) == QUOTA - 1000
    assert "quota" in document(response)["error"] or "room" in document(response)["error"]
    assert len(served.world.trace) - sent == 2, "more than the first block was sent"
    assert incoming(served) == []
    assert served.ask(PUT, "/firmware/second", bytes(QUOTA - 1000)).code == codes.CREATED
    assert served.ask(PUT, "/firmware/third", b"x").code == codes.REQUEST_ENTITY_TOO_LARGE


def test_a_body_whose_length_was_not_announced_is_stopped_at_the_quota(served):
    served.told(PUT, "/firmware/first", bytes(QUOTA - 3 * 1024))

    for number in range(4):
        options = ((BLOCK1, block(number, True)),)
        response = served.ask(PUT, "/firmware/endless", bytes(1024), options=options)
        assert response.code == (codes.CONTINUE if number < 3 else codes.REQUEST_ENTITY_TOO_LARGE)

    assert decode_uint(response.options.get(SIZE1)) == 3 * 1024
    assert served.server.services.artifacts.used == QUOTA - 3 * 1024
    assert incoming(served) == []


def test_a_disk_with_less_room_than_the_quota_counts(served):
    served.files.free = 2000

    response = served.ask(PUT, "/firmware/f", bytes(3000))

    assert response.code == codes.REQUEST_ENTITY_TOO_LARGE
    assert decode_uint(response.options.get(SIZE1)) == 2000


@pytest.mark.parametrize("operation", ["append", "fsync", "rename"])
def test_a_full_disk_is_told_and_leaves_nothing_behind(served, operation):
    served.told(PUT, "/firmware/f", b"before")
    served.files.is_full = lambda done, path: done == operation and "artifacts" in path

    response = served.ask(PUT, "/firmware/f", CONTENT)

    assert response.code == codes.SERVICE_UNAVAILABLE
    assert response.options.get(MAX_AGE) == b"\x05"
    assert "No space left" in document(response)["error"]
    assert served.ask(GET, "/firmware/f").body == b"before"
    assert (incoming(served), served.server.services.artifacts.used) == ([], 6)
    served.files.is_full = lambda done, path: False
    assert served.ask(PUT, "/firmware/f", CONTENT).code == codes.CHANGED


def test_an_upload_that_is_given_up_leaves_nothing_behind(served):
    client = Client(served, ("192.0.2.66", 1))
    for number in range(3):
        options = ((BLOCK1, block(number, True)), (SIZE1, encode_uint(9000)))
        assert client.ask(PUT, "/firmware/f", bytes(1024), options=options).code == codes.CONTINUE
    assert served.server.services.artifacts.used == 3 * 1024

    served.world.run_for(1000)

    assert (incoming(served), served.server.services.artifacts.used, listed(served)) == ([], 0, [])


def test_a_restart_clears_what_was_never_completed_and_what_nobody_needs(served):
    served.told(PUT, "/firmware/f", CONTENT)
    served.files.content["data/artifacts/incoming/1"] = b"half"
    served.files.content["data/artifacts/contents/" + "a" * 64] = b"put, and then the power went"

    served.boot()

    assert sorted(path for path in served.files.content if "artifacts" in path) == [f"data/artifacts/contents/{SHA256}"]
    assert served.server.services.artifacts.used == len(CONTENT)


def test_a_content_whose_bytes_are_gone_is_said_to_be_and_can_be_put_again(served):
    served.told(PUT, "/firmware/f", CONTENT)
    del served.files.content[f"data/artifacts/contents/{SHA256}"]

    response = served.ask(GET, "/firmware/f")

    assert response.code == codes.INTERNAL_SERVER_ERROR
    assert "upload it again" in document(response)["error"]
    assert served.ask(PUT, "/firmware/f", CONTENT).code == codes.CHANGED
    assert served.ask(GET, "/firmware/f").body == CONTENT


def test_putting_a_content_again_heals_one_that_was_damaged(served):
    served.told(PUT, "/firmware/f", CONTENT)
    served.files.content[f"data/artifacts/contents/{SHA256}"] = bytes(len(CONTENT))

    served.told(PUT, "/firmware/f", CONTENT)

    assert served.ask(GET, "/firmware/f").body == CONTENT
    assert served.server.services.artifacts.used == len(CONTENT)


def test_uploads_under_one_name_from_two_clients_do_not_mix(served):
    clients = [Client(served, (f"192.0.2.{number}", 7)) for number in (31, 32)]
    contents = [bytes([number]) * 5000 for number in (1, 2)]

    outcomes = [
        client.start(PUT, "/firmware/f", content) for client, content in zip(clients, contents)
    ]  # fmt: skip
    answers = [client.outcome(outcome) for client, outcome in zip(clients, outcomes)]

    assert sorted(answer.code for answer in answers) == [codes.CREATED, codes.CHANGED]
    assert served.ask(GET, "/firmware/f").body in contents
    assert served.server.services.artifacts.used == 5000


def test_errors_of_an_upload_speak_the_clients_format(served):
    for number in (JSON, CBOR):
        response = served.ask(PUT, "/firmware/" + "0" * 64, b"x", accept=number)
        assert response.content_format == (JSON if number == JSON else 257)


def test_a_content_is_there_whole_or_not_at_all(served):
    """Each write of an upload fails in its turn, and the server starts anew: what is listed then is whole."""
    steps = count_writes(CONTENT)
    assert steps >= 3
    for failing in range(steps):
        served = Served()
        counter = iter(range(1000))
        served.files.is_full = lambda done, path, counter=counter, at=failing: (
            "artifacts" in path and next(counter) == at
        )
        served.ask(PUT, "/firmware/f", CONTENT)
        served.files.is_full = lambda done, path: False
        served.boot()
        for item in listed(served):
            assert served.ask(GET, f"/firmware/{item['name']}").body == CONTENT


def count_writes(content):
    served = Served()
    steps = []
    served.files.is_full = lambda done, path: "artifacts" in path and steps.append(done) is not None
    served.told(PUT, "/firmware/f", content)
    return len(steps)
