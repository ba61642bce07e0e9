"""The code on docs/integration.md runs and gives the network's picture.

Every section runs in a process of its own, in a folder with ``net_g_latest.pth``, its export ``lightbsr_x4.onnx`` and
``photo.png``: Real-ESRGAN registers data sets that would shadow BasicSR's in this one.
"""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from lightbsr_arch import KDSR, LightBSR

PAGE = Path(__file__).parents[2] / "docs" / "integration.md"
SIZES = dict(num_feat=8, num_group=1, num_block=1, num_idr=16, num_channel_idr=6, layer_scale_init=0.5)
# Section: the packages that it needs, and the pictures that it writes.
SECTIONS = {
    "Python": ([], ["photo_upscaler.png", "photo_network.png"]),
    "BasicSR": (["basicsr"], []),
    "Real-ESRGAN": (["realesrgan"], ["photo_realesrgan.png"]),
    "spandrel and chaiNNer": (["spandrel"], ["photo_spandrel.png"]),
    "ONNX Runtime": (["onnx", "onnxscript", "onnxruntime"], ["photo_onnxruntime.png"]),
    "ncnn": (["onnx", "onnxscript", "pnnx", "ncnn"], ["photo_ncnn.png"]),
    "neosr": ([], []),
    "traiNNer-redux": ([], []),
}


def code(section: str, language: str) -> list[str]:
    """The blocks of a language in a section of the page."""
    part = re.split(r"(?m)^##+ (.+)\n", PAGE.read_text(encoding="utf-8"))
    text = part[part.index(section) + 1]
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", text)


def need(section: str) -> None:
    missing = [name for name in SECTIONS[section][0] if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed (the integration extra)")


def run(folder: Path, *arguments: str) -> str:
    # The process's own import path, so that nothing is found for lying in this repository's folder.
    result = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return LightBSR(upscale=4, **SIZES).eval()


@pytest.fixture(scope="module")
def page_folder(tmp_path_factory, network, photo) -> Path:
    folder = tmp_path_factory.mktemp("page")
    torch.save({"params": network.state_dict()}, folder / "net_g_latest.pth")
    cv2.imwrite(str(folder / "photo.png"), photo(3, 24, 32))
    return folder


@pytest.fixture(scope="module")
def with_model(page_folder, network) -> Path:
    from lightbsr.export import to_onnx

    dynamic = {"lq": {0: "batch", 2: "height", 3: "width"}}
    model = to_onnx(network, [torch.rand(2, 3, 9, 10)], input_names=["lq"], output_names=["sr"], dynamic=dynamic)
    (page_folder / "lightbsr_x4.onnx").write_bytes(model)
    return page_folder


def test_every_code_block_is_tested():
    text = PAGE.read_text(encoding="utf-8")
    for language in ("python", "yaml"):
        assert text.count(f"```{language}\n") == sum(len(code(section, language)) for section in SECTIONS)


@pytest.mark.parametrize("section", [name for name, (_, pictures) in SECTIONS.items() if pictures])
def test_a_sections_code_writes_the_networks_picture(request, page_folder, network, section):
    need(section)
    packages, pictures = SECTIONS[section]
    if "onnx" in packages:
        request.getfixturevalue("with_model")
    if section == "ncnn":
        (commands,) = code(section, "bash")
        pnnx = [shlex.split(line) for line in commands.splitlines() if line.startswith("pnnx ")]
        run(page_folder, "-c", "from pnnx import pnnx; pnnx()", *pnnx[0][1:])
    blocks = code(section, "python")
    assert len(blocks) == len(pictures)
    rgb = cv2.imread(str(page_folder / "photo.png"))[..., ::-1].copy()
    with torch.no_grad():
        sr = network(torch.from_numpy(rgb).permute(2, 0, 1)[None] / 255)[0].clamp(0, 1)
    expected = (sr * 255).permute(1, 2, 0).numpy()[..., ::-1]
    run(page_folder, "-c", "\n".join(blocks))
    for picture in pictures:
        # Half a grey level is the rounding's; ncnn keeps its weights in halves.
        tolerance = 0.1 if section == "ncnn" else 1e-3
        assert np.abs(cv2.imread(str(page_folder / picture)) - expected).max() <= 0.5 + tolerance


def test_srmodel_trains_our_student(tmp_path, photo):
    """SRModel in BasicSR's loop, with the page's option file: the loss falls, and the weights are LightBSR's."""
    need("BasicSR")
    for name, side in (("HR", 64), ("LR", 16)):
        (tmp_path / name).mkdir()
        for i in range(4):
            picture = cv2.resize(photo(i, 64, 64), (side, side), interpolation=cv2.INTER_AREA)
            cv2.imwrite(str(tmp_path / name / f"{i}.png"), picture)
    (options,), (script,) = code("BasicSR", "yaml"), code("BasicSR", "python")
    (tmp_path / "train.py").write_text(script)
    (tmp_path / "sr_lightbsr_x4.yml").write_text(options)
    train = dict(dataroot_gt="HR", dataroot_lq="LR", gt_size=32, batch_size_per_gpu=4, num_worker_per_gpu=0)
    smaller = [f"network_g:{name}={value}" for name, value in SIZES.items()]
    smaller += [f"datasets:train:{name}={value}" for name, value in train.items()] + ["num_gpu=0"]
    smaller += ["train:optim_g:lr=0.002", "train:total_iter=60", "logger:print_freq=1", "logger:use_tb_logger=false"]
    run(tmp_path, "train.py", "-opt", "sr_lightbsr_x4.yml", "--force_yml", *smaller)
    (log,) = (tmp_path / "experiments" / "sr_lightbsr_x4").glob("train_*.log")
    losses = [float(loss) for loss in re.findall(r"l_pix: (\S+)", log.read_text())]
    assert len(losses) == 60
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10])
    checkpoint = torch.load(tmp_path / "experiments" / "sr_lightbsr_x4" / "models" / "net_g_latest.pth")
    LightBSR(upscale=4, **SIZES).load_state_dict(checkpoint["params"])


REGISTRY_STUB = """
class Registry(dict):
    def register(self):
        return lambda cls: self.setdefault(cls.__name__, cls)

ARCH_REGISTRY = Registry()
"""


@pytest.mark.parametrize(
    ("section", "package", "scale"), [("neosr", "neosr", {}), ("traiNNer-redux", "traiNNer", {"scale": 3})]
)
def test_the_file_for_a_fork_registers_both_students(tmp_path, monkeypatch, section, package, scale):
    """With a stub of the fork: the file is tested, not the fork."""
    for folder in ("", "archs", "utils"):
        (tmp_path / package / folder).mkdir()
        (tmp_path / package / folder / "__init__.py").touch()
    (tmp_path / package / "utils" / "registry.py").write_text(REGISTRY_STUB)
    (tmp_path / package / "archs" / "arch_util.py").write_text("def net_opt():\n    return 3, None\n")
    (block,) = code(section, "python")
    assert block.splitlines()[0] == f"# {package}/archs/blind_arch.py"
    (tmp_path / package / "archs" / "blind_arch.py").write_text(block)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module(f"{package}.archs.blind_arch")
    registry = module.ARCH_REGISTRY
    lightbsr, kdsr = registry["lightbsr"](**scale, **SIZES), registry["kdsr"](**scale, num_feat=8, num_block=2)
    assert isinstance(lightbsr, LightBSR) and isinstance(kdsr, KDSR)
    assert lightbsr.upscale == kdsr.upscale == 3
    assert lightbsr.sr_network.head.out_channels == kdsr.sr_network.head.out_channels == 8
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        del sys.modules[name]
