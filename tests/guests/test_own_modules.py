"""User-defined networks: the modules named by ``import`` and ``--import`` are imported first."""

import pytest
import yaml

import lightbsr_cli as cli
from lightbsr_compat import InputError, has_basicsr, load_options

if not has_basicsr():
    pytest.skip("needs BasicSR", allow_module_level=True)

from lightbsr.packaged import packaged_options
from lightbsr.training.option_files import load_checked_options


@pytest.fixture
def options(image_folder):
    """An option file of BasicSR's plain model that is valid except for its network."""
    options = load_options(packaged_options()["lightbsr_student_x4_iso"])
    for dataset in options["datasets"].values():
        dataset.update(dataroot_gt=str(image_folder), io_backend={"type": "disk"})
    options["datasets"]["train"].update(gt_size=32)
    options.update(num_gpu=0, path={"pretrain_network_g": None})
    return options


MODULE = """
import torch
from basicsr.utils.registry import ARCH_REGISTRY

@ARCH_REGISTRY.register()
class {name}(torch.nn.Module):
    def __init__(self, width: int, depth: int = 2):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 3, 1)
"""


@pytest.mark.parametrize("way", ["option", "argument"])
def test_user_modules_are_imported_first(options, tmp_path, monkeypatch, capsys, way):
    monkeypatch.chdir(tmp_path)
    module, network = f"module_of_{way}", f"NetworkOf{way.title()}"
    (tmp_path / f"{module}.py").write_text(MODULE.format(name=network))
    options["model_type"] = "SRModel"
    options["network_g"] = {"type": network, "width": "x"}
    arguments = ["check", "-opt", "mine.yml"]
    if way == "option":
        options["import"] = [module]
    else:
        arguments += ["--import", module]
    (tmp_path / "mine.yml").write_text(yaml.safe_dump(options))
    assert cli.main(arguments) == 2
    assert "mine.yml: network_g: width is 'x', but must be a whole number" in capsys.readouterr().err
    options["network_g"]["width"] = 3
    options["train"]["scheduler"] = {"type": "MultiStepLR", "milestones": [1]}
    (tmp_path / "mine.yml").write_text(yaml.safe_dump(options))
    assert cli.main(arguments) == 0


def test_a_module_that_cannot_be_imported_is_named(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "faulty_module.py").write_text("1 / 0")
    (tmp_path / "x.yml").write_text(yaml.safe_dump(options))
    with pytest.raises(InputError, match=r"^x\.yml: import: module 'faulty_module' cannot be imported: ZeroDivision"):
        load_checked_options("x.yml", modules=["faulty_module"])
