"""The documentation keeps up with the code: links lead somewhere, and every error message has its entry."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_spec = importlib.util.spec_from_file_location("messages", Path(__file__).with_name("messages.py"))
assert _spec is not None and _spec.loader is not None
messages = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(messages)


def text_of(page):
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page):
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ +(.*?)\s*$", text_of(page), flags=re.MULTILINE)
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        if not path.is_file() or (anchor and anchor not in anchors(path)):
            broken.append(target)
        elif page.parent != ROOT and not path.is_relative_to(ROOT / "docs"):
            broken.append(f"{target} leaves docs/, which the built site does not")
    assert broken == []


def test_every_error_message_has_an_entry():
    page = text_of(ROOT / "docs" / "troubleshooting.md")
    entries = re.findall(r"^- `(.+)`$", page, flags=re.MULTILINE)
    described = {messages.normalised(entry) for entry in entries}
    found = {
        messages.normalised(shape): (shape, file) for file, shapes in messages.collect().items() for shape in shapes
    }
    missing = [f"- `{shape}`" for key, (shape, _) in found.items() if key not in described]
    stale = [entry for entry in entries if messages.normalised(entry) not in found]
    assert not missing, "put into docs/troubleshooting.md, with what to do:\n" + "\n".join(missing)
    assert not stale, "no longer raised; take out of docs/troubleshooting.md:\n" + "\n".join(stale)


def test_the_collector_sees_every_way_in_which_messages_are_made(tmp_path):
    for package in messages.PACKAGES:
        (tmp_path / package).mkdir()
    (tmp_path / "data" / "a.py").write_text(
        """
class Unreadable(InputError): ...
class Worse(Unreadable): ...
def refuse(sentence) -> InputError:
    return InputError(f"file {path!r}: {sentence}")
def check():
    raise InputError(f"size is {self.size}, but must be {'even' if a else 'odd'}{nearest(x, y)}")
    raise InputError("one " f"sentence of {opt['two']:.1f} parts") from None
    raise module.Worse("it is bad")
    raise refuse(f"no such key {key!r}")
    raise InputError("\\n".join([f"all of {count} failed:", *faults]))
    raise InputError("either this" if a else "or that")
    raise InputError(str(error))
    raise KeyError("is not shown to anybody")
    findings.append(f"{where}: is missing")
    findings += [f"{where}: is new {name}" for name in names]
def disk_findings():
    return [f"the disk is full {free}"]
"""
    )
    assert messages.collect(tmp_path) == {
        "data/a.py": [
            "size is <size>, but must be <a><hint>",
            "one sentence of <two> parts",
            "it is bad",
            "no such key <key>",
            "all of <count> failed:",
            "either this",
            "or that",
            "<where>: is missing",
            "<where>: is new <name>",
            "the disk is full <free>",
        ]
    }


def test_the_site_is_built_without_a_warning_and_asks_nothing_of_the_network(tmp_path):
    pytest.importorskip("material")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 8
    loaded = (
        r"<(?:script|img|iframe)[^>]+src=.?(?:https?:|//)"
        r"|<link[^>]+href=.?(?:https?:|//)[^>]+(?:stylesheet|icon|preconnect)"
    )
    for page in pages:
        assert not re.search(loaded, page.read_text(encoding="utf-8")), page.name
