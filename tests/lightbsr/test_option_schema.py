"""The JSON schema that editors complete and check option files by."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lightbsr_compat import OptionLoader, has_basicsr, load_options

if not has_basicsr():
    pytest.skip("needs BasicSR", allow_module_level=True)

from lightbsr.packaged import packaged_options


def packaged_schema():
    path = Path(next(iter(packaged_options().values()))).parents[1] / "schema.json"
    return path.read_text(encoding="utf-8")


def test_the_packaged_schema_is_up_to_date():
    command = [sys.executable, "-W", "ignore", "-m", "lightbsr", "check", "--schema"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed == packaged_schema(), "run: lightbsr check --schema -o options/schema.json"


def test_packaged_option_files_fit_the_schema():
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft7Validator(json.loads(packaged_schema()))
    for path in packaged_options().values():
        text = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=OptionLoader)
        for options in (text, load_options(path)):  # as it stands in the file, and over its base
            assert [error.message for error in validator.iter_errors(options)] == [], path


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("network_g:num_feats", 8),
        ("network_g:num_feat", 0),
        ("train:optim_g:lr", "x"),
        ("train:amp", "fp61"),
        ("datasets:train:gt_size", 0),
        ("datasets:val:degradation:sigm", 1),
        ("val:metrics:psnr:type", 3),
        ("contrast_opt", {}),
    ],
)
def test_the_schema_finds_mistakes(path, value):
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft7Validator(json.loads(packaged_schema()))
    options = load_options(packaged_options()["lightbsr_student_x4_iso"])
    assert validator.is_valid(options)
    *sections, name = path.split(":")
    section = options
    for part in sections:
        section = section[part]
    section[name] = value
    assert not validator.is_valid(options)
