"""The `fleet` command as a whole: how it finds its groups, its exit codes, what it loads."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fleet.cli import agent, health, main, server
from fleet.cli.exitcodes import INTERRUPTED
from fleet.errors import UsageError

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("arguments", [["--help"], ["-h"]])
def test_help_lists_the_groups(arguments, capsys):
    assert main.main(arguments) == 0

    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in main.GROUPS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "usage: fleet COMMAND"),
        (["updaets"], "there is no command 'updaets'"),
        (["conjure"], "there is no command 'conjure'"),
        (["agent"], "fleet agent: --server is missing; give it, or FLEET_SERVER, or server in [agent] of the "),
        (["agent", "--server", "coap://127.0.0.1"], "fleet agent: --node-id is missing; give it, or FLEET_NODE_ID"),
        (["server", "--port", "x"], "fleet server: --port: 'x' is no port"),
        (["server", "--data-dir", "/dev/null/x"], "fleet server: --data-dir /dev/null/x: the directory cannot be made"),
        (["nodes", "--server", "http://x"], "fleet nodes: --server: URI 'http://x': it has to begin with coap://"),
    ],
)
def test_wrong_use_is_told_on_standard_error(arguments, said, capsys):
    assert main.main(arguments) == 2

    out, err = capsys.readouterr()
    assert (out, err[: len(said)]) == ("", said)


@pytest.mark.parametrize(
    "arguments", [["nodes", "lst"], ["nodes", "--sever", "x"], ["updates", "cancel"], ["health", "x"]]
)
def test_what_the_parser_does_not_know_is_wrong_use_too(arguments, capsys):
    with pytest.raises(SystemExit) as raised:
        main.main(arguments)

    assert raised.value.code == 2
    assert "usage: fleet" in capsys.readouterr().err


@pytest.mark.parametrize("group", main.GROUPS)
def test_each_group_says_what_it_takes(group, capsys):
    with pytest.raises(SystemExit) as raised:
        main.main([group, "--help"])

    assert raised.value.code == 0
    assert f"usage: fleet {group}" in capsys.readouterr().out


def test_ctrl_c_ends_a_command_without_a_traceback(monkeypatch, capsys):
    def interrupted(arguments: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(health, "main", interrupted)

    assert main.main(["health"]) == INTERRUPTED
    assert capsys.readouterr() == ("", "")


def test_ctrl_c_ends_the_waiting_for_an_answer():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.settimeout(30)
        uri = f"coap://127.0.0.1:{silent.getsockname()[1]}"
        command = [sys.executable, "-m", "fleet.cli.main", "health", "--server", uri]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            silent.recv(2000)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)

    assert (process.returncode, out, err) == (130, b"", b"")


def test_where_nobody_listens_the_exit_code_is_3(capsys):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]

    assert main.main(["health", "--server", f"coap://127.0.0.1:{port}"]) == 3

    err = capsys.readouterr().err
    assert f"coap://127.0.0.1:{port} cannot be reached: Connection refused" in err
    assert "FLEET_SERVER" in err


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_leaves_early_is_no_error(lines):
    code = (
        "import sys; from fleet.cli import main, health\n"
        f"health.main = lambda arguments: sys.stdin.read() or [print('x' * 80) for _ in range({lines})] and 0\n"
        "sys.exit(main.main(['health']))"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **pipes) as process:
        process.stdout.close()
        process.stdin.close()
        said = process.stderr.read()
        process.wait(30)

    assert (process.returncode, said) == (141, b"")


def test_without_its_packages_the_command_says_what_to_install():
    code = "import sys; sys.modules['msgspec'] = None; from fleet.cli.main import main; sys.exit(main(['health']))"

    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)

    said = "fleet health: the package msgspec is missing; pip install 'minicoap[fleet]'\n"
    assert (finished.returncode, finished.stderr) == (2, said)


def test_server_and_agent_get_what_was_given(monkeypatch, tmp_path):
    import fleet.agent.main
    import fleet.server.main

    given = []
    monkeypatch.setattr(fleet.server.main, "run", lambda config, passphrase: given.append(config) or 0)
    monkeypatch.setattr(fleet.agent.main, "run", lambda config: given.append(config) or 7)
    data = str(tmp_path / "new" / "data")

    assert server.main(["--port", "0", "--data-dir", data, "--no-push"]) == 0
    agent_flags = ["--server", "coap://127.0.0.1:9", "--node-id", "worker-03", "--service", "ssh", "--data-dir", data]
    assert agent.main(agent_flags) == 7

    served, ran = given
    assert (served.port, served.data_dir, served.push, served.plain_host) == (0, data, False, "127.0.0.1")
    assert (ran.server, ran.node_id, ran.services) == ("coap://127.0.0.1:9", "worker-03", ("ssh",))
    assert Path(data).is_dir()


def test_plain_coap_for_everyone_has_to_be_meant(tmp_path):
    with pytest.raises(UsageError, match="--insecure"):
        server.main(["--host", "0.0.0.0", "--port", "0", "--data-dir", str(tmp_path)])


def test_an_agent_loads_nothing_of_the_server_and_of_operators(tmp_path):
    code = (
        "import sys, fleet.agent.main\n"
        "fleet.agent.main.run = lambda config: print(*sys.modules) or 0\n"
        "before = set(sys.modules)\n"
        "from fleet.cli.main import main\n"
        f"main(['agent', '--server', 'coap://127.0.0.1', '--node-id', 'n', '--data-dir', {str(tmp_path)!r}])\n"
        "print(*set(sys.modules) - before)\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded, added = (line.split() for line in finished.stdout.splitlines())

    assert "fleet.agent.config" in loaded
    assert not [name for name in loaded if name.startswith(("fleet.server", "fleet.operator", "tomllib", "ssl"))]
    assert {name for name in added if not name.startswith("fleet.")} <= {"_locale", "argparse", "gettext", "locale"}
