"""Fine-tuning without a teacher: BasicSR's SRModel and pairs, from weights of the same and of another scale."""

import cv2
import pytest
import tiny
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightbsr.training.option_files import check_options
from lightbsr_arch import KDSR, LightBSR

LEARNING_RATE = 1e-3


@pytest.mark.parametrize("scale", [4, 2])
def test_training_starts_from_the_weights(tmp_path, photo, scale):
    weights = LightBSR(upscale=4, upsampler="pixelshuffledirect", **tiny.LIGHTBSR_SIZES).state_dict()
    torch.save({"params": weights}, tmp_path / "x4.pth")
    pairs = {f"dataroot_{kind}": str(tmp_path / kind) for kind in ("gt", "lq")}
    for folder, side in zip(pairs.values(), (16 * scale, 16), strict=True):
        (tmp_path / folder).mkdir()
        for i in range(4):
            picture = cv2.resize(photo(i, 64, 64), (side, side), interpolation=cv2.INTER_AREA)
            cv2.imwrite(f"{folder}/{i}.png", picture)
    opt = tiny.options(
        "lightbsr_finetune_x4_pairs",
        tmp_path,
        {"scale": scale, "network_g": {"upscale": scale}, "path": {"pretrain_network_g": str(tmp_path / "x4.pth")}},
        {"datasets": {phase: pairs for phase in ("train", "val")}, "train": {"ema_decay": None}},
        {"datasets": {"train": {"gt_size": 8 * scale}}, "logger": {"use_tb_logger": True}},
    )
    if scale == 2:
        (finding,) = check_options(opt, is_train=True)
        assert "has upscale 4, but the option file says 2" in finding
        opt["path"]["strict_load_g"] = False
    done = tiny.train(tmp_path, opt)
    assert done.returncode == 0, done.stderr[-2000:]

    trained = torch.load(tiny.experiment(tmp_path) / "models" / "net_g_latest.pth", weights_only=True)["params"]
    network = LightBSR(upscale=scale, upsampler="pixelshuffledirect", **tiny.LIGHTBSR_SIZES)
    network.load_state_dict(trained)
    # With m = sum(w g) and v = sum(u g^2), a step of Adam is at most lr sqrt(sum(w^2 / u)) (Cauchy-Schwarz): with betas
    # (0.9, 0.99) the first six are at most 6.032 lr together.
    kept = [name for name, _ in network.named_parameters() if scale == 4 or ".tail." not in name]
    moved = [(trained[name] - weights[name]).abs().max() for name in kept]
    assert 0 < max(moved) <= 1.006 * tiny.TOTAL_ITER * LEARNING_RATE
    log = EventAccumulator(str(tmp_path / "tb_logger" / opt["name"])).Reload()
    assert set(log.Tags()["scalars"]) >= {"losses/l_pix", "lr", "metrics/held_out/psnr"}
    assert [event.step for event in log.Scalars("lr")] == [*range(1, tiny.TOTAL_ITER + 1)]
    assert log.Scalars("lr")[0].value == pytest.approx(LEARNING_RATE)


def test_a_teacher_starts_from_a_students_network(tmp_path, image_folder):
    weights = LightBSR(**tiny.LIGHTBSR_SIZES).state_dict()
    torch.save({"params": weights}, tmp_path / "student.pth")
    path = {"pretrain_network_g": str(tmp_path / "student.pth")}
    opt = tiny.options("lightbsr_teacher_x4_iso", image_folder, {"path": path})
    (finding,) = check_options(opt, is_train=True)
    assert "has type 'LightBSR', but the option file says 'LightBSRTeacher'" in finding
    opt["path"]["strict_load_g"] = False
    torch.save({"params": KDSR(**tiny.KDSR_SIZES).state_dict()}, tmp_path / "kdsr.pth")
    (finding,) = check_options(
        {**opt, "path": {**opt["path"], "pretrain_network_g": str(tmp_path / "kdsr.pth")}}, is_train=True
    )
    assert "has type 'KDSR', but the option file says 'LightBSRTeacher'" in finding
    done = tiny.train(tmp_path, opt)
    assert done.returncode == 0, done.stderr[-2000:]

    trained = torch.load(tiny.experiment(tmp_path) / "models" / "net_g_latest.pth", weights_only=True)["params"]
    taken = [name for name in weights if name.startswith(("converter.", "sr_network."))]
    moved = [(trained[name] - weights[name]).abs().max() for name in taken]
    assert 0 < max(moved) <= 1.006 * tiny.TOTAL_ITER * opt["train"]["optim_g"]["lr"]
