"""Reports: what each form says, that all say the same, and the exit code."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicoap.codec.pcapng import datagram, interface, packet, section
from minicoap.errors import UsageError
from tests.conformance.scripts import CAPTURES, CASES
from tools.conformance.__main__ import main
from tools.conformance.capture.files import read
from tools.conformance.capture.links import Dissector
from tools.conformance.frames import Frame
from tools.conformance.recording import LiveCapture, Recorder
from tools.conformance.reports.dissection import PAYLOAD_LINE, PAYLOAD_LINES, dissect, label
from tools.conformance.reports.junit import junit
from tools.conformance.reports.model import FAULT, Finding, Reason, Report, Shown
from tools.conformance.reports.page import page

A, B = ("192.0.2.1", 40000), ("192.0.2.2", 5683)
GET = bytes.fromhex("4401abcd01020304b474657374")
NASTY = b"<script>alert('\x00\x1b')</script>&\"]]>\xff\xfe"
ANSWER = bytes.fromhex("6445abcd01020304c0ff") + NASTY


def finding(verdict, *, level="must", id="TD_1", reasons=None, packets=(GET, ANSWER)):
    if reasons is None:
        reasons = [Reason(FAULT, "a rule <b> & more", "RFC 7252 §1", level, 2)] if verdict == "fail" else []
    shown = [Shown(number, 10.0 + number, A, B, data) for number, data in enumerate(packets, 1)]
    return Finding(id, "a title & <i>", "server", level, "RFC 7252", verdict, ("step one", "step <two>"), reasons,
                   shown, 1.5)  # fmt: skip


REPORT = Report(
    "coap://[::1] & <co>",
    1_700_000_000.0,
    [
        finding("pass"),
        finding("fail", id="TD_2"),
        finding("fail", level="should", id="TD_3"),
        finding("inconclusive", id="TD_4", reasons=[Reason("open", "why not")]),
        finding("not applicable", id="TD_5", packets=()),
    ],
    ["a note"],
)


@pytest.mark.parametrize(("fail_on", "failed"), [("must", ["TD_2"]), ("should", ["TD_2", "TD_3"])])
def test_junit_fails_what_counts_and_skips_what_is_open(fail_on, failed):
    suite = ET.fromstring(junit(REPORT, fail_on)).find("testsuite")

    cases = suite.findall("testcase")
    assert [case.get("name").split()[0] for case in cases if case.find("failure") is not None] == failed
    assert suite.get("tests") == "5"
    assert suite.get("failures") == str(len(failed))
    assert suite.get("skipped") == str(len([case for case in cases if case.find("skipped") is not None]))
    failure = cases[1].find("failure")
    assert "a rule <b> & more (RFC 7252 §1, must)" in failure.get("message")
    assert ANSWER.hex() in failure.text


def test_the_document_has_everything_and_can_be_read_back():
    document = json.loads(json.dumps(REPORT.document()))

    assert document["counts"] == {"pass": 1, "fail": 2, "inconclusive": 1, "not applicable": 1}
    failed = document["findings"][1]
    assert (failed["id"], failed["verdict"], failed["reasons"][0]["frame"]) == ("TD_2", "fail", 2)
    assert failed["packets"][1]["bytes"] == ANSWER.hex()
    assert "".join(part["bytes"] for part in failed["packets"][1]["parts"]) == ANSWER.hex()


class Reader(HTMLParser):
    """Checks that elements nest, and keeps what would be loaded from elsewhere, ids and texts."""

    VOID = ("meta", "input", "br", "link", "img")

    def __init__(self):
        super().__init__()
        self.open, self.loaded, self.ids, self.scripts, self.texts = [], [], [], 0, []

    def handle_starttag(self, tag, attributes):
        if tag not in self.VOID:
            self.open.append(tag)
        self.scripts += tag == "script"
        self.loaded += [value for name, value in attributes if name in ("src", "href") and not value.startswith("#")]
        self.ids += [value for name, value in attributes if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_the_page_needs_nothing_but_itself_and_shows_what_devices_send_as_text():
    text = page(REPORT)
    reader = Reader()
    reader.feed(text)
    reader.close()

    assert reader.open == []
    assert reader.loaded == []
    assert reader.scripts == 1
    assert len(reader.ids) == len(set(reader.ids))
    assert not re.search(r"url\(|@import|https?://", text)
    shown = " ".join(reader.texts)
    for word in ("TD_2", "A rule <b> & more", "step <two>", "a note", "44", "01 02 03 04", "<script>alert"):
        assert word in shown, word


def test_a_long_exchange_is_shown_in_part_and_says_so():
    text = page(Report("x", 0.0, [finding("pass", packets=[GET] * 300)]))

    assert text.count('class="arrow') == 200
    assert "100 packets more" in text


@given(st.one_of(st.binary(max_size=80), st.binary(max_size=60).map(lambda tail: GET + tail)))
def test_the_parts_of_any_datagram_are_all_its_bytes_in_order(data):
    parts = dissect(data)

    assert b"".join(part.data for part in parts) == data
    assert [part.offset for part in parts] == sorted(part.offset for part in parts)
    well_formed = Frame(0.0, True, A, B, data).message is not None
    if well_formed:
        assert all(part.name != "wrong" for part in parts)
    else:
        assert any(part.is_wrong for part in parts) or not data
    label(data)


def test_a_long_payload_is_cut_and_says_so():
    parts = dissect(GET + b"\xff" + bytes(2000))

    assert parts[-1].value == f"{2000 - PAYLOAD_LINE * PAYLOAD_LINES} bytes more"


@pytest.mark.parametrize(
    ("id", "fail_on", "code"),
    [("CORE_01", "must", 1), ("OBS_07", "must", 0), ("OBS_07", "should", 1), ("OBS_09", "should", 0),
     ("OBS_09", "advice", 1)],
)  # fmt: skip
def test_grade_exits_by_the_level_that_counts(id, fail_on, code, capsys):
    assert main(["grade", str(CAPTURES / f"TD_COAP_{id}_wrong.pcapng"), "--fail-on", fail_on]) == code
    assert "fail" in capsys.readouterr().out


def test_grade_writes_all_forms_of_its_report(tmp_path, capsys):
    html, xml, document = (tmp_path / name for name in ("page.html", "report.xml", "report.json"))
    arguments = ["--html", str(html), "--junit", str(xml), "--json", str(document)]

    assert main(["grade", str(CAPTURES / "TD_COAP_CORE_01_wrong.pcapng"), *arguments]) == 1

    shown = capsys.readouterr().out
    assert "fail            TD_COAP_CORE_01          server: GET, confirmable" in shown
    assert "packet 2: ACK · 2.02 Deleted" in shown
    assert "\x1b" not in shown
    assert "TD_COAP_CORE_01" in html.read_text(encoding="utf-8")
    assert ET.parse(xml).getroot().get("failures") == "2"  # CORE_10 is in it too: it has a token
    assert json.loads(document.read_text(encoding="utf-8"))["counts"]["fail"] == 2


def test_resources_of_other_names_are_graded_by_a_map(tmp_path, capsys):
    file = tmp_path / "map"
    capture = tmp_path / "renamed.pcapng"
    sent = [(at, here, there, data.replace(b"\xb4test", b"\xb4temp")) for at, here, there, data in
            CASES["TD_COAP_CORE_01"].right]  # fmt: skip
    parts = [packet(1000.0 + at, datagram(here, there, data)) for at, here, there, data in sent]
    capture.write_bytes(section("a test") + interface("any") + b"".join(parts))
    file.write_text("readable = /temp\n", encoding="utf-8")

    assert main(["grade", str(capture)]) == 0
    assert "belong to no test" in capsys.readouterr().out
    assert main(["grade", str(capture), "--resources", str(file)]) == 0
    assert "pass            TD_COAP_CORE_01" in capsys.readouterr().out


@pytest.mark.parametrize(("content", "why"), [(b"", "is empty"), (b"<xml/>", "is no capture")])
def test_grade_says_what_is_wrong_with_a_file(tmp_path, capsys, content, why):
    file = tmp_path / "odd"
    file.write_bytes(content)

    assert main(["grade", str(file)]) == 2
    assert why in capsys.readouterr().err


def tshark(*arguments):
    command = shutil.which("tshark")
    if command is None:
        pytest.skip("tshark is not installed (Debian: tshark)")
    return subprocess.run([command, *arguments], capture_output=True, text=True, check=True, timeout=300).stdout


def test_a_recording_is_read_by_ourselves_and_by_tshark(tmp_path):
    file = tmp_path / "recording.pcapng"
    frames = [
        Frame(1_700_000_000.25, True, A, B, GET),
        Frame(1_700_000_000.5, False, ("2001:db8::1", 5683), ("2001:db8::2", 40000), ANSWER),
    ]
    with Recorder(str(file)) as recorder:
        for frame in frames:
            recorder(frame)

    dissector = Dissector()
    found = [dissector.datagram(each) for each in read(str(file))]
    assert [(each.at, each.source, each.destination, each.data) for each in found] == [
        (frame.at, frame.source, frame.destination, frame.data) for frame in frames
    ]
    rows = tshark("-r", str(file), "-T", "fields", "-e", "frame.time_epoch", "-e", "coap.mid", "-e", "_ws.malformed")
    assert [row.split("\t")[1:] for row in rows.splitlines()] == [["43981", ""], ["43981", ""]]


def test_tshark_reads_every_capture_of_ours(tmp_path):
    """They are joined into one file: a file of several sections is a file."""
    everything = tmp_path / "all.pcapng"
    everything.write_bytes(b"".join(file.read_bytes() for file in sorted(CAPTURES.iterdir())))
    count = sum(len(case.right) + len(case.wrong) for case in CASES.values())

    rows = tshark("-r", str(everything), "-T", "fields", "-e", "coap.mid", "-e", "_ws.malformed", "-e", "coap.version")

    assert [row.split("\t")[1:] for row in rows.splitlines()] == [["", "1"]] * count


def test_an_interface_is_recorded_from_where_the_system_permits(tmp_path):
    pytest.importorskip("scapy")
    file = tmp_path / "live.pcapng"
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        server.bind(("127.0.0.1", 0))
        try:
            capture = LiveCapture(str(file), "lo", server.getsockname())
        except UsageError as error:
            pytest.skip(str(error))
        with capture:
            for _ in range(3):
                client.sendto(GET, server.getsockname())
                server.recv(100)

    dissector = Dissector()
    found = [dissector.datagram(each) for each in read(str(file))]
    assert [each.data for each in found] == [GET] * 3


@pytest.mark.parametrize(
    ("arguments", "why"),
    [(["--capture", "lo"], "--record FILE"), (["--capture", "nowhere0", "--record", "x.pcapng"], "--capture nowhere0")],
)
def test_a_capture_that_cannot_be_is_refused_with_the_reason(arguments, why, tmp_path, monkeypatch, capsys):
    pytest.importorskip("scapy")
    monkeypatch.chdir(tmp_path)

    assert main(["run", "coap://127.0.0.1:9", *arguments]) == 2
    assert why in capsys.readouterr().err
