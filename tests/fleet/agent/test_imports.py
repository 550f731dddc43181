"""What an idle agent has imported, in a real process that registered, reported and has heard a hint, by an allow-list.

Python never gives imports back: whatever gets in here stays in the memory of every device for months.
"""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys

import pytest

from fleet.pki.connection import client_credentials
from fleet.pki.keystore import Keystore
from minicoap.asyncio.endpoint import Endpoint
from minicoap.codec import codes
from tests.system.certified import Fleet
from tests.system.processes import ROOT, Machine, Operator, environment, wait_until

OURS = {
    "fleet": {
        "", "agent", "agent.agent", "agent.backoff", "agent.config", "agent.download", "agent.journal", "agent.machine",
        "agent.main", "agent.membership", "agent.outbox", "agent.resources", "agent.runner", "agent.steps", "cli",
        "cli.agent", "cli.configuration", "cli.exitcodes", "cli.main", "cli.process", "errors", "host",
        "host.addresses", "host.boot", "host.clock", "host.facts", "host.files", "host.lock", "host.notify",
        "host.processes", "install", "install.interface", "model", "model.answers", "model.api", "model.api_answers",
        "model.artifacts", "model.executions", "model.formats", "model.health", "model.jobs", "model.keys",
        "model.mergepatch", "model.nodes", "model.requirements", "model.targets", "model.times",
    },
    "minicoap": {
        "", "codec", "codec.cbor", "codec.codes", "codec.contentformats", "codec.linkformat", "codec.message",
        "codec.options", "codec.problem", "codec.uri", "core", "core.backoff", "core.block_bodies", "core.block_client",
        "core.block_download", "core.block_server", "core.body", "core.congestion", "core.deduplication", "core.echo",
        "core.endpoint", "core.entropy", "core.exchange", "core.fairness", "core.flight", "core.identity", "core.late",
        "core.machine", "core.observe_client", "core.observe_server", "core.observer", "core.outgoing",
        "core.parameters", "core.peer", "core.reliability", "core.request", "core.request_tag", "core.resource",
        "core.rto", "core.siphash", "core.timers", "core.transmission", "errors", "poll", "poll.addresses", "poll.loop",
        "shell", "shell.addresses", "shell.entropy", "shell.local", "shell.loop", "shell.udp",
    },
}  # fmt: skip

# msgspec reads messages, with typing_extensions in older Pythons where that happens to be there.
THIRD_PARTY = {"msgspec"} if sys.version_info >= (3, 11) else {"msgspec", "typing_extensions"}

# Of the standard library, by what wants it; its own helpers, whose names begin with an underscore, come with these.
STANDARD = {
    "every interpreter": {
        "abc", "builtins", "codecs", "encodings", "genericpath", "importlib", "io", "marshal", "os", "posix",
        "posixpath", "site", "sitecustomize", "stat", "sys", "time", "usercustomize", "warnings", "zipimport",
    },
    "the language": {
        "annotationlib", "ast", "collections", "contextlib", "contextvars", "copyreg", "dis", "enum", "functools",
        "heapq", "inspect", "itertools", "keyword", "linecache", "opcode", "operator", "re", "reprlib", "sre_compile",
        "sre_constants", "sre_parse", "struct", "textwrap", "token", "tokenize", "traceback", "types", "typing",
        "weakref",
    },
    "sockets and the loop": {"array", "errno", "math", "select", "selectors", "signal", "socket", "threading"},
    "the log": {"atexit", "logging", "string"},
    "the journal": {"fcntl", "zlib"},
    "messages": {"datetime", "decimal", "numbers", "platform", "uuid"},
    "the command line": {"argparse", "gettext", "locale"},
}  # fmt: skip

if sys.version_info < (3, 11):
    STANDARD["platform, which msgspec wants"] = {"grp", "pwd", "subprocess"}

# What a node with a certificate has besides: OpenSSL as `cryptography` brings it, and what that wants.
SECURED_OURS = {
    "fleet": {
        "agent.access", "agent.renewal", "agent.secured", "model.roles", "pki", "pki.certificates", "pki.connection",
        "pki.enrolment", "pki.keys", "pki.keystore", "pki.names", "pki.renewal", "pki.requests",
    },
    "minicoap": {
        "security", "security.association", "security.credentials", "security.dtls", "security.engine",
        "security.handshakes", "security.hello", "security.lost", "security.remedies", "security.sessions",
        "shell.floodfilter", "shell.junction", "shell.secure",
    },
}  # fmt: skip
SECURED_THIRD_PARTY = {"cryptography", "OpenSSL", "cffi", "typing_extensions"}
SECURED_STANDARD = {
    "base64", "binascii", "bisect", "calendar", "copy", "dataclasses", "email", "hashlib", "hmac", "ipaddress",
    "quopri", "random", "urllib",
}  # fmt: skip

# What cost megabytes when it came in by the back door.
NEVER = (
    "asyncio", "concurrent", "psutil", "ssl", "_ssl", "hashlib", "_hashlib", "secrets", "sqlite3",
    "cbor2", "json", "importlib.metadata", "email", "zipfile", "http", "fleet.server", "fleet.operator",
    "fleet.install.worker", "fleet.install.pip", "fleet.install.file",
)  # fmt: skip

WATCHED = """
import signal, sys
def tell(number, frame):
    with open(sys.argv[1], "w") as file:
        file.write("\\n".join([*sys.modules, "."]))
signal.signal(signal.SIGUSR1, tell)
from fleet.cli.main import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    directory = tmp_path_factory.mktemp("idle")
    return asyncio.run(modules_of_an_idle_agent(directory))


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    directory = tmp_path_factory.mktemp("secured")
    return asyncio.run(modules_of_an_idle_agent_with_a_certificate(directory))


async def modules_of_an_idle_agent(directory):
    with Machine(directory) as machine:
        server = await machine.server()
        async with Endpoint() as endpoint:
            operator = Operator(endpoint, server.uri)

            async def use():
                (node,) = (await operator.get("/nodes"))["nodes"]
                on_node = Operator(endpoint, "coap://" + node["address"])
                await on_node.post("/updates/available", {"job_id": "no such job"})
                assert (await on_node.ask(codes.GET, "/system")).body["job"] is None

            return await modules_after(use, directory, operator, server.uri)


async def modules_of_an_idle_agent_with_a_certificate(directory):
    with Fleet(directory) as fleet:
        await fleet.begin()
        fleet.enroll("n1")
        async with fleet.endpoint("alice") as endpoint:
            operator = Operator(endpoint, fleet.uri)

            async def use():
                (node,) = (await operator.get("/nodes"))["nodes"]
                holder = Keystore(str(directory / "alice")).holder()
                credentials = client_credentials(holder)
                credentials.server = "urn:fleet:node:n1"
                async with Endpoint(credentials=credentials) as alice:
                    on_node = Operator(alice, "coaps://" + node["address"])
                    assert (await on_node.ask(codes.GET, "/system")).body["job"] is None

            return await modules_after(use, directory, operator, fleet.uri)


async def modules_after(use, directory, operator, uri):
    """What an agent holds that has registered, and was used."""
    told = directory / "modules"
    command = [
        sys.executable, "-c", WATCHED, str(told), "agent", "--server", uri, "--node-id", "n1",
        "--port", "0", "--service", "ssh", "--data-dir", str(directory / "n1"),
    ]  # fmt: skip
    agent = subprocess.Popen(command, env=environment(directory), cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        await operator.online("n1")
        await use()
        agent.send_signal(signal.SIGUSR1)
        await wait_until(lambda: told.exists() and told.read_text().endswith("\n."), "the agent's modules")
        return set(told.read_text().split("\n")[:-1])
    finally:
        agent.kill()
        agent.wait()


def unexpected(imported, ours, others):
    found = []
    for name in sorted(imported):
        top, _, rest = name.partition(".")
        if not (rest in ours[top] if top in ours else top in others or top.startswith("_")):
            found.append(name)
    return found


def test_an_idle_agent_holds_no_module_that_nobody_allowed(imported):
    assert unexpected(imported, OURS, set().union(THIRD_PARTY, *STANDARD.values())) == []


def test_an_idle_agent_with_a_certificate_holds_what_that_takes_and_nothing_more(secured):
    ours = {top: names | SECURED_OURS[top] for top, names in OURS.items()}
    others = set().union(THIRD_PARTY, SECURED_THIRD_PARTY, SECURED_STANDARD, *STANDARD.values())

    assert unexpected(secured, ours, others) == []
    assert {f"{top}.{rest}" for top, names in SECURED_OURS.items() for rest in names} - secured == set()


@pytest.mark.parametrize("name", [*(name for name in NEVER if name not in ("hashlib", "email")), "email.message"])
def test_an_idle_agent_with_a_certificate_does_without(secured, name):
    assert [module for module in secured if module == name or module.startswith(name + ".")] == []


def test_what_a_small_device_is_told_to_load_once_is_all_that_an_idle_agent_holds(imported, secured):
    manual = (ROOT / "docs/deployment.md").read_text("utf-8")
    (loading,) = re.findall(r"/opt/fleet/bin/python -c '(import .*)'", manual)
    for idle, more in ((imported, ""), (secured, ", fleet.agent.secured")):
        tell = f"{loading}{more}\nimport sys\nprint(*sys.modules)"
        loaded = subprocess.run(
            [sys.executable, "-c", tell], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        ours = {name for name in idle if name.partition(".")[0] in OURS}
        assert ours - set(loaded.split()) == set()


@pytest.mark.parametrize("name", NEVER)
def test_an_idle_agent_does_without(imported, name):
    assert [module for module in imported if module == name or module.startswith(name + ".")] == []


def test_the_list_allows_no_module_of_ours_that_is_not_there(imported):
    assert {f"{top}.{rest}" if rest else top for top, names in OURS.items() for rest in names} - imported == set()
