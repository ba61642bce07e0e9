"""Random option files, and YAML that is too large: one-line errors, never another exception."""

import copy
import functools
import os

import pytest
import tiny
import torch
import yaml
from fuzzing import DAMAGES, EXAMPLES, QUIET, paths, section_of, time_limit
from hypothesis import given, settings
from hypothesis import strategies as st

import lightbsr_cli as cli
from lightbsr.packaged import packaged_options
from lightbsr.training.schema import option_schema
from lightbsr_arch import KDSRTeacher, LightBSRTeacher
from lightbsr_compat import InputError, load_options
from lightbsr_data import build_degrader, kernel_basis

FILES = ["lightbsr_teacher_x4_iso", "lightbsr_student_x4_iso", "kdsr_gan_x4_real_world", "bicubic_x4_iso"]


def drawn(schema, definitions, depth=0):
    """A strategy for values that fit a JSON schema of ``option_schema``'s kind."""
    if "$ref" in schema:
        return drawn(definitions[schema["$ref"].rpartition("/")[2]], definitions, depth)
    if "const" in schema or "enum" in schema:
        return st.sampled_from(schema.get("enum", [schema.get("const")]))
    if "anyOf" in schema:
        return st.one_of([drawn(choice, definitions, depth) for choice in schema["anyOf"]])
    if "allOf" in schema and "properties" not in schema:
        return drawn(schema["allOf"][0], definitions, depth)
    cases = [case for case in schema.get("allOf", []) if "const" in str(case["if"])]
    if cases:  # a section of a certain type
        chosen = st.sampled_from(cases) if depth < 4 else st.nothing()
        return chosen.flatmap(
            lambda case: drawn(case["then"], definitions, depth + 1).map(
                lambda section: {**(section or {}), "type": case["if"]["properties"]["type"]["const"]}
            )
        )
    kinds = schema.get("type", "null")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    return st.one_of([of_kind(kind, schema, definitions, depth) for kind in kinds])


def of_kind(kind, schema, definitions, depth):
    low, high = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum")
    if kind == "integer":
        small = max(low or 0, 8) if high is None else min(max(low or 0, 8), high)
        return st.integers(low, small) | st.integers(low, high)
    if kind == "number":
        return st.floats(low, high, exclude_min="exclusiveMinimum" in schema, allow_nan=False, allow_infinity=False)
    if kind == "array":
        size = dict(min_size=schema.get("minItems", 0), max_size=schema.get("maxItems", 3))
        return st.lists(drawn(schema.get("items", {}), definitions, depth + 1), **size)
    if kind == "object" and depth < 4:
        inner = {
            name: drawn(entry, definitions, depth + 1)
            for name, entry in schema.get("properties", {}).items()
            if isinstance(entry, dict)
        }
        return st.fixed_dictionaries({}, optional=inner)
    return {"boolean": st.booleans(), "string": st.text(max_size=20)}.get(kind, st.none())


@pytest.fixture(scope="module")
def valid_files(small_images, tmp_path_factory):
    """``valid_files(name)``: the options of a packaged file, tiny, with images and teacher, without findings."""
    folder = tmp_path_factory.mktemp("valid")
    (folder / "meta_info.txt").write_text("".join(f"{path.name}\n" for path in sorted(small_images.iterdir())))
    io = dict(dataroot_gt=str(small_images), io_backend={"type": "disk"})
    bicubic = load_options(packaged_options()["bicubic_x4_iso"])
    name, test_set = next(iter(bicubic["datasets"].items()))
    files = {"bicubic_x4_iso": {**bicubic, "num_gpu": 0, "datasets": {name: {**test_set, **io}}}}
    for name in FILES[:3]:
        options = files[name] = tiny.options(name, small_images)
        if "real_world" in name:
            options["datasets"]["train"].update(meta_info=str(folder / "meta_info.txt"), dataset_enlarge_ratio=100)
        for key in [key for key in options["path"] if key.startswith("pretrain_network")]:
            options["path"][key] = None
        if "pretrain_network_teacher" in options["path"]:
            options["path"]["pretrain_network_teacher"] = str(folder / f"{name}.pth")
            tiny_teacher(options, folder / f"{name}.pth")
    return lambda name: copy.deepcopy(files[name])


def tiny_teacher(options, path):
    """Write the checkpoint of a teacher that fits a student's options."""
    setting = options["datasets"]["train"]["degradation"]
    sizes = {name: value for name, value in options["network_g"].items() if name != "type"}
    if options["network_g"]["type"] == "KDSR":
        network = KDSRTeacher(setting=setting, **sizes)
    else:
        num_prior = build_degrader(options).num_prior_channels
        network = LightBSRTeacher(num_prior=num_prior, kernel_basis=kernel_basis(), setting=setting, **sizes)
    torch.save(dict.fromkeys(("params", "params_ema"), network.state_dict()), path)


def check(options, folder, capsys):
    """``lightbsr check`` of a file with these options: its exit status and the lines that it prints as errors.

    Fails where it takes too long, prints anything but errors with the file's name, or writes a file.
    """
    path = folder / "work" / "fuzzed.yml"
    path.write_text(yaml.safe_dump(options), encoding="utf-8", errors="surrogatepass")
    before = sorted(file.relative_to(folder) for file in folder.rglob("*"))
    with time_limit():
        status = cli.main(["check", "-opt", "fuzzed.yml"])
    errors = capsys.readouterr().err
    assert sorted(file.relative_to(folder) for file in folder.rglob("*")) == before, errors
    lines = errors.splitlines()
    starts = ("error: fuzzed.yml: ", "warning: fuzzed.yml: ", "error: option file 'fuzzed.yml'")
    assert all(line.removeprefix("lightbsr: ").startswith(starts) for line in lines), lines
    assert len(set(lines)) == len(lines)
    return status, [line for line in lines if "error" in line]


@pytest.fixture
def working_folder(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


@pytest.mark.parametrize("name", FILES)
def test_the_fuzzed_files_are_valid(valid_files, working_folder, capsys, name):
    assert check(valid_files(name), working_folder, capsys) == (0, [])


@functools.cache
def schema():
    return option_schema()


@settings(max_examples=EXAMPLES, **QUIET)
@given(data=st.data())
def test_any_option_file_is_valid_or_refused(valid_files, working_folder, capsys, data):
    options = valid_files(data.draw(st.sampled_from(FILES)))
    definitions = schema()["definitions"]
    model = definitions.get(options["model_type"].replace("Model", "Options"))
    for _ in range(data.draw(st.integers(0, 2))):  # other options that are declared
        section = data.draw(st.sampled_from(["train", "val", "path", "logger", "datasets", "network_g", None]))
        properties = (model or {"properties": {}})["properties"]
        if section in properties:
            change = data.draw(drawn(properties[section], definitions))
            if isinstance(change, dict):
                options[section] = {**(options.get(section) or {}), **change}
    for _ in range(data.draw(st.integers(0, 2))):  # damage
        path = data.draw(st.sampled_from(list(paths(options)) or [("x",)]))
        section, kind = section_of(options, path), data.draw(st.sampled_from(["change", "remove", "rename", "move"]))
        if kind == "change" or path[-1] not in section:
            section[path[-1]] = copy.deepcopy(data.draw(st.sampled_from(DAMAGES)))
        elif kind == "remove":
            del section[path[-1]]
        elif kind == "rename":
            section[str(path[-1]) + data.draw(st.sampled_from("xs_2"))] = section.pop(path[-1])
        else:
            options[path[-1]] = section.pop(path[-1])
    status, errors = check(options, working_folder, capsys)
    assert status == (2 if errors else 0)


# --- YAML ---

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)
MERGES = "a0: &a0 {x0: 1, x1: 2}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}], y{n}: 1}}\n" for n in range(1, 10)
)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (LAUGHS, "its aliases make more than 20,000 values"),
        (MERGES, "its aliases make more than 20,000 values"),
        ("a: &a [*a]", "refers to a section that it is part of"),
        ("a: " + "[" * 100_000, "nested deeper than 20 levels"),
        ("a: " + "[" * 30 + "]" * 30, "nested deeper than 20 levels"),
        ("a: [" + "1, " * 30_000 + "]", "more than 20,000 values"),
        ("a: '" + "x" * 2**20 + "'", "may have 1,048,576 at most"),
    ],
    ids=["laughs", "merges", "itself", "unclosed", "deep", "many", "large"],
)
def test_yaml_that_expands_too_far_is_refused(working_folder, capsys, content, reason):
    (working_folder / "work" / "fuzzed.yml").write_text(content)
    with time_limit():
        assert cli.main(["check", "-opt", "fuzzed.yml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line


def test_an_option_file_that_is_no_regular_file_is_refused(working_folder, capsys):
    os.mkfifo(working_folder / "work" / "fifo.yml")
    with pytest.raises(InputError, match="is no regular file"):
        load_options("fifo.yml")
    (working_folder / "work" / "fuzzed.yml").write_text("base: fifo.yml")
    with time_limit():
        assert cli.main(["check", "-opt", "fuzzed.yml"]) == 2


@settings(max_examples=100, **QUIET)
@given(text=st.text(max_size=200))
def test_any_text_is_options_or_an_error(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "fuzzed.yml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        assert isinstance(load_options(path), dict)
    except InputError as error:
        assert "fuzzed.yml" in str(error)
