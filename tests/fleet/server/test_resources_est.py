"""EST over CoAPS (RFC 9148) and an operator's word on who is let in: over the wire, under a pretended DTLS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet.model.roles import NODE, OPERATOR, Principal
from fleet.pki.certificates import DAY, certificate_fingerprint, decode_bundle, decode_der
from fleet.pki.enrolment import (
    EstRequest,
    Retry,
    authority_request,
    enrol_request,
    read_authority,
    read_certificate,
    renew_request,
)
from fleet.pki.keys import make_key
from fleet.pki.names import principal_in
from fleet.pki.registrar import MOST_PENDING, MOST_PENDING_OF_A_HOST, PENDING_LIFETIME, POLL
from fleet.pki.requests import make_request, read_request
from minicoap.codec import codes
from minicoap.codec.contentformats import JSON, PKCS7_CERTS_ONLY, PKCS10, PKIX_CERTIFICATE
from minicoap.core.request import Response
from tests.fleet.pki.certified import a_request, openssl
from tests.fleet.server.secured import SecuredServed
from tests.fleet.server.serving import EPOCH, Client, document

ALICE = Principal(OPERATOR, "alice")
PUMP = Principal(NODE, "pump-7")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[SecuredServed]:
    served = SecuredServed(tmp_path / "pki")
    yield served
    served.authority.close()


def exchange(client: Client, request: EstRequest) -> Response:
    arguments: dict[str, Any] = {"payload": request.payload} if request.payload else {}
    if request.content_format is not None:
        arguments["content_format"] = request.content_format
    return client.outcome(client.send(request.code, *request.path, accept=request.accept, **arguments))


def csr(node_id: str = "pump-7", token: Any = None, key: Any = None, role: str = NODE) -> bytes:
    return make_request(key or make_key(), Principal(role, node_id), token)


def a_token(served: SecuredServed, **options: Any) -> str:
    return served.authority.make_token(int(served.wall()), **options)[0]


def refused(response: Response, code: int, *words: str) -> None:
    assert response.code == code, (codes.code_name(response.code), response.text)
    assert all(word in response.text for word in words), response.text


# The authority's certificates


def test_whoever_comes_over_dtls_gets_the_authoritys_certificate(served: SecuredServed) -> None:
    client = served.secure_client()

    (authority,) = read_authority(exchange(client, authority_request()), served.authority.fingerprint)

    assert certificate_fingerprint(authority) == served.authority.fingerprint


@pytest.mark.parametrize(("accept", "answered"), [(None, PKCS7_CERTS_ONLY), (281, 281), (287, PKIX_CERTIFICATE)])
def test_formats_are_those_that_the_client_takes(served: SecuredServed, accept: Any, answered: int) -> None:
    client = served.secure_client()

    response = exchange(client, authority_request()._replace(accept=accept))
    assert (response.code, response.content_format) == (codes.CONTENT, answered)
    certificate = decode_der(response.body) if answered == 287 else decode_bundle(response.body)[0]
    assert certificate == served.authority.certificate

    enrolled = exchange(client, enrol_request(csr(token=a_token(served)))._replace(accept=accept))
    assert (enrolled.code, enrolled.content_format) == (codes.CHANGED, answered)
    certificate = decode_der(enrolled.body) if answered == 287 else decode_bundle(enrolled.body)[0]
    assert principal_in(certificate) == PUMP
    if answered == 281:
        text = openssl("pkcs7", "-inform", "DER", "-print_certs", "-noout", data=enrolled.body)
        assert "subject=CN = pump-7" in text or "subject=CN=pump-7" in text


def test_nothing_is_handed_out_over_plain_coap(served: SecuredServed) -> None:
    token = a_token(served)

    for request in (authority_request(), enrol_request(csr(token=token)), renew_request(csr())):
        refused(exchange(served.client, request), codes.UNAUTHORIZED, "coaps")

    assert served.authority.register.certificates() == []


def test_the_resources_are_found_by_their_types(served: SecuredServed) -> None:
    listed = served.ask(codes.GET, "/.well-known/core", query=("rt=ace.est*",)).text

    for name in ("crts", "sen", "sren"):  # RFC 9148 §4.1
        assert f'</.well-known/est/{name}>;rt="ace.est.{name}"' in listed
        assert 'ct="281 287"' in listed


# Enrolment by token


def test_a_token_gets_a_fresh_node_its_certificate_and_is_used_up(served: SecuredServed) -> None:
    token = a_token(served)
    client = served.secure_client()

    certificate = read_certificate(exchange(client, enrol_request(csr(token=token))))

    assert not isinstance(certificate, Retry)
    assert principal_in(certificate) == PUMP
    (entered,) = served.authority.register.certificates()
    assert entered.issued_for.startswith("token ")
    assert token not in entered.issued_for
    refused(exchange(client, enrol_request(csr("pump-8", token))), codes.FORBIDDEN, "used up")


def test_an_answer_that_was_lost_is_given_again_and_costs_nothing(served: SecuredServed) -> None:
    token = a_token(served, uses=2)
    request = enrol_request(csr(token=token))

    answers = [exchange(served.secure_client(), request).body for _ in range(3)]

    assert len(set(answers)) == 1
    assert served.authority.register.tokens(int(EPOCH))[0].uses_left == 1
    assert len(served.authority.register.certificates()) == 1


def test_tokens_have_limits(served: SecuredServed) -> None:
    client = served.secure_client()
    many = a_token(served, uses=2)
    for node_id, code in (("a", codes.CHANGED), ("b", codes.CHANGED), ("c", codes.FORBIDDEN)):
        assert exchange(client, enrol_request(csr(node_id, many))).code == code
    bound = a_token(served, node_id="d")
    refused(exchange(client, enrol_request(csr("e", bound))), codes.FORBIDDEN, "another node")
    assert exchange(client, enrol_request(csr("d", bound))).code == codes.CHANGED
    short = a_token(served, lifetime=60)
    served.world.run_for(62)
    refused(exchange(client, enrol_request(csr("f", short))), codes.FORBIDDEN, "expired")
    refused(exchange(client, enrol_request(csr("g", "guessed"))), codes.FORBIDDEN, "unknown")
    assert served.registrar.pending(int(served.wall())) == []


def test_a_token_may_be_typed_as_people_type(served: SecuredServed) -> None:
    token = a_token(served)

    typed = f" {token[:10].upper()} {token[10:]}"

    assert exchange(served.secure_client(), enrol_request(csr(token=typed))).code == codes.CHANGED


def test_an_id_that_is_taken_is_given_to_nobody_else(served: SecuredServed) -> None:
    client = served.secure_client()
    assert exchange(client, enrol_request(csr(token=a_token(served)))).is_success

    refused(exchange(client, enrol_request(csr(token=a_token(served)))), codes.FORBIDDEN, "fleet pki replace")

    served.world.run_for(100 * DAY)  # what expired was somebody's too
    token = a_token(served)
    refused(exchange(client, enrol_request(csr(token=token))), codes.FORBIDDEN, "fleet pki replace")
    assert exchange(client, enrol_request(csr("other", token))).is_success  # nothing was spent


def test_a_replaced_nodes_place_is_taken_by_another_key_once(served: SecuredServed) -> None:
    client = served.secure_client()
    assert exchange(client, enrol_request(csr(token=a_token(served)))).is_success
    at = int(served.wall())

    token, _, revoked = served.authority.replace(PUMP, at, 600)
    answer = exchange(client, enrol_request(csr(token=token)))

    assert answer.is_success
    assert [one.state(at + 1) for one in served.authority.register.of(PUMP)] == ["valid", "revoked"]
    assert [one.reason for one in revoked] == [""]
    assert served.authority.register.of(PUMP)[1].reason == "superseded"
    refused(exchange(client, enrol_request(csr(token=token))), codes.FORBIDDEN, "used up")


def test_the_device_that_a_token_replaces_stands_in_the_revocation_list(served: SecuredServed) -> None:
    client = served.secure_client()
    assert exchange(client, enrol_request(csr(token=a_token(served)))).is_success
    (old,) = served.authority.register.of(PUMP)

    assert exchange(client, enrol_request(csr(token=a_token(served, node_id="pump-7", replaces=True)))).is_success

    assert old.serial in openssl("crl", "-in", f"{served.authority.directory}/crl.pem", "-noout", "-text")
    exchange(client, enrol_request(csr()))
    assert decide(served, action="accept", node_id="pump-7", replace=True).code == codes.CHANGED
    text = openssl("crl", "-in", f"{served.authority.directory}/crl.pem", "-noout", "-text")
    assert text.count("Superseded") == 2


def test_a_key_whose_certificate_was_revoked_gets_none_again(served: SecuredServed) -> None:
    client, key = served.secure_client(), make_key()
    assert exchange(client, enrol_request(csr(token=a_token(served), key=key))).is_success
    served.authority.revoke(served.authority.register.of(PUMP), int(served.wall()))

    refused(exchange(client, enrol_request(csr(token=a_token(served), key=key))), codes.FORBIDDEN, "new key")


@pytest.mark.parametrize("role", ["operator", "viewer", "server"])
def test_only_nodes_enrol(served: SecuredServed, role: str) -> None:
    token = a_token(served)

    refused(
        exchange(served.secure_client(), enrol_request(csr("eve", token, role=role))), codes.FORBIDDEN, "only nodes"
    )

    assert served.authority.register.certificates() == []


# Requests that are none


@pytest.mark.parametrize("payload", [b"", b"\0", b"0\x82", b"x" * 5000], ids=["empty", "zero", "cut", "long"])
def test_what_is_no_request_is_refused(served: SecuredServed, payload: bytes) -> None:
    client = served.secure_client()

    response = client.outcome(
        client.send(codes.POST, ".well-known", "est", "sen", payload=payload, content_format=PKCS10)
    )

    assert response.code in (codes.BAD_REQUEST, codes.REQUEST_ENTITY_TOO_LARGE)


def test_a_request_signed_by_another_key_is_refused(served: SecuredServed) -> None:
    request = bytearray(csr(token=a_token(served)))
    request[-1] ^= 1

    response = exchange(served.secure_client(), enrol_request(bytes(request)))

    assert response.code == codes.BAD_REQUEST
    assert served.authority.register.certificates() == []


def test_other_formats_and_methods_are_refused(served: SecuredServed) -> None:
    client = served.secure_client()
    request = enrol_request(csr())

    assert exchange(client, request._replace(content_format=JSON)).code == codes.UNSUPPORTED_CONTENT_FORMAT
    assert exchange(client, request._replace(content_format=None)).code == codes.UNSUPPORTED_CONTENT_FORMAT
    assert exchange(client, request._replace(accept=JSON)).code == codes.NOT_ACCEPTABLE
    assert exchange(client, request._replace(code=codes.PUT)).code == codes.UNAUTHORIZED


def test_a_request_made_by_openssl_enrols(served: SecuredServed, tmp_path: Path) -> None:
    token = a_token(served)
    key, made, config = (str(tmp_path / name) for name in ("key.pem", "request", "config"))
    (tmp_path / "config").write_text(
        "[req]\nprompt = no\ndistinguished_name = name\nattributes = attributes\n"
        f"[name]\nCN = pump-7\n[attributes]\nchallengePassword = {token}\n"
    )
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key)
    openssl("req", "-new", "-key", key, "-config", config, "-outform", "DER", "-out", made)

    certificate = read_certificate(exchange(served.secure_client(), enrol_request(Path(made).read_bytes())))

    assert not isinstance(certificate, Retry)
    assert principal_in(certificate) == PUMP


def test_our_requests_are_what_openssl_takes_for_such() -> None:
    text = openssl("req", "-inform", "DER", "-noout", "-verify", "-text", data=csr(token="a-token"))

    assert "verify OK" in text
    for wanted in ("CN = pump-7", "URI:urn:fleet:node:pump-7", "challengePassword", "prime256v1"):
        assert wanted in text


# Without a token


def waiting(served: SecuredServed) -> Any:
    response = served.secure_client(ALICE).ask(codes.GET, "/enrolments")
    assert response.code == codes.CONTENT
    return document(response)["enrolments"]


def decide(served: SecuredServed, **decision: Any) -> Response:
    return served.secure_client(ALICE).ask(codes.POST, "/enrolments", decision)


def test_without_token_a_device_waits_until_an_operator_accepts_it(served: SecuredServed) -> None:
    client, request = served.secure_client(), enrol_request(csr())

    first = exchange(client, request)

    assert (first.code, first.max_age) == (codes.SERVICE_UNAVAILABLE, POLL)  # RFC 9148 §4.7
    (pending,) = waiting(served)
    assert (pending["node_id"], pending["address"], pending["replaces"]) == ("pump-7", "192.0.2.10", False)
    accepted = decide(served, action="accept", node_id="pump-7", key=pending["key"][:8])
    assert accepted.code == codes.CHANGED, accepted.text
    certificate = read_certificate(exchange(client, request))
    assert not isinstance(certificate, Retry)
    assert principal_in(certificate) == PUMP
    assert served.authority.register.certificates()[0].issued_for == "accepted by operator alice"
    assert waiting(served) == []


def test_a_device_that_an_operator_rejects_is_refused(served: SecuredServed) -> None:
    client, request = served.secure_client(), enrol_request(csr())
    exchange(client, request)

    assert decide(served, action="reject", node_id="pump-7").code == codes.CHANGED

    refused(exchange(client, request), codes.FORBIDDEN, "rejected")
    assert waiting(served) == []
    assert decide(served, action="accept", node_id="pump-7").code == codes.NOT_FOUND


def test_two_devices_that_ask_for_one_id_are_told_apart_by_their_keys(served: SecuredServed) -> None:
    client, one, other = served.secure_client(), enrol_request(csr()), enrol_request(csr())
    exchange(client, one)
    exchange(client, other)

    ambiguous = decide(served, action="accept", node_id="pump-7")
    assert ambiguous.code == codes.UNPROCESSABLE_ENTITY
    assert "$.key" in ambiguous.text
    key = read_request(other.payload).key
    assert key in [pending["key"] for pending in waiting(served)]
    assert decide(served, action="accept", node_id="pump-7", key=key.upper()).code == codes.CHANGED

    assert exchange(client, one).code == codes.SERVICE_UNAVAILABLE
    assert exchange(client, other).code == codes.CHANGED
    assert [pending["replaces"] for pending in waiting(served)] == [True]
    assert decide(served, action="accept", node_id="pump-7").code == codes.CONFLICT
    assert decide(served, action="accept", node_id="pump-7", replace=True).code == codes.CHANGED
    assert exchange(client, one).code == codes.CHANGED
    assert [one.state(int(served.wall())) for one in served.authority.register.of(PUMP)] == ["valid", "revoked"]


@pytest.mark.parametrize(
    ("decision", "code"),
    [
        ({"action": "accept", "node_id": "nobody"}, codes.NOT_FOUND),
        ({"action": "adopt", "node_id": "pump-7"}, codes.UNPROCESSABLE_ENTITY),
        ({"action": "accept", "node_id": "../x"}, codes.UNPROCESSABLE_ENTITY),
        ({"action": "accept", "node_id": "pump-7", "key": "?!"}, codes.UNPROCESSABLE_ENTITY),
        ({"action": "accept", "node_id": "pump-7", "key": "00000000"}, codes.NOT_FOUND),
        ({"action": "accept", "node_id": "pump-7", "force": True}, codes.UNPROCESSABLE_ENTITY),
        ({"action": "accept"}, codes.UNPROCESSABLE_ENTITY),
    ],
)
def test_decisions_that_cannot_be_are_refused(served: SecuredServed, decision: Any, code: int) -> None:
    exchange(served.secure_client(), enrol_request(csr()))

    assert decide(served, **decision).code == code
    assert len(waiting(served)) == 1


def test_what_waits_is_bounded_and_forgotten(served: SecuredServed) -> None:
    registrar, at = served.registrar, int(served.wall())
    key = make_key()
    requests = [a_request(f"n{number}", key=key)._replace(key=str(number)) for number in range(MOST_PENDING + 5)]
    for number, request in enumerate(requests):
        registrar.enrol(request, f"host {number // MOST_PENDING_OF_A_HOST}", at)
    assert len(registrar.pending(at)) == MOST_PENDING
    assert exchange(served.secure_client(), enrol_request(csr())).max_age > POLL

    registrar.enrol(requests[0], "host 0", at + PENDING_LIFETIME)
    assert [pending.request.principal.name for pending in registrar.pending(at + PENDING_LIFETIME + 1)] == ["n0"]
    assert registrar.pending(at + 3 * PENDING_LIFETIME) == []

    for number, request in enumerate(requests[: MOST_PENDING_OF_A_HOST + 5]):
        registrar.enrol(request, "one host", at + 4 * PENDING_LIFETIME + number)
    assert len(registrar.pending(at + 4 * PENDING_LIFETIME + number)) == MOST_PENDING_OF_A_HOST


def test_a_server_without_the_time_or_the_key_lets_nobody_in_yet(
    served: SecuredServed, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, token = served.secure_client(), a_token(served)
    monkeypatch.setattr(served, "is_wall_trusted", lambda: False)
    assert exchange(client, enrol_request(csr(token=token))).code == codes.SERVICE_UNAVAILABLE
    monkeypatch.undo()
    monkeypatch.setattr(served.authority, "key", None)
    assert exchange(client, enrol_request(csr(token=token))).code == codes.SERVICE_UNAVAILABLE
    monkeypatch.undo()

    assert exchange(client, enrol_request(csr(token=token))).code == codes.CHANGED


# Renewal


def enrolled(served: SecuredServed) -> Client:
    assert exchange(served.secure_client(), enrol_request(csr(token=a_token(served)))).is_success
    return served.secure_client(PUMP)


def test_a_node_renews_its_certificate_by_the_one_that_it_has(served: SecuredServed) -> None:
    node = enrolled(served)
    served.world.run_for(60 * DAY)
    request = renew_request(csr())

    certificate = read_certificate(exchange(node, request))

    assert not isinstance(certificate, Retry)
    assert principal_in(certificate) == PUMP
    first, second = reversed(served.authority.register.of(PUMP))
    assert second.issued_for == f"renewal of {first.serial}"
    assert second.not_after >= first.not_after + 60 * DAY
    assert exchange(node, request).body == second.der  # an answer that was lost


def test_nobody_renews_what_is_not_theirs(served: SecuredServed) -> None:
    node = enrolled(served)
    served.world.run_for(60 * DAY)

    refused(exchange(served.secure_client(), renew_request(csr())), codes.UNAUTHORIZED)
    refused(exchange(node, renew_request(csr("pump-8"))), codes.FORBIDDEN)
    refused(exchange(node, renew_request(csr("pump-7", role=OPERATOR))), codes.FORBIDDEN)
    stranger = served.secure_client(Principal(NODE, "pump-8"))
    refused(exchange(stranger, renew_request(csr())), codes.FORBIDDEN)
    refused(exchange(stranger, renew_request(csr("pump-8"))), codes.FORBIDDEN, "not of this authority")
    served.authority.revoke(served.authority.register.of(PUMP), int(served.wall()))
    refused(exchange(node, renew_request(csr())), codes.FORBIDDEN, "revoked")
    assert len(served.authority.register.certificates()) == 1


def test_renewals_are_not_had_in_a_row(served: SecuredServed) -> None:
    node = enrolled(served)
    assert exchange(node, renew_request(csr())).code == codes.CHANGED

    again = exchange(node, renew_request(csr()))
    assert again.code == codes.SERVICE_UNAVAILABLE
    served.world.run_for(again.max_age + 1)

    assert exchange(node, renew_request(csr())).code == codes.CHANGED


def test_no_token_is_told_in_any_log(served: SecuredServed, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    client = served.secure_client()
    good, bad = a_token(served), "notatokenofthisfleetatall1"

    exchange(client, enrol_request(csr(token=good)))
    exchange(client, enrol_request(csr("other", good)))
    exchange(client, enrol_request(csr("other", bad)))

    assert "certificate" in caplog.text
    for token in (good, bad):
        assert token not in caplog.text
