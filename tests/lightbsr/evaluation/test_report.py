"""The report in a real browser: no network, no console error, and the sliders move."""

import json
import re
import shutil
import subprocess

import pytest

from lightbsr_cli import main

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

# Goes in front of the page's own script, hears of every error, and uses the page when it is loaded.
PROBE = """
<script>
  const found = {errors: [], requests: []};
  addEventListener("error", event => found.errors.push(String(event.message || event.target.outerHTML)), true);
  addEventListener("securitypolicyviolation", event => found.errors.push(event.blockedURI));
  addEventListener("load", () => {
    const figures = [...document.querySelectorAll(".comparison")];
    found.figures = figures.length;
    found.images = [...document.querySelectorAll(".slider img")].every(i => i.complete && i.naturalWidth > 0);
    const figure = figures[0], range = figure.querySelector("input"), before = figure.querySelector(".before");
    found.clips = [];
    for (const value of [50, 20, 90]) {
      range.value = value;
      range.dispatchEvent(new Event("input"));
      found.clips.push([getComputedStyle(before).clipPath, figure.querySelector(".edge").style.left]);
    }
    const select = figure.querySelector(".pick-after"), after = figure.querySelector(".after");
    found.sources = [...select.options].map((option, i) => {
      select.value = i;
      select.dispatchEvent(new Event("change"));
      return after.src;
    });
    found.requests = performance.getEntriesByType("resource").map(e => e.name).filter(n => !n.startsWith("data:"));
    document.documentElement.setAttribute("data-found", JSON.stringify(found));
  });
</script>
"""


@pytest.fixture
def report(data, weights, tmp_path):
    words = ["--method", f"LightBSR={weights('a')}", "--device", "cpu", "--speed-size", "8", "8"]
    assert main(["benchmark", "--data", str(data), "--out", str(tmp_path / "out"), *words]) == 0
    return tmp_path / "out" / "report.html"


def test_the_page_holds_everything(report):
    text = report.read_text(encoding="utf-8")
    assert "http://" not in text and "https://" not in text
    assert all(url.startswith("data:") for url in re.findall(r'(?:src|href)="([^"]*)"', text))
    assert text.count("data:image/png") == 1 and text.count('class="comparison"') == 3 + 2
    assert "32.47" in text and "LightBSR (ours)" in text and text.count('class="ours"') == 2 + 2


def test_in_a_browser(report, tmp_path):
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    page = tmp_path / "probed.html"
    text = report.read_text(encoding="utf-8")
    page.write_text(text.replace("<script>", PROBE + "<script>", 1), encoding="utf-8")
    words = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    words += ["--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--virtual-time-budget=5000"]
    result = subprocess.run([*words, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in result.stderr
    match = re.search(r'data-found="([^"]*)"', result.stdout)
    assert match is not None, result.stderr[-2000:]
    found = json.loads(match[1].replace("&quot;", '"').replace("&amp;", "&"))
    assert found["errors"] == [] and found["requests"] == []
    assert found["figures"] == 5 and found["images"]
    clips = [["inset(0px 50% 0px 0px)", "50%"], ["inset(0px 80% 0px 0px)", "20%"], ["inset(0px 10% 0px 0px)", "90%"]]
    assert found["clips"] == clips
    assert len(set(found["sources"])) == 4  # bicubic, the method, LR and HR
