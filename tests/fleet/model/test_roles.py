"""Names of a fleet's parties as URIs, and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.errors import UsageError
from fleet.model.roles import NODE, OPERATOR, ROLES, Principal, parse_principal, principal_of


@pytest.mark.parametrize(
    ("principal", "uri"),
    [
        (Principal(NODE, "pump-7"), "urn:fleet:node:pump-7"),
        (Principal(OPERATOR, "Åsa B."), "urn:fleet:operator:%C3%85sa%20B."),
        (Principal(NODE, "a:b%"), "urn:fleet:node:a%3Ab%25"),
    ],
)
def test_name_has_one_spelling(principal: Principal, uri: str) -> None:
    assert principal.uri == uri
    assert parse_principal(uri) == principal


@given(st.sampled_from(ROLES), st.text(min_size=1).filter(lambda name: name.isprintable()))
def test_every_name_is_read_as_it_was_written(role: str, name: str) -> None:
    assert parse_principal(Principal(role, name).uri) == Principal(role, name)


@pytest.mark.parametrize(
    "uri",
    ["", "urn:fleet:", "urn:fleet:node", "urn:fleet:node:", "urn:fleet:root:x", "URN:fleet:node:x", "urn:fleet:node:%4",
     "urn:fleet:node:%41", "urn:fleet:node:%zz", "urn:fleet:node:%FF", "urn:fleet:node:a:b", "urn:fleet:node:%c3%85",
     "urn:fleet:node: 41"],
)  # fmt: skip
def test_what_is_no_name_is_refused(uri: str) -> None:
    with pytest.raises(UsageError):
        parse_principal(uri)


def test_certificate_names_one_party_or_nobody() -> None:
    node, operator = "urn:fleet:node:n1", "urn:fleet:operator:alice"
    assert principal_of(("coap://n1", node)) == Principal(NODE, "n1")
    assert principal_of((node, operator)) is None
    assert principal_of((node, node)) is None
    assert principal_of(("urn:fleet:root:x",)) is None
    assert principal_of(()) is None
