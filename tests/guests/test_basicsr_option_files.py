"""``check`` finds nothing wrong with BasicSR's own option files but what is not there: data, checkpoints, a GPU."""

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from lightbsr_compat import has_basicsr, load_options

if not has_basicsr():
    pytest.skip("needs BasicSR", allow_module_level=True)

from lightbsr.training.option_files import check_options

FOLDER = Path(__file__).parents[3] / "shared" / "basicsr_options"
ABSENT = {
    "data": r"^dataroot_(gt|lq|flow) '.*' is no folder$",
    "checkpoint": r"^path: \w+ is '.*', but there is no such checkpoint file$",
    "file": r"(meta_info\w*|\w+_path) is '.*', but there is no such file$",
}
# What BasicSR 1.4.2 itself ends with for these files.
BROKEN = {
    "test/RCAN/test_RCAN.yml": "val is missing",
    "train/EDVR/train_EDVR_L_x4_SR_REDS.yml": "network_g: unknown option 'ema_decay'",
    "train/EDVR/train_EDVR_L_x4_SR_REDS_woTSA.yml": "network_g: unknown option 'ema_decay'",
    "train/HiFaceGAN/train_hifacegan.yml": "train: feature_matching_opt: type is 'GANFeatLoss'",
}


def kind_of(finding):
    return next((kind for kind, pattern in ABSENT.items() if re.search(pattern, finding)), finding)


def test_all_of_basicsrs_option_files():
    if not FOLDER.is_dir():
        pytest.skip("BasicSR's option files are not here")
    kinds, others, warnings = Counter(), {}, []
    files = sorted(FOLDER.rglob("*.yml"))
    for file in files:
        options = load_options(file)
        findings = check_options(options, is_train="train" in options)
        kinds.update(map(kind_of, findings))
        others.update({str(file.relative_to(FOLDER)): f for f in findings if kind_of(f) == f})
        warnings += findings.warnings
    assert len(files) == 70 and warnings == []
    assert others.keys() == BROKEN.keys()
    assert all(others[name].startswith(message) for name, message in BROKEN.items())
    assert kinds.keys() - others.values() == ABSENT.keys()


# Written like BasicSR's files, for where those are absent.
REAL_ESRNET = """
name: RealESRNet
model_type: RealESRNetModel
scale: 4
num_gpu: auto
gt_usm: True
resize_prob: [0.2, 0.7, 0.1]
second_blur_prob: 0.8
gt_size: 256
queue_size: 180
datasets:
  train: {name: DF2K, type: RealESRGANDataset, dataroot_gt: GT, meta_info: m.txt, io_backend: {type: disk},
    blur_kernel_size: 21, kernel_list: [iso], kernel_prob: [1], sinc_prob: 0.1, blur_sigma: [0.2, 3],
    betag_range: [0.5, 4], betap_range: [1, 2], blur_kernel_size2: 21, kernel_list2: [iso], kernel_prob2: [1],
    sinc_prob2: 0.1, blur_sigma2: [0.2, 1.5], betag_range2: [0.5, 4], betap_range2: [1, 2], final_sinc_prob: 0.8,
    gt_size: 256, use_hflip: True, use_rot: False, num_worker_per_gpu: 5, batch_size_per_gpu: 12}
network_g: {type: RRDBNet, num_in_ch: 3, num_out_ch: 3, num_feat: 64, num_block: 23, num_grow_ch: 32}
path: {pretrain_network_g: ~}
train:
  optim_g: {type: Adam, lr: 2e-4}
  scheduler: {type: MultiStepLR, milestones: [1000000], gamma: 0.5}
  total_iter: 1000000
  pixel_opt: {type: L1Loss}
logger: {print_freq: 100, save_checkpoint_freq: 5e3, use_tb_logger: true}
"""


def test_an_option_file_as_basicsrs(tmp_path):
    (tmp_path / "x.yml").write_text(REAL_ESRNET)
    findings = check_options(load_options(tmp_path / "x.yml"), is_train=True)
    assert set(map(kind_of, findings)) == {"data"} and findings.warnings == []


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model_type", "RealESRNetModell", "model_type is 'RealESRNetModell'; did you mean 'RealESRNetModel'?"),
        ("queue_sise", 180, "option 'queue_sise' is passed on as it is; did you mean 'queue_size'?"),
        (
            "datasets:train:gt_sise",
            1,
            "datasets: train: option 'gt_sise' is passed on as it is; did you mean 'gt_size'?",
        ),
        ("network_g:num_blok", 1, "network_g: unknown option 'num_blok'; did you mean 'num_block'?"),
        ("train:scheduler:type", "TwoStageCosine", "train: scheduler: type is 'TwoStageCosine'; known: Cosine"),
        ("logger:print_freq", "x", "logger: print_freq is 'x', but must be a whole number"),
    ],
)
def test_a_mistake_is_named(path, value, message):
    options = yaml.safe_load(REAL_ESRNET.replace("2e-4", "2.0e-4").replace("5e3", "5000"))
    *sections, name = path.split(":")
    section = options
    for part in sections:
        section = section[part]
    section[name] = value
    findings = check_options(options, is_train=True)
    named = [f for f in [*findings, *findings.warnings] if "is no folder" not in f]
    assert len(named) == 1 and named[0].startswith(message), named
