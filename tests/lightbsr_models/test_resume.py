"""Resuming with an option file that has changed: its values hold from there on, and the log says so."""

import logging

import pytest
import tiny
import torch
from basicsr.models import build_model

from lightbsr_compat import InputError
from lightbsr_models.checkpoints import load_training_state


@pytest.fixture
def resumed(parsed_options, teacher_run, caplog):
    """``resumed(CHANGES)``: the teacher's model, resumed from iteration 4 with changed options, and the warnings."""

    def resume(*changes):
        options = parsed_options("teacher")
        for change in changes:
            tiny.merge(options, change)
        options["path"] |= dict(pretrain_network_g=teacher_run.checkpoint(4), resume_state="unused")
        with caplog.at_level(logging.WARNING, "basicsr"):
            caplog.clear()
            model = build_model(options)
            logging.getLogger("basicsr").propagate = True
            model.resume_training(teacher_run.state(4))
            logging.getLogger("basicsr").propagate = False
        return model, {record.getMessage() for record in caplog.records}

    return resume


def rates(model, first, last):
    found = []
    for iteration in range(first, last + 1):
        model.update_learning_rate(iteration)
        found.append(model.get_current_learning_rate()[0])
    return found


def test_unchanged_options_go_on_with_the_saved_bits(resumed, teacher_run):
    model, warnings = resumed()
    assert not warnings
    saved = teacher_run.state(4)
    assert tiny.differences(model.optimizers[0].state_dict(), saved["optimizers"][0]) == []
    assert tiny.differences(model.schedulers[0].state_dict(), saved["schedulers"][0]) == []
    expected = [teacher_run.state(i)["optimizers"][0]["param_groups"][0]["lr"] for i in (5, 6)]
    assert rates(model, 5, 6) == expected


@pytest.mark.parametrize(
    "change, words",
    [
        ({"optim_g": {"lr": 2e-3}}, ["initial_lr is 0.002 by the option file, and was 0.001", "lr of iteration 4"]),
        ({"optim_g": {"betas": [0.5, 0.9]}}, ["betas is [0.5, 0.9]"]),
        (
            {
                "scheduler": {
                    "type": "MultiStepLR",
                    "milestones": [2],
                    "gamma": 0.5,
                    "warmup_iter": None,
                    "eta_min": None,
                }
            },
            ["lr of iteration 4 is 0.0005"],
        ),
        ({"total_iter": 9}, []),  # the lr of iteration 4, the last of the warm-up, is the same
    ],
)
def test_changed_options_hold_and_are_logged(resumed, parsed_options, change, words):
    model, warnings = resumed({"train": change})
    assert len(warnings) == len(words) and all(any(word in w for w in warnings) for word in words)
    options = parsed_options("teacher")
    tiny.merge(options, {"train": change})
    fresh = build_model(options)
    expected = rates(fresh, 1, 6)[4:]  # those of a run with these options from its beginning
    assert rates(model, 5, 6) == expected
    assert model.optimizers[0].param_groups[0]["betas"] == fresh.optimizers[0].param_groups[0]["betas"]


def test_a_metric_that_was_added_before_resuming_is_scored(resumed, val_folder):
    from basicsr.data import build_dataloader, build_dataset

    ssim = dict(type="calculate_ssim", crop_border=4, test_y_channel=True)
    model, _ = resumed({"val": {"metrics": {"ssim": ssim}}})
    dataset_opt = model.opt["datasets"]["val"] | {"phase": "val"}
    loader = build_dataloader(build_dataset(dataset_opt), dataset_opt, num_gpu=0)
    model.validation(loader, 6, None, False)
    assert model.best_metric_results["val"]["ssim"]["iter"] == 6
    assert model.best_metric_results["val"]["psnr"]["iter"] in (3, 6)


def test_another_network_is_a_sentence(resumed):
    with pytest.raises(InputError, match=r"net_g_4\.pth' does not fit LightBSRTeacher: .*"):
        resumed({"network_g": {"num_feat": 12}})


@pytest.mark.parametrize(
    "change, words",
    [
        ({"iter": "4"}, r"is not a training state: .* \(iter: "),
        ({"optimizers": {}}, r"is not a training state: .* \(optimizers: "),
        ({"best_metric_results": {"val": {"psnr": None}}}, r"\(best_metric_results.val.psnr: "),
    ],
)
def test_a_state_of_other_types_is_refused(teacher_run, tmp_path, change, words):
    torch.save({**teacher_run.state(4), **change}, tmp_path / "4.state")
    with pytest.raises(InputError, match=words):
        load_training_state(str(tmp_path / "4.state"), {"path": {"models": str(tmp_path)}})


def test_a_state_whose_optimizer_is_damaged_is_a_sentence(parsed_options, teacher_run):
    for damaged in ({}, {"state": {}, "param_groups": [None]}, {"state": 3, "param_groups": [{"params": []}]}):
        with pytest.raises(InputError, match="resume_state does not fit the networks of the option file"):
            build_model(parsed_options("teacher")).resume_training({**teacher_run.state(4), "optimizers": [damaged]})


def test_weights_are_loaded_as_by_basicsr(resumed, tmp_path):
    """A bare state dict with ``param_key=None``, and with the default; the prefix of DataParallel is taken off."""
    model, _ = resumed()
    other = {f"module.{name}": value + 1 for name, value in model.net_g.state_dict().items()}
    torch.save(other, tmp_path / "bare.pth")
    for key in (None, "params"):
        model.load_network(model.net_g, str(tmp_path / "bare.pth"), True, key)
        assert all(torch.equal(value, other[f"module.{name}"]) for name, value in model.net_g.state_dict().items())
