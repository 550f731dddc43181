"""Whom certificates and requests name: one party of a fleet, or they are refused."""

from __future__ import annotations

from typing import Optional

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from fleet.errors import FormatError, UsageError
from fleet.pki.keys import make_key
from fleet.pki.names import check_principal
from fleet.pki.requests import read_request


def a_request(common_names: list[str], uris: Optional[list[str]]) -> bytes:
    names = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in common_names])
    builder = x509.CertificateSigningRequestBuilder().subject_name(names)
    if uris is not None:
        alternatives = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
        builder = builder.add_extension(alternatives, critical=False)
    return builder.sign(make_key(), hashes.SHA256()).public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize(
    ("common_names", "uris", "named"),
    [
        (["pump-7"], None, ("node", "pump-7")),
        (["pump-7"], ["urn:fleet:node:pump-7"], ("node", "pump-7")),
        ([], ["urn:fleet:node:pump-7"], ("node", "pump-7")),
        (["pump-7"], ["urn:fleet:node:pump-7", "https://example.com/7"], ("node", "pump-7")),
        (["alice"], ["urn:fleet:operator:alice"], ("operator", "alice")),
    ],
)
def test_a_request_names_one_party(common_names: list[str], uris: Optional[list[str]], named: tuple[str, str]) -> None:
    assert read_request(a_request(common_names, uris)).principal == named


@pytest.mark.parametrize(
    ("common_names", "uris"),
    [
        ([], None),
        (["a", "b"], None),
        (["pump-8"], ["urn:fleet:node:pump-7"]),
        (["pump-7", "pump-8"], ["urn:fleet:node:pump-7"]),
        (["pump-7"], ["urn:fleet:node:pump-7", "urn:fleet:node:pump-8"]),
        (["pump-7"], ["urn:fleet:node:pump-7", "urn:fleet:operator:pump-7"]),
        (["pump-7"], ["https://example.com/7"]),
        (["pump-7"], ["urn:fleet:king:pump-7"]),
        (["../etc"], None),
        (["../etc"], ["urn:fleet:node:..%2Fetc"]),
        (["x" * 64], ["urn:fleet:node:" + "x" * 65]),
        ([" alice"], ["urn:fleet:operator:%20alice"]),
    ],
)
def test_a_request_that_names_nobody_or_two_is_refused(common_names: list[str], uris: Optional[list[str]]) -> None:
    with pytest.raises(FormatError):
        read_request(a_request(common_names, uris))


@pytest.mark.parametrize(
    ("role", "name"),
    [("king", "arthur"), ("", ""), ("node", ""), ("node", ".x"), ("viewer", "a\nb"), ("viewer", " a"), ("server", "")],
)
def test_names_that_no_certificate_can_carry_are_refused(role: str, name: str) -> None:
    with pytest.raises(UsageError):
        check_principal(role, name)
