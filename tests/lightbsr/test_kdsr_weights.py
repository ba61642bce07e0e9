"""KDSR's weights: ``convert`` and ``upscale`` recognise them without an option."""

import numpy as np
import pytest
import torch

from lightbsr.convert import convert_file
from lightbsr.upscaling.upscaler import Upscaler, load_network
from lightbsr_arch import KDSR, KDSRTeacher
from lightbsr_cli import main
from lightbsr_compat import InputError

SIZES = dict(num_feat=8, num_block=1, num_resblock=1)


def test_convert_knows_a_released_student(released_state_dict, golden, relative_error, tmp_path):
    source, target = tmp_path / "released.pth", tmp_path / "ours.pth"
    torch.save({"params_ema": released_state_dict("kdsr_student_M_x4")}, source)
    assert "KDSR, x4, 5,795,075 trainable parameters" in convert_file(str(source), str(target))
    numbers = golden("kdsr_student_M_x4")
    with torch.no_grad():
        assert relative_error(load_network(str(target))(numbers["lq"]), numbers["sr"]) < 1e-5


def test_convert_stores_the_setting_in_a_teacher(released_state_dict, tmp_path, capsys):
    source, target = str(tmp_path / "released.pth"), str(tmp_path / "ours.pth")
    torch.save(released_state_dict("kdsr_teacher_M_x4"), source)
    assert "without --setting" in convert_file(source, target)
    with pytest.raises(InputError, match="setting is 'isso', but must be the name of one; did you mean 'iso'"):
        convert_file(source, target, setting="isso")
    assert main(["convert", source, target, "--setting", "aniso_noise"]) == 0
    assert "KDSRTeacher, x4, 5,822,723 trainable parameters" in capsys.readouterr().out
    teacher = KDSRTeacher(setting="aniso_noise")
    teacher.load_state_dict(torch.load(target, weights_only=True)["params"])


def test_upscale_takes_a_student(tmp_path):
    network, image = KDSR(**SIZES, upscale=3).eval(), np.random.randint(0, 256, (7, 5, 3), np.uint8)
    torch.save({"params": network.state_dict()}, tmp_path / "kdsr.pth")
    upscaler = Upscaler(tmp_path / "kdsr.pth", device="cpu")
    sr = upscaler(image)
    with torch.no_grad():
        expected = network(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)[0].clamp(0, 1) * 255
    assert sr.shape == (21, 15, 3)
    assert np.abs(sr - expected.permute(1, 2, 0).numpy()).max() < 0.51
