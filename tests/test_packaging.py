"""What ``python -m build`` gives: a wheel that works outside the checkout, and a source distribution that makes it."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
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
PACKAGED = (".py", ".yml", ".json", ".html", ".safetensors", ".typed")


def build(source, out, *what):
    """Build without the network, with what is installed."""
    words = [sys.executable, "-m", "build", "--no-isolation", *what, "--outdir", str(out), str(source)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def contents(wheel):
    """SHA-256 of every file of a wheel, by its name."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with a wheel and a source distribution, made of a copy of the checkout."""
    folder = tmp_path_factory.mktemp("built")
    out = {"__pycache__", ".git", "build", "dist"} | {p.name for p in ROOT.glob(".*_cache")} | {".venv"}
    data = {"experiments", "results", "tb_logger", "datasets", "demo", "site"}
    copy = shutil.copytree(
        ROOT,
        folder / "checkout",
        ignore=lambda path, names: [
            n for n in names if n in out or n.endswith(".egg-info") or (path == str(ROOT) and n in data)
        ],
    )
    build(copy, folder, "--sdist", "--wheel")
    return folder


@pytest.fixture(scope="module")
def wheel(built):
    (path,) = built.glob("*.whl")
    return path


def test_the_wheel_holds_every_file_of_the_packages(wheel):
    packed = set(contents(wheel))
    expected = set()
    for folder, place in FOLDERS.items():
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in PACKAGED:
                expected.add(f"{place}/{path.relative_to(ROOT / folder).as_posix()}")
    assert len(expected) > 100
    assert expected <= packed
    rest = {name for name in packed - expected if ".dist-info/" not in name}
    assert rest == set()


def test_the_source_distribution_makes_the_same_wheel_and_holds_the_tests(built, wheel, tmp_path):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    for name in ("tests/conftest.py", "tests/golden/pca_projector.npz", "docs/protocols.md", "mkdocs.yml", "LICENSE"):
        assert (source / name).is_file(), name
    build(source, tmp_path / "again", "--wheel")
    (again,) = (tmp_path / "again").iterdir()
    assert contents(again) == contents(wheel)


LOOK = """
import importlib, os, sys
names = ["lightbsr", "lightbsr_arch", "lightbsr_compat", "lightbsr_data", "lightbsr_models"]
places = [importlib.import_module(name).__file__ for name in names]
from lightbsr.evaluation.protocols import load_protocol
from lightbsr.packaged import packaged_options; from lightbsr.training.option_files import load_checked_options
import lightbsr
print(lightbsr.__version__)
print(sum(place.startswith(sys.argv[1] + os.sep) for place in places), len(packaged_options()))
print(load_protocol("iso").name)
"""


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

    version, counted, protocol = run("-c", LOOK, str(unpacked)).splitlines()
    assert counted == f"5 {len(list((ROOT / 'options').rglob('*.yml')))}"
    assert protocol == "iso"
    assert f"-{version}-" in wheel.name
    assert "prepare" in run("-m", "lightbsr", "--help")


def test_the_version_stands_in_one_place_and_the_changelog_has_it(wheel):
    version = wheel.name.split("-")[1]
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None and newest[1] == version
    places = [p for p in ROOT.glob("*.py") if f'"{version}"' in p.read_text(encoding="utf-8")]
    places += [p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py") if f'"{version}"' in p.read_text("utf-8")]
    assert [p.name for p in places] == ["setup.py"]
