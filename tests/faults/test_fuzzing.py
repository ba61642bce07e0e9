"""Random input: mutated option files, degradations, image sizes, checkpoints; findings and errors, no tracebacks."""

import copy
import math
import random
import string

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightbsr.packaged import packaged_options
from lightbsr.training.option_files import check_options
from lightbsr.upscaling.upscaler import load_network
from lightbsr_arch import KDSRTeacher, LightBSR, LightBSRTeacher
from lightbsr_compat import InputError, load_options
from lightbsr_compat.images import decode_rgb8
from lightbsr_data import build_degrader, degrade, gaussian_kernels, kernel_basis
from lightbsr_data.datasets import parse_fixed_degradation

QUIET = dict(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
VALUES = [None, True, False, 0, 1, -1, 3, 10**12, 0.5, -0.5, math.nan, math.inf, "", "x", "iso", [], [1], ["a"], {}]
VALUES += [{"type": "x"}, {"type": None}, {"type": "L1Loss"}, [[]], {"sigma": -1}, {1: 2}, "../..", "\x00", "a" * 500]


def paths(node, at=()):
    """The path of every value in a nested dictionary."""
    for key, value in node.items():
        yield (*at, key)
        if isinstance(value, dict):
            yield from paths(value, (*at, key))


def mutate(options, draw):
    """Change, remove, rename or move one to three entries of an option file."""
    for _ in range(draw.randint(1, 3)):
        *sections, name = draw.choice(list(paths(options)))
        section = options
        for key in sections:
            section = section[key]
        kind = draw.choice(["change", "change", "remove", "rename", "move"])
        if kind == "change":
            section[name] = copy.deepcopy(draw.choice(VALUES))
        elif kind == "remove":
            del section[name]
        elif kind == "rename":
            section[str(name) + draw.choice(string.ascii_letters)] = section.pop(name)
        else:
            options[name] = section.pop(name)
        if not options:
            return


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


def right_options(images, folder):
    """The packaged option files, tiny, with images and teachers: (options, is_train) each, without findings."""
    (folder / "meta_info.txt").write_text("".join(f"{p.name}\n" for p in sorted(images.iterdir())))
    for name, path in sorted(packaged_options().items()):
        options = load_options(path)
        for phase in list(options["datasets"])[2:]:
            del options["datasets"][phase]  # eighteen alike teach nothing
        for dataset in options["datasets"].values():
            dataset.update(dataroot_gt=str(images), io_backend={"type": "disk"})
        lightbsr = options["network_g"]["type"].startswith("LightBSR")
        sizes = dict(num_group=1, num_idr=16, num_channel_idr=4) if lightbsr else dict(num_resblock=1)
        if options["network_g"]["type"] != "Bicubic":
            options["network_g"].update(num_feat=8, num_block=1, **sizes)
        is_train = "train" in options
        if is_train:
            train_set = options["datasets"]["train"]
            train_set.update(gt_size=8 * options["scale"], dataset_enlarge_ratio=100)
            if train_set["type"].startswith("RealESRGAN"):
                train_set["meta_info"] = str(folder / "meta_info.txt")
        for key in options["path"]:
            if key.startswith("pretrain_network"):
                options["path"][key] = None
        if "pretrain_network_teacher" in options["path"]:
            options["path"]["pretrain_network_teacher"] = str(folder / f"{name}.pth")
            tiny_teacher(options, folder / f"{name}.pth")
        yield options, is_train


def check_mutants(images, folder, count):
    originals = list(right_options(images, folder))
    draw, clean = random.Random(0), 0
    for number in range(count):
        original, is_train = originals[number % len(originals)]
        options = copy.deepcopy(original)
        mutate(options, draw)
        findings = check_options(options, is_train=is_train)
        assert all(isinstance(finding, str) and finding for finding in findings)
        clean += not findings
    return clean


def test_what_is_mutated_is_right(small_images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for options, is_train in right_options(small_images, tmp_path):
        assert check_options(options, is_train=is_train) == [], options["name"]


def test_100_mutated_option_files(small_images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_mutants(small_images, tmp_path, 100)


@pytest.mark.slow
def test_1000_mutated_option_files(small_images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert 0 < check_mutants(small_images, tmp_path, 1000) < 1000


@settings(max_examples=100, **QUIET)
@given(text=st.text(max_size=200))
def test_any_text_is_options_or_an_error(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "fuzzed.yml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        assert isinstance(load_options(path), dict)
    except InputError as error:
        assert "fuzzed.yml" in str(error)


@settings(max_examples=60, **QUIET)
@given(
    sigma=st.tuples(st.floats(0.05, 50), st.floats(0.05, 50)),
    theta=st.floats(-10, 10),
    height=st.integers(3, 20),
    width=st.integers(3, 20),
    scale=st.sampled_from([2, 3, 4]),
    noise=st.floats(0, 200),
)
def test_degradations_of_any_size_and_strength(sigma, theta, height, width, scale, noise):
    parameters = [torch.tensor([value], dtype=torch.float32) for value in (*sigma, theta)]
    kernels = gaussian_kernels(*parameters)
    torch.testing.assert_close(kernels.sum((1, 2)), torch.ones(1))
    size = (1, 3, max(12, height * scale) // scale * scale, max(12, width * scale) // scale * scale)
    lq_size = (1, 3, size[2] // scale, size[3] // scale)
    lq = degrade(torch.rand(size), kernels, noise * torch.randn(lq_size), scale=scale)
    assert lq.shape == lq_size and lq.min() >= 0 and lq.max() <= 1
    torch.testing.assert_close(lq * 255, (lq * 255).round(), rtol=0, atol=1e-3)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=100, **QUIET)
@given(
    degradation=ANYTHING
    | st.dictionaries(st.sampled_from(["sigma", "sigma_x", "sigma_y", "theta", "noise_sigma", "x"]), ANYTHING)
)
def test_benchmark_degradations_are_parsed_or_refused(degradation):
    try:
        parsed = parse_fixed_degradation(degradation)
        assert min(parsed.sigma_x, parsed.sigma_y) > 0
    except InputError:
        pass


@settings(max_examples=20, **QUIET)
@given(height=st.integers(1, 40), width=st.integers(1, 40), scale=st.sampled_from([2, 3, 4]))
def test_networks_take_any_image_size(height, width, scale):
    network = LightBSR(num_feat=4, num_group=1, num_block=1, num_idr=16, num_channel_idr=4, upscale=scale).eval()
    with torch.no_grad():
        assert network(torch.rand(1, 3, height, width)).shape == (1, 3, height * scale, width * scale)


@settings(max_examples=200, **QUIET)
@given(data=st.data())
def test_mutated_image_files_are_read_or_refused(data):
    picture = np.random.RandomState(0).randint(0, 256, (12, 17, 3), dtype=np.uint8)
    suffix = data.draw(st.sampled_from([".png", ".jpg", ".bmp", ".webp", ".tif"]))
    content = bytearray(cv2.imencode(suffix, picture)[1].tobytes())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[position] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    try:
        image = decode_rgb8(bytes(content), "x")
        assert image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8
    except InputError as error:
        assert "'x'" in str(error)


NETWORK = LightBSR(num_feat=4, num_group=1, num_block=1, num_idr=16, num_channel_idr=4).state_dict()


@settings(max_examples=100, **QUIET)
@given(data=st.data())
def test_mutated_checkpoints_are_loaded_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzzed.pth"
    weights = dict(NETWORK)
    for key in data.draw(st.lists(st.sampled_from(sorted(weights)), max_size=3, unique=True)):
        value = weights.pop(key)
        shape = data.draw(st.none() | st.lists(st.integers(0, 20), max_size=4))
        if shape is not None:
            weights[key] = torch.zeros(shape, dtype=data.draw(st.sampled_from([value.dtype, torch.int8])))
    content = data.draw(st.sampled_from([{"params": weights}, weights, {"params_ema": weights, "params": {}}, {}, []]))
    torch.save(content if data.draw(st.booleans()) else data.draw(ANYTHING), path)
    content = path.read_bytes()
    if data.draw(st.booleans()):
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        assert load_network(str(path)).upscale in (2, 3, 4)
    except InputError as error:
        assert "fuzzed.pth" in str(error)
