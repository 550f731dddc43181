"""`fleet enroll`: a device gets its certificate, waits, is refused, is used wrongly; its server is another's fleet."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Callable

import pytest

from fleet.cli import enroll
from fleet.cli.main import main
from fleet.errors import NetworkError
from fleet.pki.authority import Authority
from fleet.pki.certificates import DAY
from fleet.pki.enrolment import EstRequest, Exchange
from fleet.pki.keys import grouped
from fleet.pki.keystore import Keystore
from fleet.pki.registrar import Registrar
from fleet.server.resources.est import EstResource
from minicoap.codec.message import Options
from minicoap.codec.options import ACCEPT, CONTENT_FORMAT, encode_uint
from minicoap.core.request import Request, Response, SecurePath
from tests.fleet.cli.conftest import Ran
from tests.fleet.pki.certified import an_authority

NOW = 1_795_000_000


class AServer:
    """The server's resources, asked in place of a connection; `trusted` are what connections verified it by."""

    def __init__(self, directory: Path) -> None:
        self.now = NOW
        self.authority: Authority = an_authority(directory, NOW)
        self.registrar = Registrar(self.authority)
        self.trusted: list[Any] = []
        self.asked: list[tuple[str, ...]] = []
        self.is_down = False
        self.clock = self
        self.audit = self
        self._handlers = {
            resource.path.rpartition("/")[2]: next(iter(resource.handlers.values()))
            for resource in EstResource(self, self.registrar).resources()  # type: ignore[arg-type]
        }

    def certified(self, request: Any, what: str, subject: str) -> None:
        """Nobody reads the trail here."""

    def refused(self, request: Any, resource: str, code: int, what: str) -> None:
        """Nobody reads the trail here."""

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return 0.0

    def is_wall_trusted(self) -> bool:
        return True

    @asynccontextmanager
    async def connected(self, server: Any, trust: Any, trace: object = None) -> AsyncIterator[Exchange]:
        self.trusted.append(trust)

        async def exchange(asked: EstRequest) -> Response:
            if self.is_down:
                raise NetworkError("no answer")
            self.asked.append(asked.path)
            numbers = ((ACCEPT, asked.accept), (CONTENT_FORMAT, asked.content_format))
            options = Options([(number, encode_uint(value)) for number, value in numbers if value is not None])
            request = Request(asked.code, SecurePath(("192.0.2.1", 1)), options, asked.payload, 0.0)
            response = self._handlers[asked.path[-1]](request)
            assert isinstance(response, Response)
            return response

        yield exchange


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AServer]:
    server = AServer(tmp_path / "pki")
    monkeypatch.setattr(enroll, "connected", server.connected)
    monkeypatch.setattr(enroll, "SystemClock", lambda: server)
    yield server
    server.authority.close()


@pytest.fixture
def device(tmp_path: Path, server: AServer, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run `fleet enroll` as the device pump-7."""

    def run(*arguments: str) -> Ran:
        common = ["--server", "coaps://192.0.2.7", "--node-id", "pump-7", "--data-dir", str(tmp_path / "node")]
        try:
            code = main(["enroll", *common, *arguments])
        except SystemExit as ended:
            code = int(ended.code or 0)
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return run


def a_token_file(server: AServer, directory: Path, **options: Any) -> str:
    (directory / "token").write_text(server.authority.make_token(server.now, **options)[0] + "\n")
    return str(directory / "token")


def test_a_token_and_the_fingerprint_are_all_it_needs(
    device: Callable[..., Ran], server: AServer, tmp_path: Path
) -> None:
    fingerprint = grouped(server.authority.fingerprint)

    ran = device("--fingerprint", fingerprint, "--token-file", a_token_file(server, tmp_path))

    assert ran.code == 0, ran.err
    assert "node pump-7 is enrolled until" in ran.out
    holder = Keystore(str(tmp_path / "node" / "credentials")).holder()
    assert holder is not None
    assert holder.principal == ("node", "pump-7")
    # What was asked of a server that was not verified is the authority alone.
    assert [path[-1] for path in server.asked] == ["crts", "sen"]
    assert server.trusted == [None, [server.authority.certificate]]


def test_the_authoritys_certificate_in_a_file_does_as_well(
    device: Callable[..., Ran], server: AServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEET_TOKEN", server.authority.make_token(NOW)[0])

    ran = device("--ca", str(tmp_path / "pki" / "ca.pem"), "--json")

    assert json.loads(ran.out)["node_id"] == "pump-7"
    assert json.loads(ran.out)["authority"] == server.authority.fingerprint
    assert server.trusted == [[server.authority.certificate]]


def test_another_fleet_is_told_nothing(device: Callable[..., Ran], server: AServer, tmp_path: Path) -> None:
    ran = device("--fingerprint", "ab" * 32, "--token-file", a_token_file(server, tmp_path))

    assert (ran.code, "not the fleet that was meant" in ran.err) == (1, True)
    assert [path[-1] for path in server.asked] == ["crts"]
    assert len(server.authority.register.tokens(NOW)) == 1


def test_without_token_it_waits_saying_so_and_can_be_stopped_and_started(
    device: Callable[..., Ran], server: AServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 1:
            raise KeyboardInterrupt
        (pending,) = server.registrar.pending(NOW)
        server.registrar.accept("pump-7", NOW, "alice", key=pending.request.key)

    monkeypatch.setattr(enroll.asyncio, "sleep", sleep)
    arguments = ("--ca", str(tmp_path / "pki" / "ca.pem"), "--wait")

    assert device(*arguments).code == 130
    (pending,) = server.registrar.pending(NOW)
    ran = device(*arguments)

    assert ran.code == 0, ran.err
    assert grouped(pending.request.key) in ran.err
    assert "fleet nodes accept" in ran.err
    assert waited == [15, 15]


def test_refusals_and_silence_have_their_exit_codes(
    device: Callable[..., Ran], server: AServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wrong").write_text("ghhvq2yw6dq2gpk3sq7qyqvuzu")
    refused = device("--ca", str(tmp_path / "pki" / "ca.pem"), "--token-file", str(tmp_path / "wrong"))
    assert (refused.code, "(4.03 Forbidden)" in refused.err) == (1, True)
    assert "ghhvq2" not in refused.err + refused.out

    server.is_down = True
    silent = device("--ca", str(tmp_path / "pki" / "ca.pem"), "--token-file", a_token_file(server, tmp_path))
    assert (silent.code, "is the server running there" in silent.err) == (3, True)


def test_a_device_that_has_a_certificate_keeps_it_unless_told(
    device: Callable[..., Ran], server: AServer, tmp_path: Path
) -> None:
    ca = ("--ca", str(tmp_path / "pki" / "ca.pem"))
    assert device(*ca, "--token-file", a_token_file(server, tmp_path)).code == 0
    before = (tmp_path / "node/credentials/identity.pem").read_bytes()

    again = device(*ca, "--token-file", a_token_file(server, tmp_path))
    assert (again.code, "--again" in again.err) == (2, True)
    taken = device(*ca, "--token-file", a_token_file(server, tmp_path), "--again")
    assert (taken.code, "fleet pki replace pump-7" in taken.err) == (1, True)
    assert (tmp_path / "node/credentials/identity.pem").read_bytes() == before
    bound = a_token_file(server, tmp_path, node_id="pump-7", replaces=True)
    assert device(*ca, "--token-file", bound, "--again").code == 0
    assert (tmp_path / "node/credentials/identity.pem").read_bytes() != before


def test_a_device_whose_certificate_expired_gets_the_next_by_the_same_key(
    device: Callable[..., Ran], server: AServer, tmp_path: Path
) -> None:
    ca = ("--ca", str(tmp_path / "pki" / "ca.pem"))
    keystore = Keystore(str(tmp_path / "node" / "credentials"))
    assert device(*ca, "--token-file", a_token_file(server, tmp_path)).code == 0
    first = keystore.holder()
    server.now = NOW + 91 * DAY

    assert device(*ca, "--token-file", a_token_file(server, tmp_path)).code == 0

    second = keystore.holder()
    assert first is not None
    assert second is not None
    assert first.key.public_key() == second.key.public_key()
    assert second.not_after > first.not_after


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "--fingerprint"),
        (("--fingerprint", "ab" * 32, "--ca", "ca.pem"), "--fingerprint"),
        (("--fingerprint", "ab"), "64 hex digits"),
        (("--ca", "none.pem"), "cannot be read"),
        (("--ca", __file__), "no certificate in PEM"),
        (("--fingerprint", "ab" * 32), "no token"),
        (("--fingerprint", "ab" * 32, "--token-file", "none"), "cannot be read"),
        (("--fingerprint", "ab" * 32, "--token-file", __file__), "one line"),
        (("--fingerprint", "ab" * 32, "--token-file", os.devnull), "one line"),
        (("--fingerprint", "ab" * 32, "--wait", "--server", "coap://192.0.2.7"), "coaps://"),
        (("--fingerprint", "ab" * 32, "--wait", "--server", "coaps://192.0.2.7/x"), "host and port only"),
        (("--fingerprint", "ab" * 32, "--wait", "--node-id", "../x"), "is no node id"),
        (("--token", "secret"), "unrecognized arguments"),
    ],
)
def test_wrong_use_is_told_with_the_remedy(
    device: Callable[..., Ran], server: AServer, arguments: tuple[str, ...], complaint: str
) -> None:
    ran = device(*arguments)

    assert (ran.code, ran.out) == (2, "")
    assert complaint in ran.err, ran.err
    assert server.asked == []


@pytest.mark.parametrize("name", ["server", "node_id"])
def test_what_is_missing_is_named(name: str, server: AServer, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"server": "coaps://192.0.2.7", "node_id": "pump-7"}
    del given[name]

    arguments = [part for key, value in given.items() for part in ("--" + key.replace("_", "-"), value)]

    assert main(["enroll", *arguments]) == 2
    assert "--" + name.replace("_", "-") in capsys.readouterr().err
