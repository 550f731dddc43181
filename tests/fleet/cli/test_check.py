"""`--check-config`: every problem with its setting and its remedy, and nothing is changed."""

from __future__ import annotations

import os
import socket
import sqlite3
import sys

import pytest

from fleet.cli import main
from fleet.host.lock import held
from fleet.server.store.sqlite import SqliteLedger
from tests.system.processes import make_environment

needs_toml = pytest.mark.skipif(sys.version_info < (3, 11), reason="this Python's standard library reads no TOML")
as_user = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("FLEET_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-config"))
    monkeypatch.chdir(tmp_path)


def tree(directory):
    """All that is below a directory, with what would show a change."""
    found = {}
    for path in sorted(directory.rglob("*")):
        facts = path.lstat()
        found[str(path)] = (facts.st_mode, facts.st_size, facts.st_mtime_ns, path.is_file() and path.read_bytes())
    return found


def checked(capsys, directory, *arguments):
    """The exit code and the lines of a check, which must change nothing."""
    before = tree(directory)
    code = main.main([arguments[0], "--check-config", *arguments[1:]])
    assert tree(directory) == before
    return code, capsys.readouterr().out.splitlines()


def test_a_server_with_which_nothing_is_wrong(tmp_path, capsys):
    data = tmp_path / "new" / "data"

    assert checked(capsys, tmp_path, "server", "--port", "0", "--data-dir", str(data)) == (0, ["nothing is wrong"])


def test_a_server_with_data_of_an_earlier_life(tmp_path, capsys):
    ledger = SqliteLedger(str(tmp_path / "fleet.sqlite"), lambda completion: completion())
    ledger.close()

    assert checked(capsys, tmp_path, "server", "--port", "0", "--data-dir", str(tmp_path))[0] == 0


def test_an_agent_with_which_nothing_is_wrong(tmp_path, capsys):
    python = make_environment(tmp_path / "app")
    flags = ["--server", "coap://127.0.0.1", "--node-id", "n1", "--port", "0", "--data-dir", str(tmp_path / "data")]
    code, said = checked(capsys, tmp_path, "agent", *flags, "--python", python, "--file-root", str(tmp_path / "root"))

    assert (code, said) == (0, ["nothing is wrong"])


def test_all_that_is_wrong_with_a_server_is_told_at_once(tmp_path, capsys):
    (tmp_path / "data").write_text("a file")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", 0))
        port = str(taken.getsockname()[1])
        flags = ["--host", "0.0.0.0", "--port", port, "--data-dir", "data", "--health-interval", "never"]
        code, said = checked(capsys, tmp_path, "server", *flags)

    assert code == 2
    for line, wanted in zip(
        said,
        [
            "--health-interval: 'never' is no time; give ",
            "plain CoAP on 0.0.0.0 can be read and forged",
            f"--data-dir {tmp_path}/data: this is no directory; give another",
            f"--host 0.0.0.0 --port {port}: Address already in use: another process has it; stop that",
            "4 to be put right",
        ],
    ):
        assert line.startswith(wanted)


def test_all_that_is_wrong_with_an_agent_is_told_at_once(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    (tmp_path / "no" / "bin").mkdir(parents=True)
    (tmp_path / "no" / "bin" / "python").symlink_to(sys.executable)
    flags = ["--server", "http://127.0.0.1", "--port", "0", "--python", "no/bin/python", "--file-root", "file/root"]
    code, said = checked(capsys, tmp_path, "agent", *flags)

    assert code == 2
    assert [line.partition(":")[0].partition(" ")[0] for line in said[:-1]] == [
        "--node-id", "--server", "--python", "--file-root",
    ]  # fmt: skip
    assert "python3 -m venv" in said[2]
    assert said[-1] == "4 to be put right"


def test_a_node_without_a_certificate_and_one_with_anothers(tmp_path, capsys):
    flags = ["--server", "coaps://127.0.0.1", "--node-id", "n1", "--port", "0", "--data-dir", "data"]
    data = tmp_path / "data"

    code, said = checked(capsys, tmp_path, "agent", *flags)
    assert code == 2
    assert said[0].endswith("/data/credentials: run `fleet enroll` first")

    assert main.main(["pki", "init", "--data-dir", str(tmp_path / "server")]) == 0
    issue = ["pki", "issue", "node", "n2", "--data-dir", str(tmp_path / "server")]
    assert main.main([*issue, "--out", str(data / "credentials")]) == 0
    capsys.readouterr()
    code, said = checked(capsys, tmp_path, "agent", *flags)
    assert (code, said[0].startswith("--node-id n1: this node's certificate is for n2")) == (2, True)


def test_the_port_of_coaps_is_looked_at_where_there_is_an_authority(tmp_path, capsys):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", 0))
        port = str(taken.getsockname()[1])
        flags = ["--port", "0", "--secure-port", port, "--data-dir", str(tmp_path)]
        assert checked(capsys, tmp_path, "server", *flags)[0] == 0
        (tmp_path / "pki").mkdir()
        code, said = checked(capsys, tmp_path, "server", *flags)

    assert code == 2
    assert said[0].startswith(f"--host 0.0.0.0 --secure-port {port}: Address already in use")


@pytest.mark.parametrize(
    ("python", "said"), [("app/bin/nothing", "no program that can be run"), ("app", "no program that can be run")]
)
def test_an_interpreter_that_is_none(tmp_path, capsys, python, said):
    make_environment(tmp_path / "app")
    flags = ["--server", "coap://127.0.0.1", "--node-id", "n1", "--port", "0", "--python", python]

    code, lines = checked(capsys, tmp_path, "agent", *flags)

    assert (code, said in lines[0]) == (2, True)


@needs_toml
def test_all_that_is_wrong_with_the_file_is_told(tmp_path, capsys):
    file = tmp_path / "fleet.toml"
    file.write_text('x = 1\n[server]\nport = "y"\nhots = 1\n')

    code, said = checked(capsys, tmp_path, "server", "--config", str(file))

    assert code == 2
    assert f"{file}: 'x' is no section" in said[0]
    assert f"{file}, [server]: there is no setting 'hots'" in said[1]
    assert f"{file}, [server], port: 'y' is no port" in said[2]


def test_the_environment_is_checked_too(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FLEET_ARTIFACT_QUOTA", "much")

    code, said = checked(capsys, tmp_path, "server", "--port", "0")

    assert (code, said[0].startswith("FLEET_ARTIFACT_QUOTA: 'much' is no size")) == (2, True)


@pytest.mark.parametrize("content", [b"no database at all, but long enough to be one" * 100, "newer"])
def test_a_database_that_cannot_be_used(tmp_path, capsys, content):
    file = tmp_path / "fleet.sqlite"
    if content == "newer":
        database = sqlite3.connect(file)
        database.execute("PRAGMA user_version = 9999")
        database.close()
    else:
        file.write_bytes(content)

    code, said = checked(capsys, tmp_path, "server", "--port", "0", "--data-dir", str(tmp_path))

    assert (code, f"the database {file} " in said[0]) == (2, True)


def test_one_that_runs_is_left_alone(tmp_path, capsys):
    with held(str(tmp_path), "server"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as its_own:
        its_own.bind(("127.0.0.1", 0))
        port = str(its_own.getsockname()[1])

        code, said = checked(capsys, tmp_path, "server", "--port", port, "--data-dir", str(tmp_path))

    assert code == 0
    assert said[0] == f"the server on {tmp_path} is running: its port and its files were left alone"


@as_user
def test_directories_that_cannot_be_written(tmp_path, capsys):
    tmp_path.chmod(0o555)
    try:
        code, said = checked(capsys, tmp_path, "server", "--port", "0", "--data-dir", str(tmp_path / "data"))
    finally:
        tmp_path.chmod(0o755)

    assert (code, "cannot make it in" in said[0]) == (2, True)
