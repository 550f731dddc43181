"""How answers and refusals look on the wire."""

from __future__ import annotations

import json

import cbor2
import pytest

from fleet.errors import FormatError, InvalidError, NotFoundError
from fleet.model.answers import FIELD_ENTRY, answer, arguments, guarded, refusal, refuse_error
from fleet.model.api_answers import CreateAnswer
from minicoap.codec import codes
from minicoap.codec.contentformats import CBOR, JSON, OCTET_STREAM, PROBLEM_DETAILS_CBOR, TEXT
from minicoap.codec.message import Options
from minicoap.codec.options import ACCEPT, CONTENT_FORMAT, ETAG, LOCATION_PATH, MAX_AGE, URI_QUERY, encode_uint
from minicoap.codec.problem import decode_problem
from minicoap.core.request import Request, Response

TOLD = CreateAnswer("j1", "created")


def asked(content_format=None, accept=None, query=(), payload=b"", code=codes.POST):
    items = [(URI_QUERY, argument.encode()) for argument in query]
    for number, value in ((CONTENT_FORMAT, content_format), (ACCEPT, accept)):
        if value is not None:
            items.append((number, encode_uint(value)))
    return Request(code, ("client", 1), Options(items), payload, 0.0)


FORMATS = [(None, None, JSON), (JSON, None, JSON), (CBOR, None, CBOR), (CBOR, JSON, JSON), (JSON, CBOR, CBOR),
           (None, CBOR, CBOR), (OCTET_STREAM, None, JSON), (OCTET_STREAM, CBOR, CBOR)]  # fmt: skip


@pytest.mark.parametrize(("content_format", "accept", "expected"), FORMATS)
def test_an_answer_is_in_the_format_that_is_wanted(content_format, accept, expected):
    response = answer(asked(content_format, accept), TOLD)

    assert response.content_format == expected
    told = json.loads(response.body) if expected == JSON else cbor2.loads(response.body)
    assert told == {"job_id": "j1", "status": "created"}


def test_whoever_names_fields_by_numbers_is_answered_in_numbers():
    answered = [
        answer(asked(CBOR, accept, payload=payload), TOLD).body
        for payload in (b"\xa1\x0c\x61\x61", b"\xa1\x66job_id\x61\x61", b"", b"\x0c")
        for accept in (None, CBOR)
    ]

    assert [cbor2.loads(body) for body in answered[:2]] == [{12: "j1", 8: "created"}] * 2
    assert [cbor2.loads(body) for body in answered[2:]] == [{"job_id": "j1", "status": "created"}] * 6
    assert json.loads(answer(asked(CBOR, JSON, payload=b"\xa1\x0c\x61\x61"), TOLD).body)["job_id"] == "j1"


@pytest.mark.parametrize(("max_age", "value"), [(0, b""), (60, b"\x3c"), (3600, b"\x0e\x10")])
def test_an_answer_says_how_long_it_lasts(max_age, value):
    assert answer(asked(), TOLD, max_age=max_age).options.get(MAX_AGE) == value
    assert answer(asked(), TOLD, max_age=max_age, location=("x",)).options.get(MAX_AGE) == value


def test_an_answer_says_where_what_was_created_is():
    response = answer(asked(), TOLD, codes.CREATED, location=("updates", "j1"))

    assert response.options.all(LOCATION_PATH) == (b"updates", b"j1")


REFUSALS = [(None, None, JSON), (JSON, None, JSON), (OCTET_STREAM, None, JSON), (CBOR, None, PROBLEM_DETAILS_CBOR),
            (JSON, CBOR, PROBLEM_DETAILS_CBOR), (CBOR, JSON, JSON), (TEXT, None, None), (41, None, None)]  # fmt: skip


@pytest.mark.parametrize(("content_format", "accept", "expected"), REFUSALS)
def test_a_refusal_is_something_that_the_client_can_read(content_format, accept, expected):
    response = refusal(asked(content_format, accept), codes.CONFLICT, "no", "$.x", "running", ("pause",))

    assert response.content_format == expected
    if expected == JSON:
        told = json.loads(response.body)
        assert told == {"error": "no", "field": "$.x", "state": "running", "legal": ["pause"]}
    elif expected is None:
        assert response.text == "no"
    else:
        problem = decode_problem(response.body)
        assert (problem.title, problem.detail) == ("4.09 Conflict", "no")
        assert problem.custom == {FIELD_ENTRY: {"field": "$.x", "state": "running", "legal": ["pause"]}}


def test_a_refusal_says_only_what_there_is_to_say():
    assert refusal(asked(), codes.NOT_FOUND, "no").body == b'{"error":"no"}'
    assert decode_problem(refusal(asked(CBOR), codes.NOT_FOUND, "no").body).custom == {}


def test_what_is_not_acceptable_has_no_payload():
    for accept in (JSON, CBOR, TEXT):
        assert refusal(asked(accept=accept), codes.NOT_ACCEPTABLE, "no").body == b""


@pytest.mark.parametrize(
    ("code", "value"),
    [(codes.NOT_FOUND, b""), (codes.NOT_ACCEPTABLE, b""), (codes.SERVICE_UNAVAILABLE, b"\x05"),
     (codes.TOO_MANY_REQUESTS, b"\x05")],
)  # fmt: skip
def test_a_refusal_says_when_to_ask_again(code, value):
    for content_format in (JSON, CBOR, TEXT):
        assert refusal(asked(content_format), code, "no").options.get(MAX_AGE) == value


@pytest.mark.parametrize(
    ("error", "code", "field"),
    [(FormatError("x"), codes.BAD_REQUEST, None), (InvalidError("x", "$.a"), codes.UNPROCESSABLE_ENTITY, "$.a"),
     (NotFoundError("x"), codes.BAD_REQUEST, None)],
)  # fmt: skip
def test_an_error_in_a_message_has_its_code(error, code, field):
    response = refuse_error(asked(), error)

    assert (response.code, json.loads(response.body).get("field")) == (code, field)


def test_arguments_are_named_and_known_and_there_once():
    assert arguments(asked(), "limit") == {}
    assert arguments(asked(query=("limit=5", "after=a=b", "flag")), "limit", "after", "flag") == {
        "limit": "5", "after": "a=b", "flag": "",
    }  # fmt: skip
    for query, field in ((("x=1",), "x"), (("limit=1", "limit=1"), "limit"), (("Limit=1",), "Limit")):
        with pytest.raises(InvalidError) as error:
            arguments(asked(query=query), "limit")
        assert error.value.field == field


def test_a_guarded_handler_raises_nothing_about_the_clients_message():
    def handle(request):
        raise InvalidError("x", "$.a")

    assert guarded(handle)(asked()).code == codes.UNPROCESSABLE_ENTITY


@pytest.mark.parametrize(
    ("code", "content_format", "payload", "is_taken"),
    [
        (codes.POST, None, b"x", True), (codes.POST, JSON, b"x", True), (codes.POST, CBOR, b"x", True),
        (codes.POST, TEXT, b"x", False), (codes.POST, TEXT, b"", False), (codes.PUT, OCTET_STREAM, b"x", False),
        (codes.GET, TEXT, b"", True),
    ],
)  # fmt: skip
def test_a_guarded_handler_sees_what_can_be_json_or_cbor(code, content_format, payload, is_taken):
    response = guarded(lambda request: Response())(asked(content_format, payload=payload, code=code))

    assert response.code == (codes.CONTENT if is_taken else codes.UNSUPPORTED_CONTENT_FORMAT)


@pytest.mark.parametrize("content_format", [JSON, CBOR])
@pytest.mark.parametrize("etag", [b"e", b"etag", b"8 bytes."])
def test_an_answer_with_an_etag_is_encoded_as_any_other(etag, content_format):
    options = answer(asked(content_format), TOLD, codes.CHANGED, etag=etag).options

    same = Options([(ETAG, etag), (CONTENT_FORMAT, bytes((content_format,))), (MAX_AGE, b"")])
    assert (options.items, options.raw, options.mask) == (same.items, same.raw, same.mask)
