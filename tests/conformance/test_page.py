"""The page in a real browser, where one is installed: no fault that axe finds, at every width, by day and by night.

Needs Debian's `chromium`, and npm's `axe-core` below a folder of NODE_PATH.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from tests.conformance.scripts import CAPTURES
from tools.conformance.__main__ import main

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LOOK = """
<script>%(axe)s</script>
<script type="module">
for (const each of [...document.querySelectorAll("details")].slice(0, 20)) each.open = true;
const told = document.createElement("pre");
told.id = "axe";
axe.run(document.body.parentNode, {resultTypes: ["violations"]}).then((found) => {
  const summaries = [...document.querySelectorAll("summary")];
  summaries[0].focus();
  told.textContent = JSON.stringify({
    violations: found.violations.map((each) => [each.id, each.nodes.length, each.nodes[0].html]),
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    width: innerWidth,
    dark: matchMedia("(prefers-color-scheme: dark)").matches,
    focused: document.activeElement === summaries[0],
    shown: document.getElementById("told").textContent,
  });
  document.body.append(told);
});
</script></body>"""


def tools():
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("no chromium (Debian: chromium)")
    folders = [Path(folder) for folder in os.environ.get("NODE_PATH", "").split(os.pathsep) if folder]
    axe = next((folder / "axe-core" / "axe.min.js" for folder in folders if (folder / "axe-core").is_dir()), None)
    if axe is None:
        pytest.skip("no axe-core below NODE_PATH (npm install axe-core)")
    return browser, axe.read_text(encoding="utf-8")


@pytest.mark.parametrize("capture", ["TD_COAP_OBS_07_wrong", "TD_COAP_BLOCK_05_right"])
@pytest.mark.parametrize(("width", "scheme"), [(500, "1"), (500, "0"), (1280, "1"), (1280, "0")])
def test_axe_finds_nothing_and_nothing_is_wider_than_the_screen(tmp_path, width, scheme, capture):
    browser, axe = tools()
    page = tmp_path / "page.html"
    main(["grade", str(CAPTURES / f"{capture}.pcapng"), "--html", str(page)])
    text = page.read_text(encoding="utf-8").replace("</body>", LOOK % {"axe": axe})
    page.write_text(text, encoding="utf-8")

    arguments = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000",
        f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900",
        f"--blink-settings=preferredColorScheme={scheme}", "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=300)
    found = re.search(r'<pre id="axe">(.*?)</pre>', done.stdout, re.DOTALL)

    assert found is not None, done.stderr[-2000:]
    seen = json.loads(unescape(found[1]))
    assert seen["violations"] == []
    assert seen["overflow"] <= 0
    assert seen["width"] == width
    assert seen["dark"] == (scheme == "0")
    assert seen["focused"]
    assert re.fullmatch(r"(\d+) of \1 shown", seen["shown"])
