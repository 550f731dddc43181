"""Public-key infrastructure of a fleet: its certificate authority, enrolment, renewal and revocation.

These modules need the package `cryptography` (the extra `dtls`) and are imported by those alone who use certificates.
"""
