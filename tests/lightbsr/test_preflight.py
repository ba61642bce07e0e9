"""Checks of what lies outside an option file: BasicSR's data sets and their images, launcher, packages, downloads."""

import importlib.util

import cv2
import pytest
import yaml

from lightbsr_compat import InputError, has_basicsr

if not has_basicsr():
    pytest.skip("needs BasicSR", allow_module_level=True)

from lightbsr.training import preflight
from lightbsr.training.option_files import check_options, load_checked_options


@pytest.fixture
def options(tmp_path, photo):
    """BasicSR's own kind of file: EDSR on pairs of images, which is right."""
    for name, size in (("hr", 64), ("lr", 16)):
        (tmp_path / name).mkdir()
        for number in range(3):
            cv2.imwrite(str(tmp_path / name / f"{number}.png"), photo(number, size, size))
    pairs = dict(
        type="PairedImageDataset",
        dataroot_gt=str(tmp_path / "hr"),
        dataroot_lq=str(tmp_path / "lr"),
        io_backend={"type": "disk"},
    )
    loader = dict(batch_size_per_gpu=1, num_worker_per_gpu=0)
    return {
        "name": "edsr",
        "model_type": "SRModel",
        "scale": 4,
        "num_gpu": 0,
        "datasets": {
            "train": {**pairs, **loader, "name": "a", "gt_size": 32, "use_hflip": True, "use_rot": True},
            "val": {**pairs, "name": "b"},
        },
        "network_g": dict(type="EDSR", num_in_ch=3, num_out_ch=3, num_feat=8, num_block=1, upscale=4),
        "path": {"pretrain_network_g": None},
        "train": {
            "total_iter": 2,
            "optim_g": {"type": "Adam", "lr": 1e-4},
            "scheduler": {"type": "MultiStepLR", "milestones": [1]},
            "pixel_opt": {"type": "L1Loss"},
        },
        "val": {"val_freq": 1, "save_img": False, "metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 4}}},
        "logger": {"print_freq": 1, "save_checkpoint_freq": 1, "use_tb_logger": False},
    }


def write(path, size, photo):
    cv2.imwrite(str(path), photo(0, size, size))


def test_a_right_file_has_no_findings(options):
    findings = check_options(options, is_train=True, full=True)
    assert findings == [] and findings.warnings == []


def test_options_of_others_are_passed_on_and_near_names_are_a_warning(options):
    options["datasets"]["train"]["gt_sise"] = 32
    options["train"]["anything"] = options["something"] = {"else": 1}
    findings = check_options(options, is_train=True)
    assert findings == []
    assert findings.warnings == ["datasets: train: option 'gt_sise' is passed on as it is; did you mean 'gt_size'?"]


# Faults of the train set's images and options, and the end of the sentence; {0} is the folder.
FAULTS = {
    "no gt_size": (lambda root, photo, train: train.pop("gt_size"), "gt_size is missing"),
    "no dataroot_lq": (lambda root, photo, train: train.pop("dataroot_lq"), "dataroot_lq is missing"),
    "no folder": (lambda root, photo, train: train.update(dataroot_lq="nowhere"), "dataroot_lq 'nowhere' is no folder"),
    "empty folders": (
        lambda root, photo, train: [file.unlink() for name in ("hr", "lr") for file in (root / name).iterdir()],
        "dataroot_gt '{0}/hr' holds no image",
    ),
    "fewer LR images": (
        lambda root, photo, train: (root / "lr" / "2.png").unlink(),
        "different number of images: 2, 3.",
    ),
    "other names of LR images": (
        lambda root, photo, train: (root / "lr" / "1.png").rename(root / "lr" / "1x4.png"),
        "1.png is not in lq_paths.",
    ),
    "another scale": (
        lambda root, photo, train: write(root / "lr" / "1.png", 32, photo),
        "image '{0}/hr/1.png' is 64x64, but must be 4 times '{0}/lr/1.png', which is 32x32",
    ),
    "gt_size above an image's": (
        lambda root, photo, train: train.update(gt_size=128),
        "is 64x64, but both sides must be at least gt_size, 128",
    ),
    "a text file": (
        lambda root, photo, train: (root / "hr" / "1.png").write_text("no image"),
        "image '{0}/hr/1.png' cannot be read: it is no image, or of a kind that is not read",
    ),
    "an image that is cut off": (
        lambda root, photo, train: (root / "hr" / "1.png").write_bytes((root / "hr" / "1.png").read_bytes()[:200]),
        "image '{0}/hr/1.png' cannot be read: it is cut off or damaged",
    ),
}


def common_faults(root, options):
    """Keep the train set alone: the other has the same images."""
    del options["datasets"]["val"]
    return options["datasets"]["train"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_pairs_is_named(options, tmp_path, photo, fault):
    damage, sentence = FAULTS[fault]
    damage(tmp_path, photo, common_faults(tmp_path, options))
    findings = check_options(options, is_train=True, full=True)
    assert findings and sentence.format(tmp_path) in findings[0], findings


META_INFO = {
    "absent names": ("0.png\nz.png\n", "the first is '{0}/hr/z.png'"),
    "an empty line": ("0.png\n\n1.png\n", "the first is '{0}/hr/': the file has an empty line"),
    "a byte-order mark": ("\ufeff0.png\n", "0.png': the file begins with a byte-order mark"),
    "a name with a space": ("a b.png\n", "the first is '{0}/hr/a': BasicSR ends a name at its first space"),
}


@pytest.mark.parametrize("fault", META_INFO)
@pytest.mark.parametrize("kind", ["PairedImageDataset", "RealESRGANDataset"])
def test_a_fault_of_a_meta_info_file_is_named(options, tmp_path, fault, kind):
    text, sentence = META_INFO[fault]
    (tmp_path / "meta_info.txt").write_text(text, encoding="utf-8")
    (tmp_path / "hr" / "a b.png").write_bytes((tmp_path / "hr" / "0.png").read_bytes())
    train = common_faults(tmp_path, options)
    train["meta_info" if kind == "RealESRGANDataset" else "meta_info_file"] = str(tmp_path / "meta_info.txt")
    if kind == "RealESRGANDataset":
        real_world(train)
        sentence = sentence.replace("'{0}/lr/", "'{0}/hr/")
    else:
        sentence = sentence.replace("/hr/", "/lr/")
    findings = check_options(options, is_train=True)
    assert len(findings) == 1 and findings[0].endswith(sentence.format(tmp_path)), findings


def real_world(train):
    """Make a data set BasicSR's RealESRGANDataset."""
    ranges = dict(blur_sigma=[0.2, 3], betag_range=[0.5, 4], betap_range=[1, 2])
    blur = dict(ranges, blur_kernel_size=21, kernel_list=["iso"], kernel_prob=[1.0], sinc_prob=0.1)
    train.pop("dataroot_lq")
    train.update(blur, **{f"{name}2": value for name, value in blur.items()})
    train.update(type="RealESRGANDataset", final_sinc_prob=0.8)


def test_every_image_of_a_real_world_set_is_read_with_full(options, tmp_path):
    names = [f"{number:03}.png" for number in range(2 * preflight.SAMPLED_IMAGES)]
    for name in names:
        (tmp_path / "hr" / name).write_bytes((tmp_path / "hr" / "0.png").read_bytes())
    (tmp_path / "hr" / names[1]).write_text("no image")
    (tmp_path / "meta_info.txt").write_text("\n".join(names))
    train = common_faults(tmp_path, options)
    real_world(train)
    train["meta_info"] = str(tmp_path / "meta_info.txt")
    assert check_options(options, is_train=True) == []
    (finding,) = check_options(options, is_train=True, full=True)
    assert finding.endswith("001.png' cannot be read: it is no image, or of a kind that is not read")
    train["kernel_prob"] = [0.5, 0.5]
    del train["meta_info"]
    (finding,) = check_options(options, is_train=True)
    assert finding.startswith("datasets: train: meta_info is missing: io_backend disk needs it")


def test_pairs_in_lmdbs(options, tmp_path, image_lmdb):
    train = common_faults(tmp_path, options)
    train.update(dataroot_gt=str(image_lmdb), dataroot_lq=str(image_lmdb), io_backend={"type": "lmdb"})
    findings = check_options(options, is_train=True, full=True)
    assert len(findings) == 6 and all("but must be 4 times" in finding for finding in findings)
    options["scale"] = options["network_g"]["upscale"] = 1
    assert check_options(options, is_train=True, full=True) == []
    train["dataroot_lq"] = str(tmp_path / "lr")
    assert check_options(options, is_train=True) == [
        f"datasets: train: dataroot_lq {str(tmp_path / 'lr')!r} is no LMDB: it holds no data.mdb"
    ]


def test_metrics_need_hr_images(options):
    val = options["datasets"]["val"]
    val["type"] = "SingleImageDataset"
    del val["dataroot_gt"]
    assert check_options(options, is_train=True) == ["val: metrics: psnr needs HR images, but datasets: val has none"]
    options["val"]["metrics"] = {"niqe": {"type": "calculate_niqe", "crop_border": 4}}
    assert check_options(options, is_train=True) == []


# --- the launcher, this machine ---


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({}, "--launcher pytorch needs the environment variable RANK, which torchrun sets"),
        ({"RANK": "0", "WORLD_SIZE": "two"}, "environment variable WORLD_SIZE is 'two', but must be a number"),
    ],
)
def test_a_launcher_without_its_environment_is_named(options, monkeypatch, environment, sentence):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (finding,) = check_options(options, is_train=True, launcher="pytorch")
    assert finding.endswith(sentence)


def test_the_launchers_number_of_processes(monkeypatch):
    assert preflight.world_size("none") == 1
    for name, value in (("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8"), ("SLURM_NODELIST", "a")):
        monkeypatch.setenv(name, value)
    assert preflight.world_size("slurm") == 8


def checked(options, folder):
    """The findings of a file with these options, on this machine, a line each."""
    (folder / "x.yml").write_text(yaml.safe_dump(options))
    with pytest.raises(InputError) as error:
        load_checked_options(str(folder / "x.yml"))
    return [line.partition("x.yml: ")[2] for line in str(error.value).splitlines()]


def test_what_this_machine_lacks_is_named(options, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else found(name))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    options["num_gpu"] = 1
    options["datasets"]["train"]["prefetch_mode"] = "cuda"
    options["logger"]["wandb"] = {"project": "x"}
    assert checked(options, tmp_path) == [
        "num_gpu is 1, but PyTorch finds no GPU here (0 trains and tests on the CPU)",
        "datasets: train: prefetch_mode is 'cuda', but needs a GPU",
        "logger: wandb is given, but needs use_tb_logger: true, whose log it sends",
        "logger: wandb is given, but the package wandb is not installed (pip install wandb)",
    ]


def test_compiling_needs_a_compiler(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    (finding,) = preflight.package_findings({"num_gpu": 0, "train": {"compile": True}})
    assert "no C++ compiler is found" in finding


def test_weights_that_are_downloaded_are_a_warning(options, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    options["train"]["perceptual_opt"] = {"type": "PerceptualLoss", "layer_weights": {"conv5_4": 1}}
    (tmp_path / "x.yml").write_text(yaml.safe_dump(options))
    load_checked_options("x.yml")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "lightbsr: warning: x.yml: train: perceptual_opt: the weights of its VGG network are neither"
    )
    (tmp_path / "experiments" / "pretrained_models").mkdir(parents=True)
    (tmp_path / "experiments" / "pretrained_models" / "vgg19-dcbb9e9d.pth").touch()
    load_checked_options("x.yml")
    assert capsys.readouterr().err == ""


def test_models_of_basicsr_that_need_a_gpu_are_refused_on_the_cpu(options):
    options["model_type"] = "RealESRNetModel"
    (finding,) = preflight.device_findings(options)
    assert finding == "model_type is 'RealESRNetModel', which needs a GPU: BasicSR computes its JPEG on one"


@pytest.mark.parametrize(("amp", "has_bfloat16", "warned"), [("bf16", False, 1), ("bf16", True, 0), (None, False, 0)])
def test_bf16_on_a_cpu_without_its_instructions_is_a_warning(monkeypatch, amp, has_bfloat16, warned):
    monkeypatch.setattr(preflight, "_has_bfloat16", lambda: has_bfloat16)
    sentences = list(preflight.amp_warnings({"num_gpu": 0, "train": {"amp": amp}}))
    assert len(sentences) == warned
    assert all("no bfloat16 instructions: a step takes about 15 times as long" in sentence for sentence in sentences)


def test_weights_of_a_part_must_be_there(options):
    options["network_g"] = {"type": "BasicVSR", "spynet_path": "nowhere.pth"}
    assert check_options(options, is_train=True) == [
        "network_g: spynet_path is 'nowhere.pth', but there is no such file"
    ]
