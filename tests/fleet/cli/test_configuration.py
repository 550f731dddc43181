"""Where settings come from, and what is said of bad ones."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import pytest

from fleet.cli import agent, configuration, server
from fleet.cli.configuration import resolve
from fleet.errors import UsageError

needs_toml = pytest.mark.skipif(sys.version_info < (3, 11), reason="this Python's standard library reads no TOML")


def parsed(settings: Any, *flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    configuration.add_arguments(parser, settings)
    return parser.parse_args(flags)


def server_settings(*flags: str, environment: Any = None) -> dict[str, Any]:
    return resolve("server", server.SETTINGS, parsed(server.SETTINGS, *flags), environment or {"XDG_CONFIG_HOME": "/-"})


def agent_settings(*flags: str, environment: Any = None) -> dict[str, Any]:
    return resolve("agent", agent.SETTINGS, parsed(agent.SETTINGS, *flags), environment or {"XDG_CONFIG_HOME": "/-"})


def test_what_is_given_nowhere_is_left_to_its_default():
    assert server_settings() == {}


@needs_toml
def test_a_flag_outdoes_the_environment_which_outdoes_the_file(tmp_path):
    file = tmp_path / "fleet.toml"
    file.write_text('[server]\nhost = "192.0.2.1"\nport = 1\ndata_dir = "in-file"\n\n[agent]\nport = 9\n')
    environment = {"FLEET_CONFIG": str(file), "FLEET_PORT": "2", "FLEET_DATA_DIR": "in-environment"}

    values = server_settings("--data-dir", "in-flag", environment=environment)

    assert values == {"host": "192.0.2.1", "port": 2, "data_dir": "in-flag"}


@needs_toml
def test_the_default_file_is_read_where_there_is_one_and_config_names_another(tmp_path):
    (tmp_path / "fleet.toml").write_text("[server]\nport = 1\n")
    other = tmp_path / "other.toml"
    other.write_text("[server]\nport = 2\n")
    environment = {"XDG_CONFIG_HOME": str(tmp_path)}

    assert server_settings(environment=environment) == {"port": 1}
    assert server_settings("--config", str(other), environment=environment) == {"port": 2}


@needs_toml
def test_every_kind_of_value_can_stand_in_the_file(tmp_path):
    file = tmp_path / "fleet.toml"
    file.write_text(
        '[agent]\nnode_id = "worker-03"\ngroups = ["lab", "arm"]\nhealth_interval = 2\ninsecure = true\nport = 0\n'
    )

    values = agent_settings("--config", str(file))

    assert values == {
        "node_id": "worker-03", "groups": ("lab", "arm"), "health_interval": 2.0, "insecure": True, "port": 0,
    }  # fmt: skip


def test_every_kind_of_value_can_stand_in_the_environment_and_in_flags():
    expected = {"services": ("ssh", "docker"), "health_interval": 0.5, "insecure": True}
    environment = {"FLEET_SERVICES": "ssh,docker", "FLEET_HEALTH_INTERVAL": "0.5", "FLEET_INSECURE": "Yes"}
    flags = ("--service", "ssh", "--service", "docker", "--health-interval", "0.5", "--insecure")

    assert agent_settings(environment={"XDG_CONFIG_HOME": "/-", **environment}) == expected
    assert agent_settings(*flags) == expected


def test_a_switch_can_turn_something_off():
    assert server_settings("--no-push") == {"push": False}
    assert server_settings(environment={"XDG_CONFIG_HOME": "/-", "FLEET_PUSH": "0"}) == {"push": False}


@pytest.mark.parametrize(
    ("flags", "environment", "complaint"),
    [
        (("--port", "70000"), {}, "--port: '70000' is no port; give a number from 0 (any free one) to 65535"),
        (("--port", "x"), {}, "--port: 'x' is no port"),
        ((), {"FLEET_PORT": "-1"}, "FLEET_PORT: '-1' is no port"),
        ((), {"FLEET_INSECURE": "maybe"}, "FLEET_INSECURE: 'maybe' is neither true nor false; give one of them"),
        (("--health-interval", "0"), {}, "--health-interval: '0' is no time; give a number of seconds above 0"),
        (("--health-interval", "nan"), {}, "--health-interval: 'nan' is no time"),
        (("--artifact-quota", "8 GiB"), {}, "--artifact-quota: '8 GiB' is no size; give a number of bytes above 0"),
        (("--host", ""), {}, "--host: '' is no text"),
        (("--config", "/-/none.toml"), {}, "the configuration file /-/none.toml cannot be read: No such file"),
    ],
)
def test_a_bad_value_is_refused_by_naming_its_place_and_what_to_give(flags, environment, complaint):
    if "--config" in flags and sys.version_info < (3, 11):
        pytest.skip("this Python's standard library reads no TOML")
    with pytest.raises(UsageError) as raised:
        server_settings(*flags, environment={"XDG_CONFIG_HOME": "/-", **environment})

    assert str(raised.value).startswith(complaint)


@needs_toml
@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[server]\nport = true\n", "FILE, [server], port: True is no port"),
        ('[server]\nport = "5683"\nhost = 7\n', "FILE, [server], host: 7 is no text"),
        (
            "[server]\nprot = 5683\n",
            "FILE, [server]: there is no setting 'prot'; there are host, port, secure_port, data_dir,",
        ),
        ("[servers]\nport = 5683\n", "FILE: 'servers' is no section; there are [server], [agent], [operator]"),
        ("port = 5683\n", "FILE: 'port' is no section"),
        ("[server\n", "FILE is no TOML: "),
        ('[server]\nhost = "\udcff"\n', "FILE is no TOML: "),
    ],
)
def test_a_bad_file_is_refused_by_naming_the_key(tmp_path, content, complaint):
    file = tmp_path / "fleet.toml"
    file.write_bytes(content.encode(errors="surrogateescape"))

    with pytest.raises(UsageError) as raised:
        server_settings("--config", str(file))

    assert str(raised.value).startswith(complaint.replace("FILE", str(file)))


@needs_toml
def test_a_list_in_the_file_has_to_be_one(tmp_path):
    file = tmp_path / "fleet.toml"
    file.write_text('[agent]\ngroups = "lab"\n')

    with pytest.raises(UsageError, match=r"\[agent\], groups: 'lab' is no list; write \['lab'\]"):
        agent_settings("--config", str(file))


def test_a_python_without_toml_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "fleet.toml").write_text("[server]\nport = 1\n")
    monkeypatch.setattr(configuration.sys, "version_info", (3, 9, 18))
    monkeypatch.setitem(sys.modules, "tomli", None)

    with pytest.raises(UsageError, match=r"Python 3\.9 needs a package: pip install tomli"):
        server_settings(environment={"XDG_CONFIG_HOME": str(tmp_path)})

    assert server_settings("--port", "1") == {"port": 1}


def test_a_node_id_follows_the_rule_of_node_ids():
    with pytest.raises(UsageError, match=r"--node-id: '\.\./x' is no node id: use 1 to 64 letters"):
        agent_settings("--node-id", "../x")
