"""``python -m build`` gives a source distribution, and from it a wheel that works outside the checkout."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

if not (ROOT / "setup.py").is_file():
    pytest.skip("needs the sources", allow_module_level=True)
pytest.importorskip("build")

# Where a folder of the checkout lies in the wheel.
FOLDERS = {
    "data": "lightbsr_data",
    "lightbsr": "lightbsr",
    "lightbsr_arch": "lightbsr_arch",
    "lightbsr_compat": "lightbsr_compat",
    "lightbsr_models": "lightbsr_models",
    "options": "lightbsr/options",
}
PACKAGED = (".py", ".yml", ".json", ".html", ".safetensors", ".typed", ".md")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with a source distribution of a copy of the checkout, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("built")
    out = {"__pycache__", ".git", "build", "dist", ".venv", "experiments", "results", "tb_logger", "datasets", "demo"}
    copy = shutil.copytree(
        ROOT,
        folder / "checkout",
        ignore=lambda path, names: [n for n in names if n in out or n.endswith((".egg-info", "_cache"))],
    )
    words = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(copy)]  # without the network
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


@pytest.fixture(scope="module")
def wheel(built):
    (path,) = built.glob("*.whl")
    return path


def test_the_wheel_has_every_file_of_the_packages(wheel):
    expected = {"lightbsr_cli.py": ROOT / "lightbsr_cli.py"}
    for folder, place in FOLDERS.items():
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in PACKAGED:
                expected[f"{place}/{path.relative_to(ROOT / folder).as_posix()}"] = path
    assert {f"{place}/py.typed" for folder, place in FOLDERS.items() if folder != "options"} <= expected.keys()
    assert "lightbsr/weights/LICENCES.md" in expected
    with zipfile.ZipFile(wheel) as archive:
        packed = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == {name: path.read_bytes() for name, path in expected.items()}


def test_the_source_distribution_has_tests_and_tools(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    expected = {"constraints.txt", "mkdocs.yml", "Makefile", "LICENSE", "CITATION.cff", "CONTRIBUTING.md"}
    for folder in ("tests", "tools", "docs", "benchmarks"):
        files = [p for p in (ROOT / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts]
        expected |= {path.relative_to(ROOT).as_posix() for path in files}
    assert expected <= names, expected - names


def test_the_index_page_has_no_relative_link(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    page = str(metadata.get_payload())
    assert page.startswith("# LightBSR for BasicSR") and "pip install" in page
    assert re.findall(r"\]\((?!https?:)[^)]*\)", page) == []


def test_the_wheel_works_outside_the_checkout(wheel, tmp_path):
    unpacked, elsewhere = tmp_path / "unpacked", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    environment = {**os.environ, "PYTHONPATH": str(unpacked), "PYTHONWARNINGS": "ignore"}

    def run(*words):
        done = subprocess.run([sys.executable, *words], cwd=elsewhere, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    look = "import importlib, sys; print(*(importlib.import_module(name).__file__ for name in sys.argv[1:]), sep='\\n')"
    places = run("-c", look, "lightbsr", "lightbsr_arch", "lightbsr_compat", "lightbsr_data", "lightbsr_models")
    assert all(place.startswith(str(unpacked) + os.sep) for place in places.splitlines())
    look = "from lightbsr.packaged import packaged_options, packaged_weights as w; print(len(packaged_options()), *w())"
    found = run("-c", look).split()
    assert found[0] == str(len(list((ROOT / "options").rglob("*.yml"))))
    assert found[1:] == sorted(path.stem for path in (ROOT / "lightbsr" / "weights").glob("*.safetensors"))
    assert run("-m", "lightbsr", "--version") == f"lightbsr {wheel.name.split('-')[1]}\n"
