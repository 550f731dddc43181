"""The units: what each command line leads to, and whether systemd reads the same out of them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.cli import main
from fleet.cli.units import Service, agent_unit, quote, server_unit, socket_unit
from fleet.errors import UsageError

# Where no systemd is, as on another distribution or in a small image.
ANALYZE = shutil.which("systemd-analyze")
MANAGER = "/lib/systemd/systemd"
needs_analyze = pytest.mark.skipif(ANALYZE is None, reason="no systemd-analyze: install the package systemd")
needs_manager = pytest.mark.skipif(not os.path.exists(MANAGER), reason=f"no {MANAGER}: install the package systemd")

SERVER = Service(
    name="fleet-server",
    command=("/usr/bin/python3", "-m", "fleet.cli.main", "server"),
    data_dir="/var/lib/fleet-server",
    environment_file="/etc/default/fleet-server",
)
AGENT = SERVER._replace(
    name="fleet-agent",
    command=("/usr/bin/python3", "-m", "fleet.cli.main", "agent"),
    data_dir="/var/lib/fleet-agent",
    environment_file="/etc/default/fleet-agent",
)
PIP_AGENT = AGENT._replace(python="/opt/app/bin/python", writes=("/opt", "/srv/a b%"), watches_services=True)

UNITS = {
    "server": (server_unit, SERVER),
    "server-activated": (server_unit, SERVER._replace(sockets=("127.0.0.1:5683",))),
    "server-low-port": (server_unit, SERVER._replace(port=683)),
    "server-passphrase": (server_unit, SERVER._replace(passphrase_file="/etc/fleet/pass phrase%")),
    "server-user": (server_unit, SERVER._replace(user="fleet", data_dir="/srv/fleet data")),
    "agent": (agent_unit, AGENT),
    "agent-pip": (agent_unit, PIP_AGENT),
    "agent-user": (agent_unit, PIP_AGENT._replace(user="app", writes=("/run/user/1000/app",))),
}

# The score of `systemd-analyze security`, 0 (confined) to 10 (not at all), in tenths.
EXPOSURE = {
    "server": 13,
    "server-activated": 13,
    "server-low-port": 16,
    "server-passphrase": 13,
    "server-user": 13,
    "agent": 23,
    "agent-pip": 25,
    "agent-user": 18,
}

# Every setting that is used, with the version of systemd that brought it: Debian 11 has 247.
SINCE = {
    "After": 0, "AmbientCapabilities": 229, "BindIPv6Only": 0, "CPUQuota": 213, "CapabilityBoundingSet": 0,
    "Description": 0, "DynamicUser": 232, "EnvironmentFile": 0, "ExecStart": 0, "KillMode": 0, "LimitCORE": 0,
    "ListenDatagram": 0, "LoadCredential": 247, "LockPersonality": 235,
    "MemoryHigh": 231, "MemoryMax": 231,
    "NoNewPrivileges": 187, "NotifyAccess": 0, "OOMPolicy": 243, "PrivateDevices": 209, "PrivateTmp": 0,
    "PrivateUsers": 232, "ProtectClock": 245, "ProtectControlGroups": 232, "ProtectHome": 214, "ProtectHostname": 242,
    "ProtectKernelLogs": 244, "ProtectKernelModules": 232, "ProtectKernelTunables": 232, "ProtectProc": 247,
    "ProtectSystem": 214, "ReadWritePaths": 231, "ReceiveBuffer": 0, "RemoveIPC": 212, "Requires": 0, "Restart": 0,
    "RestartSec": 0, "RestrictAddressFamilies": 211, "RestrictNamespaces": 233, "RestrictRealtime": 231,
    "RestrictSUIDSGID": 242, "SendBuffer": 0, "StartLimitIntervalSec": 230, "StateDirectory": 235,
    "StateDirectoryMode": 235, "SystemCallArchitectures": 209, "SystemCallErrorNumber": 209, "SystemCallFilter": 187,
    "TasksMax": 227, "TimeoutStartSec": 188, "TimeoutStopSec": 188, "Type": 0, "UMask": 0, "User": 0, "WantedBy": 0,
    "Wants": 0, "WatchdogSec": 183,
}  # fmt: skip
OLDEST = 247


def assignments(text):
    return [line.partition("=")[::2] for line in text.splitlines() if line and line[0] not in "#["]


def values(text, name):
    return [value for key, value in assignments(text) if key == name]


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("server", {"DynamicUser": ["yes"], "User": [], "StateDirectory": ["fleet-server"], "ReadWritePaths": []}),
        ("server", {"CapabilityBoundingSet": [""], "AmbientCapabilities": [], "PrivateUsers": ["yes"]}),
        ("server", {"Type": ["notify"], "WatchdogSec": ["90"], "Restart": ["on-failure"], "RestartSec": ["10"]}),
        ("server", {"MemoryMax": ["200M"], "MemoryDenyWriteExecute": [], "ProtectHome": ["yes"], "Requires": []}),
        ("server-activated", {"Requires": ["fleet-server.socket"]}),
        ("server-low-port", {"AmbientCapabilities": ["CAP_NET_BIND_SERVICE"], "PrivateUsers": []}),
        ("server-user", {"DynamicUser": [], "User": ["fleet"], "ReadWritePaths": ['"-/srv/fleet data"']}),
        ("server-passphrase", {"LoadCredential": ["passphrase:/etc/fleet/pass phrase%%"]}),
        ("agent", {"CapabilityBoundingSet": ["CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER"], "DynamicUser": []}),
        ("agent", {"KillMode": ["mixed"], "OOMPolicy": ["continue"], "MemoryMax": ["100M"], "ReadWritePaths": []}),
        ("agent", {"ProtectProc": ["invisible"], "StateDirectoryMode": ["0711"]}),
        ("agent-pip", {"ProtectProc": ["default"], "MemoryMax": ["256M"]}),
        ("agent-pip", {"ReadWritePaths": ["-/opt", '"-/srv/a b%%"']}),
        ("agent-user", {"User": ["app"], "CapabilityBoundingSet": [""], "ProtectHome": ["read-only"]}),
    ],
)
def test_what_a_unit_says(unit, expected):
    write, service = UNITS[unit]
    text = write(service)

    assert {name: values(text, name) for name in expected} == expected


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_uses_nothing_that_the_oldest_systemd_does_not_know(unit):
    write, service = UNITS[unit]
    used = {name for name, _ in assignments(write(service) + socket_unit(service._replace(sockets=("[::]:1",))))}

    assert [name for name in sorted(used) if SINCE.get(name, 999) > OLDEST] == []


@needs_analyze
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_finds_nothing_wrong_with_a_unit(tmp_path, unit):
    write, service = UNITS[unit]
    file = tmp_path / f"{service.name}.service"
    file.write_text(write(service))
    (tmp_path / f"{service.name}.socket").write_text(socket_unit(service._replace(sockets=("[::]:5683",))))
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"}

    run = subprocess.run(
        [ANALYZE, "verify", "--man=no", file], env=environment, capture_output=True, text=True, check=False
    )

    said = [line for line in run.stderr.splitlines() if str(tmp_path) in line or service.name in line]
    assert (run.returncode, said) == (0, [])


@needs_analyze
@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_confined(tmp_path, unit):
    write, service = UNITS[unit]
    file = tmp_path / "fleet.service"
    file.write_text(write(service))
    command = [ANALYZE, "security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE[unit]}", file]

    run = subprocess.run(command, capture_output=True, text=True, check=False)

    if "unrecognized option" in run.stderr:
        pytest.skip("this systemd-analyze knows no --offline; 250 does")
    assert run.returncode == 0, run.stdout


# Quoting


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("/opt/app", "/opt/app"),
        ("--a=b", "--a=b"),
        ("", '""'),
        ("a b", '"a b"'),
        ("100%", "100%%"),
        ("$HOME ${X}", '"$$HOME $${X}"'),
        ('say "x"', '"say \\"x\\""'),
        ("back\\slash", '"back\\\\slash"'),
        ("two\nlines\t\x01", '"two\\nlines\\t\\x01"'),
        (";", '";"'),
        ("'", '"\'"'),
        ("é", "é"),
    ],
)
def test_a_word_is_quoted(word, expected):
    assert quote(word) == expected


def test_what_is_no_text_is_refused():
    with pytest.raises(UsageError, match="UTF-8"):
        quote("\udc80")
    with pytest.raises(UsageError, match="control characters"):
        agent_unit(AGENT._replace(writes=("/a\nb",)))


def command_line(directory, words):
    """The words of ExecStart= as systemd's own parser, which prints all that it has loaded, understood them."""
    unit = Path(directory) / "quoting.service"
    unit.write_text(f"[Service]\nExecStart=/bin/true {' '.join(map(quote, words))}\n", encoding="utf-8")
    environment = {
        "HOME": directory, "XDG_RUNTIME_DIR": directory, "SYSTEMD_UNIT_PATH": f"{directory}:", "LC_ALL": "C.UTF-8",
        "SYSTEMD_LOG_TARGET": "console",
    }  # fmt: skip
    command = [MANAGER, "--test", "--user", "--unit=quoting.service"]
    if os.geteuid() == 0:  # it refuses to be tried out by root
        os.chown(directory, 65534, 65534)
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]
    run = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=60)
    found = re.search(rb"^\s*Command Line: /bin/true ?(.*)$", run.stdout, re.M)
    if found is None:
        pytest.skip(f"systemd cannot be tried out here: {run.stderr.decode(errors='replace')[-300:]}")
    return [word.replace("$$", "$") for word in split(found[1].decode())]


LETTERS = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v", b"s": b" "}


def split(line):
    """The words of a line as systemd prints it: with C's escapes, and the shell's characters escaped too."""
    words, at = [], 0
    for match in re.finditer(r' *("(?:[^"\\]|\\.)*"|[^ "]+)', line):
        assert match.start() == at, line
        at = match.end()
        text = match[1][1:-1] if match[1].startswith('"') else match[1]
        plain = re.sub(rb"\\([0-7]{3}|x[0-9a-f]{2}|.)", unescaped, text.encode(), flags=re.S)
        words.append(plain.decode())
    return words


def unescaped(match):
    escape = match[1]
    if len(escape) > 1:
        return bytes.fromhex(escape[1:].decode()) if escape[:1] == b"x" else bytes([int(escape, 8)])
    return LETTERS.get(escape, escape)


@needs_manager
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=1, max_size=8))
def test_systemd_reads_back_every_word(words):
    with tempfile.TemporaryDirectory() as directory:
        assert command_line(directory, words) == words


@needs_manager
def test_systemd_reads_back_what_means_something_to_it(tmp_path):
    words = ["%h", "$HOME", "${HOME}", "$$", "%%", ";", "a;b", '"', "'", "\\", "\\x41", "a b", "", "-", "@x", "\n", "#"]
    with tempfile.TemporaryDirectory() as directory:
        assert command_line(directory, words) == words


# The commands


@pytest.fixture
def interpreter(monkeypatch):
    """As if installed where everyone can reach it."""
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")


AGENT_FLAGS = ("--server", "coap://127.0.0.1", "--node-id", "n1")


def test_installing_again_changes_nothing_and_with_other_flags_the_unit(tmp_path, interpreter, capsys):
    unit = tmp_path / "etc/systemd/system/fleet-agent.service"
    install = ["agent", "install", "--root", str(tmp_path), *AGENT_FLAGS]

    assert main.main(install) == 0
    first = unit.read_text()
    assert capsys.readouterr().out == f"{unit} written\n"
    assert main.main(install) == 0
    assert (unit.read_text(), capsys.readouterr().out) == (first, f"{unit} is as it should be\n")
    assert main.main([*install, "--group", "a b"]) == 0
    assert '"--group=a b"' in unit.read_text()
    assert unit.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("how", ["changed", "masked", "foreign"])
def test_a_unit_that_somebody_changed_is_kept_without_force(tmp_path, interpreter, capsys, how):
    unit = tmp_path / "etc/systemd/system/fleet-server.service"
    arguments = ["--root", str(tmp_path)]
    main.main(["server", "install", *arguments])
    if how == "changed":
        unit.write_text(unit.read_text() + "Nice=5\n")
    elif how == "masked":
        unit.unlink()
        unit.symlink_to(tmp_path / "nothing")
    else:
        unit.write_text("[Service]\nExecStart=/bin/true\n")
    before = (os.path.islink(unit), how != "masked" and unit.read_text())
    capsys.readouterr()

    for action in ("install", "uninstall"):
        assert main.main(["server", action, *arguments]) == 2
        assert "was changed by hand; --force" in capsys.readouterr().err
        assert (os.path.islink(unit), how != "masked" and unit.read_text()) == before

    assert main.main(["server", "install", "--force", *arguments]) == 0
    assert not unit.is_symlink() and unit.read_text().startswith("# fleet unit ")


def test_uninstalling_removes_both_units_and_says_so_when_there_are_none(tmp_path, interpreter, capsys):
    main.main(["server", "install", "--socket", "--root", str(tmp_path)])
    directory = tmp_path / "etc/systemd/system"
    assert sorted(path.name for path in directory.iterdir()) == ["fleet-server.service", "fleet-server.socket"]

    assert main.main(["server", "uninstall", "--root", str(tmp_path)]) == 0
    assert list(directory.iterdir()) == []
    capsys.readouterr()
    assert main.main(["server", "uninstall", "--root", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"there is no {directory}/fleet-server.service\n"


def test_no_secret_gets_into_a_unit(tmp_path, interpreter, capsys, monkeypatch):
    secret = tmp_path / "passphrase"
    secret.write_text("correct horse\n")
    monkeypatch.setenv("FLEET_CA_PASSPHRASE", "battery")

    assert main.main(["server", "install", "--print", "--passphrase-file", str(secret)]) == 0

    out = capsys.readouterr().out
    assert "correct" not in out and "battery" not in out
    assert " --passphrase-file=${CREDENTIALS_DIRECTORY}/passphrase\n" in out


def test_printing_writes_nothing_and_paths_become_absolute(tmp_path, interpreter, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLEET_SERVER", "coap://192.0.2.1")

    assert main.main(["agent", "install", "--print", "--node-id", "n1", "--data-dir", "data", "--file-root", "x"]) == 0

    out, err = capsys.readouterr()
    assert f"--data-dir={tmp_path}/data --file-root={tmp_path}/x" in out
    assert values(out, "ReadWritePaths") == [f"-{tmp_path}/data", f"-{tmp_path}/x"]
    assert "192.0.2.1" not in out and "FLEET_SERVER=…" in err, "the service has another environment"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "opened"),
    [
        ([], ["127.0.0.1:5683", "[::]:5684"]),
        (["--host", "192.0.2.7"], ["192.0.2.7:5684"]),
        (["--host", "192.0.2.7", "--insecure", "--secure-port", "7"], ["192.0.2.7:5683", "192.0.2.7:7"]),
    ],
)
def test_a_socket_unit_opens_what_a_server_with_an_authority_serves(tmp_path, interpreter, capsys, flags, opened):
    (tmp_path / "data" / "pki").mkdir(parents=True)
    place = ["--data-dir", str(tmp_path / "data"), "--run-as", "fleet"]

    assert main.main(["server", "install", "--print", "--socket", *place, *flags]) == 0

    said = capsys.readouterr().out
    assert [line.partition("=")[2] for line in said.splitlines() if line.startswith("ListenDatagram=")] == opened


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["server", "install", "--host", "0.0.0.0"], "plain CoAP on 0.0.0.0 can be read"),
        (["server", "install", "--data-dir", "/srv/x"], "--data-dir /srv/x: outside of /var/lib a user has to own it"),
        (["server", "install", "--port", "x"], "--port: 'x' is no port"),
        (["server", "install", "--name", "../x"], "--name ../x: letters, digits"),
        (["server", "install", "--socket", "--host", "fleet.example", "--insecure"], "with --socket give an address"),
        (["server", "install", "--socket", "--port", "0"], "--port 0: with --socket give the port"),
        (["server", "install", "--run-as", "a b"], "--run-as a b: no user's name"),
        (["agent", "install", *AGENT_FLAGS[2:], "--server", "coap://192.0.2.1"], "plain CoAP to 192.0.2.1 can be"),
        (["agent", "install", *AGENT_FLAGS, "--python", "/app/bin/python"], "the right to write all of /"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path, interpreter, capsys, arguments, said):
    assert main.main([*arguments, "--root", str(tmp_path)]) == 2

    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_interpreter_that_the_made_up_user_cannot_reach_is_refused(tmp_path, monkeypatch, capsys):
    closed = tmp_path / "closed" / "bin"
    closed.mkdir(parents=True)
    closed.parent.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(closed / "python"))

    assert main.main(["server", "install", "--print"]) == 2

    assert "cannot be reached by the user that systemd makes up" in capsys.readouterr().err
