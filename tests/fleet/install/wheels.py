"""Wheels made by hand: small, valid, and made without network or build tools."""

from __future__ import annotations

import base64
import hashlib
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Union

Directory = Union[str, "os.PathLike[str]"]


def build_wheel(
    directory: Directory, name: str, version: str, modules: Mapping[str, str], requires: Sequence[str] = ()
) -> Path:
    """Write `directory/NAME-VERSION-py3-none-any.whl`; `modules` maps paths (`demo.py`, `pkg/__init__.py`) to source.

    `requires` are its Requires-Dist. The same arguments give the same bytes.
    """
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"]
    metadata += [f"Requires-Dist: {requirement}\n" for requirement in requires]
    files = {
        **modules,
        f"{info}/METADATA": "".join(metadata),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: by hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [f"{path},{_record_hash(text)},{len(text.encode())}\n" for path, text in files.items()]
    files[f"{info}/RECORD"] = "".join(record) + f"{info}/RECORD,,\n"
    path = Path(directory) / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for member, text in files.items():
            facts = zipfile.ZipInfo(member)  # dated 1980: no clock in the bytes
            facts.external_attr = 0o644 << 16
            wheel.writestr(facts, text)
    return path


def build_simple_index(directory: Directory, wheels: Sequence[Path]) -> str:
    """Lay out a package index (PEP 503) of copies of `wheels`; its URL, for PIP_INDEX_URL."""
    root = Path(directory)
    for wheel in wheels:
        project = wheel.name.split("-")[0].lower().replace("_", "-")
        folder = root / project
        folder.mkdir(parents=True, exist_ok=True)
        (folder / wheel.name).write_bytes(wheel.read_bytes())
        links = "".join(f'<a href="{other.name}">{other.name}</a>\n' for other in sorted(folder.glob("*.whl")))
        (folder / "index.html").write_text(f"<!DOCTYPE html><html><body>\n{links}</body></html>\n", encoding="utf-8")
    return root.as_uri()


def _record_hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
