"""What tests of certificates share: an authority, devices with keys, and `openssl` as the reader that is not ours."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Optional

import pytest

from fleet.model.roles import NODE, Principal
from fleet.pki.authority import Authority, create_authority
from fleet.pki.keys import PrivateKey, make_key
from fleet.pki.requests import CertificationRequest, make_request, read_request

AT = 1_790_000_000  # UTC seconds


def an_authority(directory: Path, at: int = AT, passphrase: Optional[bytes] = None) -> Authority:
    return create_authority(str(directory), "Test CA", at, passphrase)


def a_request(node_id: str, token: Optional[str] = None, key: Optional[PrivateKey] = None) -> CertificationRequest:
    return read_request(make_request(key or make_key(), Principal(NODE, node_id), token))


def openssl(*arguments: str, data: bytes = b"", check: bool = True) -> str:
    try:
        ran = subprocess.run(["openssl", *arguments], check=False, input=data, capture_output=True, timeout=30)
    except FileNotFoundError:
        pytest.skip("there is no openssl command")
    out = (ran.stdout + ran.stderr).decode(errors="replace")
    assert ran.returncode == 0 or not check, out
    return out
