"""The report as one HTML page that needs nothing but itself: verdicts, ladder diagrams, packets byte by byte.

It works without JavaScript, which only adds the filter. What opens and closes are `details` elements, so that a
keyboard and a screen reader find them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from tools.conformance.frames import Address
from tools.conformance.model import FAIL, VERDICTS
from tools.conformance.reports.dissection import dissect, label
from tools.conformance.reports.model import FAULT, Finding, Reason, Report, Shown

MOST_PACKETS = 200  # of a finding; a recording has all
_HERE = Path(__file__).parent


def page(report: Report) -> str:
    """Return the page."""
    title = f"CoAP conformance of {report.subject}"
    counts = ", ".join(f"{count} {verdict}" for verdict, count in report.counts.items() if count) or "no tests"
    began = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(report.began_at))
    style = (_HERE / "page.css").read_text(encoding="utf-8")
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    notes = "".join(f"<p>{escape(note)}</p>" for note in report.notes)
    body = "".join(_finding(finding) for finding in report.findings)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#findings">To the findings</a>
<header>
<h1>{escape(title)}</h1>
<p>{escape(counts)}. <span class="soft">Begun {began}.</span></p>
{notes}
<form hidden>
<fieldset><legend>Show</legend>{_choices(report)}</fieldset>
<label>with the words <input type="search" name="words" size="16"></label>
<button type="button" id="open">Open or close all</button>
<span id="told" role="status" class="soft"></span>
</form>
</header>
<main id="findings" tabindex="-1">
{body}
</main>
<footer>Packets are numbered as in the recording; a line of a diagram opens to show its bytes.</footer>
<script>{script}</script>
</body>
</html>
"""


def _choices(report: Report) -> str:
    choices = ['<label><input type="radio" name="verdict" value="" checked> all</label>']
    choices += [
        f'<label><input type="radio" name="verdict" value="{_class(verdict)}"> {verdict}</label>'
        for verdict in VERDICTS
        if report.counts[verdict]
    ]
    return "".join(choices)


def _class(verdict: str) -> str:
    return verdict.replace(" ", "-")


def _finding(finding: Finding) -> str:
    facts = f'<p class="soft">{escape(f"{finding.level.upper()}, {finding.section}")}</p>' if finding.section else ""
    steps = "".join(f"<li>{escape(step)}</li>" for step in finding.steps)
    reasons = "".join(_reason(reason) for reason in finding.reasons)
    return (
        f'<details class="finding {_class(finding.verdict)}"{" open" if finding.verdict == FAIL else ""}>'
        f'<summary><span class="verdict">{finding.verdict}</span> <span class="id">{escape(finding.id)}</span> '
        f'<span class="title">{escape(finding.title)}</span> '
        f'<span class="soft">{finding.side}, {finding.seconds:.2f} s</span></summary>'
        f"<div>{facts}"
        + (f'<ul class="reasons">{reasons}</ul>' if reasons else "")
        + (f"<h2>What it is about</h2><ol>{steps}</ol>" if steps else "")
        + (_ladder(finding) if finding.packets else "<p>No packets.</p>")
        + "</div></details>\n"
    )


def _reason(reason: Reason) -> str:
    where = f" ({escape(reason.section)}, {reason.level.upper()})" if reason.section else ""
    packet = f" Packet {reason.frame}." if reason.frame else ""
    kind = ' class="fault"' if reason.kind == FAULT else ""
    return f"<li{kind}>{escape(_sentence(reason.text))}{where}{packet}</li>"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _ladder(finding: Finding) -> str:
    packets = finding.packets[:MOST_PACKETS]
    parties = _parties(packets)
    places = {party: place for place, party in enumerate(parties, 1)}
    offenders = {reason.frame for reason in finding.reasons if reason.kind == FAULT}
    names = "".join(f"<span>{escape(_address(party))}</span>" for party in parties)
    rungs = "".join(
        _rung(packet, packets[0].at, places, packet.number in offenders, max(1, len(parties) - 1)) for packet in packets
    )
    left = len(finding.packets) - len(packets)
    more = f"<p>{left} packets more are in the recording.</p>" if left else ""
    return (
        f'<h2>Packets</h2><div class="parties" style="--parties:{len(parties)}">{names}</div>'
        f'<ol class="ladder">{rungs}</ol>{more}'
    )


def _parties(packets: Iterable[Shown]) -> list[Address]:
    """Return the addresses, the one that most packets concern last: the server, wherever there are several clients."""
    counts: dict[Address, int] = {}
    for packet in packets:
        for address in (packet.source, packet.destination):
            counts[address] = counts.get(address, 0) + 1
    first = list(counts)
    if len(first) <= 2:
        return first
    busiest = max(first, key=lambda address: counts[address])
    return [*(address for address in first if address != busiest), busiest]


def _rung(packet: Shown, began_at: float, places: dict[Address, int], is_offender: bool, spans: int) -> str:
    here, there = places[packet.source], places[packet.destination]
    way = "right" if there >= here else "left"
    begin, end = (min(here, there), max(here, there)) if here != there else (1, 2)
    text = escape(label(packet.data))
    offender = ' class="offender"' if is_offender else ""
    spoken = escape(f"Packet {packet.number}, from {_address(packet.source)}: ")
    return (
        f"<li{offender}><details{' open' if is_offender else ''}><summary>"
        f'<span class="at">{packet.number}: {packet.at - began_at:+.3f} s</span>'
        f'<span class="way" style="--spans:{spans}">'
        f'<span class="arrow {way}" style="--from:{begin};--to:{end}" title="{spoken}">{text}</span></span>'
        f"</summary>{_bytes(packet)}</details></li>"
    )


def _bytes(packet: Shown) -> str:
    rows = "".join(
        f"<tr{' class=wrong' if part.is_wrong else ''}><td>{part.offset}</td>"
        f'<td class="bytes">{part.data.hex(" ")}</td><th scope="row">{escape(part.name)}</th>'
        f"<td>{escape(part.value)}</td></tr>"
        for part in dissect(packet.data)
    )
    caption = (
        f"Packet {packet.number}, {_address(packet.source)} to {_address(packet.destination)}, {len(packet.data)} bytes"
    )
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="Bytes of packet {packet.number}">'
        f"<table><caption>{escape(caption)}</caption>"
        '<thead><tr><th scope="col">at</th><th scope="col">bytes</th><th scope="col">field</th>'
        f'<th scope="col">value</th></tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _address(address: Sequence[object]) -> str:
    host, port = address[0], address[1]
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
