"""Units of systemd for server and agent, as text: valid from systemd 247 (Debian 11) on.

What a unit allows is what the command needs that it starts, and each line that is not plain says why. Figures are
measured ones with room: a server of 1,000 nodes holds 31 MB, an idle agent 22 MB (over CoAPS 37), pip at an 18 MB
wheel 84 MB.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple, Optional

from fleet.errors import UsageError

STATE_ROOT = "/var/lib"  # what StateDirectory= is relative to
HOMES = ("/home", "/root", "/run/user")  # what ProtectHome= hides
LOWEST_FREE_PORT = 1024
CREDENTIAL = "passphrase"

_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}


class Service(NamedTuple):
    """What a unit is made of. Paths are absolute.

    `command` starts the service; `data_dir` is where it keeps everything, and `writes` are the other directories that
    it changes. `reads` are paths that have to be visible to it. `user` is who it runs as: for a server, "" is a user
    that systemd makes up for it, for an agent it is root. `port` is bound by the service itself.
    """

    name: str
    command: tuple[str, ...]
    data_dir: str
    environment_file: str
    writes: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    user: str = ""
    passphrase_file: Optional[str] = None
    port: int = 0
    sockets: tuple[str, ...] = ()  # ADDRESS:PORT of what the socket unit opens
    python: str = ""  # of an agent: the environment that pip jobs change
    watches_services: bool = False


def server_unit(service: Service) -> str:
    """The `.service` of a server."""
    low_port = 0 < service.port < LOWEST_FREE_PORT and not service.sockets
    ability = ["CAP_NET_BIND_SERVICE"] if low_port else []
    lines = [
        *_unit("Fleet update server", service),
        *_process(service),
        "# A start may have to read a large database, and to bring it to a newer schema; a stop waits for answers.",
        "TimeoutStartSec=300",
        "TimeoutStopSec=45",
        "",
        *(
            [f"User={_path(service.user)}"]
            if service.user
            else [
                "# A user of its own, made up at the start, who owns nothing but the data directory.",
                "DynamicUser=yes",
            ]
        ),
        *_data(service, "0700"),
        "UMask=0077",
        "",
        "# Measured: 31 MB with 1,000 nodes. The database and the store pass through the page cache, which counts",
        "# here and gives way at MemoryHigh.",
        *_limits(high="160M", most="200M", cpu="100%", tasks=64),
        "",
        *_ability(ability),
        *_confinement(service),
        "ProtectProc=invisible",
        *([] if low_port else ["PrivateUsers=yes"]),
        "SystemCallFilter=@system-service",
        "SystemCallFilter=~@privileged @resources @keyring @memlock",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return _text(lines)


def socket_unit(service: Service) -> str:
    """The `.socket` through which systemd starts a server and keeps its port."""
    return _text(
        [
            "[Unit]",
            "Description=Socket of the fleet update server",
            "",
            "[Socket]",
            *(f"ListenDatagram={address}" for address in service.sockets),
            "BindIPv6Only=both",
            "ReceiveBuffer=1M",
            "SendBuffer=1M",
            "",
            "[Install]",
            "WantedBy=sockets.target",
        ]
    )


def agent_unit(service: Service) -> str:
    """The `.service` of an agent."""
    is_root = service.user in ("", "root")
    lines = [
        *_unit("Fleet update agent", service),
        *_process(service),
        "TimeoutStartSec=60",
        "TimeoutStopSec=30",
        "# A stop is for the agent alone, which ends its installer as a power cut would: the journal knows how to go",
        "# on. An installer that got the signal too would report a failure, and the job would be rolled back.",
        "KillMode=mixed",
        "",
        *([] if is_root else [f"User={_path(service.user)}"]),
        "# Installed files are for others to read, also those below the data directory.",
        *_data(service, "0711"),
        "UMask=0022",
        "",
        *(
            [
                "# Measured: 22 MB idle, 37 over CoAPS; at a job with an 18 MB wheel, the installer's 20 MB and pip's",
                "# 84 MB on top.",
                "# An installer that takes too much ends alone, and its job is rolled back.",
                *_limits(high="160M", most="256M", cpu="50%", tasks=128),
            ]
            if service.python
            else [
                "# Measured: 22 MB idle, 37 over CoAPS, and 20 MB for the installer of files.",
                *_limits("80M", "100M", "50%", 64),
            ]
        ),
        "OOMPolicy=continue",
        "",
    ]
    if is_root:
        lines += [
            "# Root, with three of its abilities: an installer replaces files in directories of other users",
            "# (DAC_OVERRIDE), keeps hard links to the old ones and sets modes (FOWNER), and gives what is new the",
            "# owner that the old had (CHOWN). --run-as USER takes these away too, where all that changes is USER's.",
        ]
    port = ["CAP_NET_BIND_SERVICE"] if 0 < service.port < LOWEST_FREE_PORT else []
    if is_root:
        lines += ["CapabilityBoundingSet=" + " ".join(["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", *port])]
    else:
        lines += _ability(port)
    lines += [
        *_confinement(service),
        *(
            [
                "# Services whose state is reported are also looked for among all processes, by name.",
                "ProtectProc=default",
            ]
            if service.watches_services
            else ["ProtectProc=invisible"]
        ),
        "SystemCallFilter=@system-service",
        "SystemCallFilter=~@setuid @keyring @memlock @resources",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return _text(lines)


def quote(word: str) -> str:
    """One word of a command line (ExecStart=), which arrives as it is: no specifier, no variable, no escape."""
    escaped = "".join(
        _ESCAPES.get(letter) or (f"\\x{ord(letter):02x}" if ord(letter) < 32 or ord(letter) == 127 else letter)
        for letter in _encodable(word)
    )
    escaped = escaped.replace("%", "%%").replace("$", "$$")
    is_plain = escaped and all(letter.isalnum() or letter in "-_./:,=@+%$" for letter in escaped)
    return escaped if is_plain else f'"{escaped}"'


def _path(path: str) -> str:
    """One path of a setting that takes several."""
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in _encodable(path)):
        raise UsageError(f"{path!r}: a unit cannot name a path with control characters; give another")
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"' if set(escaped) & set(" '\\") else escaped


def _plain_path(path: str) -> str:
    """A path where systemd takes the rest of the line as it is, but for specifiers."""
    _path(path)
    return path.replace("%", "%%")


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{text!r}: a unit is UTF-8, and this is not; give another") from error
    return text


def _unit(description: str, service: Service) -> list[str]:
    lines = ["[Unit]", f"Description={description}", "Wants=network-online.target", "After=network-online.target"]
    if service.sockets:
        lines += [f"Requires={service.name}.socket", f"After={service.name}.socket"]
    # Devices have nobody who would start it by hand; RestartSec= keeps the attempts apart.
    return [
        *lines,
        "# It is tried for ever: a disk may be mounted, or a port be free, later.",
        "StartLimitIntervalSec=0",
        "",
    ]


def _process(service: Service) -> list[str]:
    executable, *arguments = service.command
    words = [quote(executable), *map(quote, arguments)]
    credential = []
    if service.passphrase_file is not None:
        words.append(f"--passphrase-file=${{CREDENTIALS_DIRECTORY}}/{CREDENTIAL}")
        credential = [f"LoadCredential={CREDENTIAL}:{_plain_path(service.passphrase_file)}"]
    return [
        "[Service]",
        "Type=notify",
        "NotifyAccess=main",
        "ExecStart=" + " ".join(words),
        *credential,
        "# Settings as FLEET_NAME=value, secrets above all, which have no place in a unit; the file is for root alone",
        "# to read (0600). Paths belong on the command line: what may be written is derived from them.",
        f"EnvironmentFile=-{service.environment_file}",
        "Restart=on-failure",
        "RestartSec=10",
        "WatchdogSec=90",
    ]


def _data(service: Service, mode: str) -> list[str]:
    lines = []
    below, writes = service.data_dir, list(service.writes)
    if below.startswith(STATE_ROOT + "/"):
        lines += [f"StateDirectory={_path(os.path.relpath(below, STATE_ROOT))}", f"StateDirectoryMode={mode}"]
    else:
        writes.insert(0, below)
    if service.python:
        lines += [
            "# The environment of pip jobs is put back by renaming, so the directory above it has to be writable."
        ]
    # A directory that is missing is no reason not to run: what needs it says so.
    lines += [f"ReadWritePaths={_quoted_optional(path)}" for path in writes]
    return lines


def _quoted_optional(path: str) -> str:
    quoted = _path(path)
    return '"-' + quoted[1:] if quoted.startswith('"') else "-" + quoted


def _limits(high: str, most: str, cpu: str, tasks: int) -> list[str]:
    return [f"MemoryHigh={high}", f"MemoryMax={most}", f"CPUQuota={cpu}", f"TasksMax={tasks}", "LimitCORE=0"]


def _ability(names: Sequence[str]) -> list[str]:
    if not names:
        return ["CapabilityBoundingSet="]
    return [f"CapabilityBoundingSet={' '.join(names)}", f"AmbientCapabilities={' '.join(names)}"]


def _confinement(service: Service) -> list[str]:
    used = (*service.reads, *service.writes, service.data_dir)
    at_home = any(path == home or path.startswith(home + "/") for path in used for home in HOMES)
    return [
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        *(["# Something of its own is in somebody's home."] if at_home else []),
        f"ProtectHome={'read-only' if at_home else 'yes'}",
        "PrivateTmp=yes",
        "PrivateDevices=yes",
        "ProtectClock=yes",
        "ProtectControlGroups=yes",
        "ProtectHostname=yes",
        "ProtectKernelLogs=yes",
        "ProtectKernelModules=yes",
        "ProtectKernelTunables=yes",
        "LockPersonality=yes",
        "RemoveIPC=yes",
        "RestrictNamespaces=yes",
        "RestrictRealtime=yes",
        "RestrictSUIDSGID=yes",
        "# CoAP and names; unix for the socket on which systemd hears of it.",
        "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
        "SystemCallArchitectures=native",
        "SystemCallErrorNumber=EPERM",
        "# No MemoryDenyWriteExecute=: pyOpenSSL's callbacks, which DTLS needs, are made of such memory.",
    ]


def _text(lines: Sequence[str]) -> str:
    return "\n".join(lines) + "\n"
