"""Grading: captures of our own making, one right and one wrong a test, and those of others beside their labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.scripts import CAPTURES, CASES, files
from tools.conformance.capture.files import CaptureError, read
from tools.conformance.grading.grader import grade_capture
from tools.conformance.grading.model import CASES as KNOWN
from tools.conformance.model import FAIL, INCONCLUSIVE, PASS
from tools.conformance.reports.model import worst

FOREIGN = Path(__file__).parents[3] / "shared" / "captures"
NOT_THERE = "no foreign captures: the folder shared/captures is not beside the repository"


def grade(file):
    return grade_capture(read(str(file)), {})


def test_every_test_of_a_right_and_a_wrong_conversation_is_known_and_the_other_way_round():
    assert set(CASES) == {id for id, _, _ in KNOWN}


def test_the_captures_are_what_their_scripts_make():
    made = files()

    assert {file.name for file in CAPTURES.iterdir()} == set(made)
    assert [name for name, data in made.items() if (CAPTURES / name).read_bytes() != data] == []


@pytest.mark.parametrize("id", CASES)
def test_a_right_conversation_passes_and_is_accused_of_nothing(id):
    graded = grade(CAPTURES / f"{id}_right.pcapng")
    mine = [each for each in graded.grades if each.test == id]

    assert [(each.client.verdict, each.server.verdict) for each in mine] == [(PASS, PASS)], [
        each.client.open + each.server.open for each in mine
    ]
    for each in (*graded.grades, *graded.others):
        assert each.client.faults == each.server.faults == []


@pytest.mark.parametrize("id", CASES)
def test_a_wrong_conversation_fails_on_the_side_and_at_the_frame_that_is_wrong(id):
    case = CASES[id]
    mine = [each for each in grade(CAPTURES / f"{id}_wrong.pcapng").grades if each.test == id]

    assert len(mine) == 1
    sides = {"client": mine[0].client, "server": mine[0].server}
    assert sides.pop(case.wrong_side).verdict == FAIL
    assert next(iter(sides.values())).faults == []
    accused = mine[0].client if case.wrong_side == "client" else mine[0].server
    assert case.wrong_frame in {fault.seen.number for fault in accused.faults}
    assert all(fault.section.startswith("RFC ") for fault in accused.faults)


DIFFERENT = {
    # What we find where it is not what the label says; the reasons, with frame numbers, are in docs/conformance.md.
    "TD_COAP_CORE_03_FAIL_No_CoAPOptionContentFormat": INCONCLUSIVE,
    "TD_COAP_OBS_04_FAIL_Re_registration_FAILED": INCONCLUSIVE,
    "TD_COAP_OBS_04_INCONCLUSIVE_No_Retry": None,
    "TD_COAP_OBS_05_PASS": FAIL,
    "TD_COAP_OBS_06_INCONCLUSIVE_No_Unconfirmed_notifications": None,
    "TD_COAP_OBS_10_PASS_Duplicated_ACK": FAIL,
    "TD_COAP_OBS_10_PASS_Get_different_tokens": FAIL,
}
LABELS = {"PASS": PASS, "FAIL": FAIL, "INCONCLUSIVE": INCONCLUSIVE}


def test_foreign_captures_are_graded_as_labelled_or_otherwise_for_a_reason_that_is_written_down():
    if not FOREIGN.is_dir():
        pytest.skip(NOT_THERE)
    text = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text(encoding="utf-8")
    found = {}
    expected = {}
    for file in sorted((FOREIGN / "labelled").glob("*.pcap")):
        test, label = "_".join(file.stem.split("_")[:4]), file.stem.split("_")[4]
        expected[file.stem] = DIFFERENT.get(file.stem, LABELS[label])
        sides = [
            side.verdict for each in grade(file).grades if each.test == test for side in (each.client, each.server)
        ]
        found[file.stem] = worst(sides) if sides else None

    assert len(found) == 39
    assert found == expected
    assert [name for name in DIFFERENT if f"`{name}" not in text] == []


OTHERS = {
    # frames that are CoAP, datagrams that are something else, tests, exchanges of no test
    "1coap_udp_6lowpan_802154.pcap": (2, 0, {"TD_COAP_CORE_31"}, 0),
    "CoAP_plus_random_UDP_messages.pcap": (2, 2, {"TD_COAP_CORE_07"}, 0),
    "Single_conversation_empty_token.pcap": (19, 0, {"TD_COAP_OBS_01", "TD_COAP_OBS_05"}, 0),
    "TD_LWM2M_1_INT_204_PASS.pcap": (2, 0, set(), 1),
    "Two_conversations_one_token.pcap": (16, 0, {"TD_COAP_OBS_01", "TD_COAP_OBS_09"}, 0),
    "coap_get_migled_with_tcp_traffic.pcap": (4, 0, {"TD_COAP_CORE_01", "TD_COAP_CORE_03", "TD_COAP_CORE_10"}, 0),
    "coap_udp_ipv6_loopback.pcap": (2, 0, {"TD_COAP_CORE_31"}, 0),
}


@pytest.mark.parametrize("name", OTHERS)
def test_in_foreign_captures_only_what_is_coap_is_matched(name):
    if not FOREIGN.is_dir():
        pytest.skip(NOT_THERE)
    graded = grade(FOREIGN / "other" / name)

    tests = {each.test for each in graded.grades}
    assert (graded.conversations.messages, graded.conversations.foreign, tests, len(graded.others)) == OTHERS[name]
    assert graded.conversations.stray == []


@pytest.mark.parametrize(("name", "why"), [("empty_pcap.pcap", "is empty"), ("not_a_pcap_file.dia", "is no capture")])
def test_what_is_no_capture_is_refused_by_name_and_with_a_reason(name, why):
    if not FOREIGN.is_dir():
        pytest.skip(NOT_THERE)
    with pytest.raises(CaptureError, match=f"{name} {why}"):
        grade(FOREIGN / "other" / name)
