"""Whom a certificate or a request names: a party of the fleet by its URI, a server's hosts by DNS name and address."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Optional, Union

from cryptography import x509
from cryptography.x509.oid import NameOID

from fleet.errors import FormatError, InvalidError, UsageError
from fleet.model.nodes import check_node_id
from fleet.model.roles import NODE, ROLES, Principal, principal_of

_COMMON_NAME_LENGTH = 64  # RFC 5280, ub-common-name
_DNS_NAME = re.compile(
    r"(?=.{1,253}\Z)(\*\.)?([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?)(\.[A-Za-z0-9_-]{1,63})*\Z"
)


def check_principal(role: str, name: str) -> Principal:
    """Return who is meant; raises UsageError for a role that is none and a name that no certificate can carry."""
    if role not in ROLES:
        raise UsageError(f"{role[:80]!r} is no role; there are {', '.join(ROLES)}")
    if role == NODE:
        try:
            check_node_id(name)
        except InvalidError as error:
            raise UsageError(str(error)) from error
    elif not name or len(name) > _COMMON_NAME_LENGTH or not name.isprintable() or name != name.strip():
        raise UsageError(f"{name[:80]!r} is no name for a certificate: use 1 to {_COMMON_NAME_LENGTH} characters")
    return Principal(role, name)


def subject(principal: Principal) -> x509.Name:
    """Return the subject of its certificates: the name alone, since it is the URI that counts."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, principal.name)])


def alternative_names(principal: Principal, hosts: Sequence[str] = ()) -> x509.SubjectAlternativeName:
    """Return the URI of `principal`, and `hosts` as DNS names and addresses; raises UsageError for what is neither."""
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(principal.uri), *map(_host, hosts)])


def hosts_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """The DNS names and addresses that a certificate is good for."""
    names = _alternative_names(certificate)
    if names is None:
        return ()
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return (*names.get_values_for_type(x509.DNSName), *addresses)


def principal_in(certificate: x509.Certificate) -> Optional[Principal]:
    """Return which party of a fleet the certificate names; None if that is none, or not one alone."""
    return principal_of(_uris(certificate))


def requested_principal(request: x509.CertificateSigningRequest) -> Principal:
    """Return whom a request asks a certificate for.

    It is the URI among the alternative names; a common name alone, of clients that cannot set these, is a node's id.
    Raises FormatError for a request that names nobody, or two.
    """
    try:
        names = [attribute.value for attribute in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        uris = _uris(request)
    except ValueError as error:
        raise FormatError(f"the names in the request cannot be read: {error}") from error
    principal = principal_of(uris) if uris else Principal(NODE, str(names[0])) if len(names) == 1 else None
    if principal is None or (names and names != [principal.name]):
        raise FormatError("the request does not name one node: give its id as common name, or as urn:fleet:node:ID")
    try:
        return check_principal(*principal)
    except UsageError as error:
        raise FormatError(str(error)) from error


def _uris(holder: Union[x509.Certificate, x509.CertificateSigningRequest]) -> list[str]:
    names = _alternative_names(holder)
    return [] if names is None else names.get_values_for_type(x509.UniformResourceIdentifier)


def _alternative_names(
    holder: Union[x509.Certificate, x509.CertificateSigningRequest],
) -> Optional[x509.SubjectAlternativeName]:
    try:
        return holder.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        pass
    if not _DNS_NAME.match(host):
        raise UsageError(f"{host[:80]!r} is neither a DNS name nor an address")
    return x509.DNSName(host)
