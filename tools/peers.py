#!/usr/bin/env python3
"""Fetch libcoap 4.3.5 or later, a peer that Debian 12 does not have, into a folder; the system stays as it is.

    tools/peers.py DIRECTORY

Its packages are those of Debian's unstable suite, from the mirror that this system uses and checked by its keyring,
with all they depend on; they are unpacked, not installed, and run by their own dynamic loader. Prints the two commands,
`coap-client` and `coap-server`, one a line; with `-L 5` they use Q-Block where the peer, asked first, has it. What
DIRECTORY has already is not fetched again. Needs apt and dpkg; exits with 1 and a reason where the packages cannot be
had.

Standard library only.
"""

import argparse
import stat
import subprocess
import sys
from pathlib import Path
from typing import Dict, List

PACKAGE = "libcoap3-bin"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
COMMANDS = {"coap-client": "coap-client-gnutls", "coap-server": "coap-server-gnutls"}


def main() -> int:
    """Do what the module says."""
    parser = argparse.ArgumentParser(description="Fetch libcoap with Q-Block (RFC 9177) into DIRECTORY.")
    parser.add_argument("directory", type=Path)
    directory = parser.parse_args().directory.resolve()
    commands = [directory / name for name in COMMANDS]
    try:
        if not all(command.exists() for command in commands):
            fetch(directory)
    except (OSError, subprocess.SubprocessError, LookupError) as error:
        detail = getattr(error, "stderr", None) or error
        print(f"peers.py: libcoap cannot be had: {detail}".rstrip(), file=sys.stderr)
        return 1
    print(*commands, sep="\n")
    return 0


def fetch(directory: Path) -> None:
    """Download the packages, unpack them and write the commands."""
    apt = directory / "apt"
    for name in ("state/lists/partial", "cache/archives/partial"):
        (apt / name).mkdir(parents=True, exist_ok=True)
    (apt / "status").touch()  # nothing is installed, so that every dependency is fetched
    (apt / "sources.list").write_text(_source(), encoding="utf-8")
    options = {
        "Dir::State": apt / "state",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Debug::NoLocking": "1",
    }
    command = ["apt-get", "-qq"] + [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    _run([*command, "update"])
    _run([*command, "--yes", "--no-install-recommends", "--download-only", "install", PACKAGE])
    root = directory / "root"
    for package in sorted((apt / "cache" / "archives").glob("*.deb")):
        _run(["dpkg", "-x", str(package), str(root)])
    loader = _one(root, "ld-linux*.so.*")
    libraries = ":".join(sorted({str(path.parent) for path in root.rglob("*.so.*") if "gconv" not in str(path)}))
    for name, binary in COMMANDS.items():
        script = directory / name
        script.write_text(
            f'#!/bin/sh\nexec "{loader}" --library-path "{libraries}" "{_one(root, binary)}" "$@"\n', encoding="utf-8"
        )
        script.chmod(script.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


def _source() -> str:
    """Return the line for apt that names the unstable suite of this system's mirror."""
    release: Dict[str, str] = {}
    for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition("=")
        release[name] = value.strip('"')
    for line in _run(["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)"]).splitlines():
        fields = line.split()
        if release.get("ID") == "debian" and fields[0] == release.get("VERSION_CODENAME"):
            signed_by = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""  # else what apt trusts
            return f"deb {signed_by}{fields[1]} unstable main\n"
    raise LookupError("this system has no mirror of Debian")


def _one(root: Path, pattern: str) -> Path:
    """Return the file below `root` that is called so."""
    for path in sorted(root.rglob(pattern)):
        if path.is_file():
            return path
    raise LookupError(f"no package has a file {pattern}")


def _run(command: List[str]) -> str:
    """Run a command of the system; return what it printed."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    sys.exit(main())
