"""Training LightBSR's teacher: contrast alone, then contrast and super-resolution.

Source: LightBSR (ICCV 2025), Sec. 3.1, 3.4 and 4.1. The released code passes view 0 through the query estimator twice
in stage 2; here once.
"""

from collections import OrderedDict
from typing import Any

import torch
from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor, nn

from lightbsr_arch import LightBSRTeacher, network_options
from lightbsr_compat import InputError, load_weights_file
from lightbsr_data import degradation_prior, get_setting, kernel_basis

from .two_stage_model import TwoStageModel, check_same, pick_state_dict


def check_queue(queue_size: int, batch: int) -> None:
    """Raise InputError where the batch of all ranks does not divide the queue."""
    if queue_size % batch:
        raise InputError(
            f"queue_size is {queue_size}, but must be a multiple of the batch of all ranks,"
            f" {batch} (batch_size_per_gpu x processes)"
        )


@MODEL_REGISTRY.register()
class LightBSRTeacherModel(TwoStageModel):
    """BasicSR model of ``LightBSRTeacher``.

    In training the degradation setting is ``datasets: train: degradation``; it decides the number of prior channels,
    and the network is given the kernel basis. In testing all three are read from the checkpoint.

    Options of ``train``: ``idr_pretrain_iter``, ``contrast_opt`` (ContrastiveLoss), ``pixel_opt``. With
    ``contrast_opt: ~`` (an ablation) there is no stage 1, and SR alone trains the estimator.
    """

    loss_options = ("contrast_opt",)
    optional_losses = ("contrast_opt",)
    net_g: LightBSRTeacher
    net_g_ema: LightBSRTeacher

    def __init__(self, opt: dict[str, Any]) -> None:
        if opt["is_train"]:
            setting = get_setting(opt["datasets"]["train"]["degradation"])
            stored = dict(num_prior=setting.num_prior_channels, kernel_basis=kernel_basis(), setting=setting.name)
        else:
            path = opt["path"].get("pretrain_network_g")
            if path is None:
                raise InputError("path pretrain_network_g is missing: testing a teacher needs its checkpoint")
            state_dict = pick_state_dict(load_weights_file(path), path, opt["path"].get("param_key_g", "params"))
            try:
                network_class, options = network_options(state_dict)
            except ValueError as error:
                raise InputError(f"pretrain_network_g {path!r}: {error}") from None
            check_same("pretrain_network_g", {"type": "LightBSRTeacher"}, {"type": network_class.__name__}, path)
            stored = {name: options[name] for name in ("num_prior", "kernel_basis", "setting", "queue_size")}
        super().__init__({**opt, "network_g": {**opt["network_g"], **stored}})
        self.setting = get_setting(self.net_g.setting)

    def init_training_settings(self) -> None:
        dataset_opt = self.opt["datasets"]["train"]
        check_queue(self.net_g.queue.shape[1], dataset_opt["batch_size_per_gpu"] * self.opt["world_size"])
        self.has_contrast = self.opt["train"]["contrast_opt"] is not None
        if self.has_contrast and dataset_opt["num_views"] < 2:
            raise InputError(f"num_views is {dataset_opt['num_views']}, but contrast needs at least 2")
        super().init_training_settings()

    def stage_modules(self, stage: int) -> list[nn.Module]:
        network = self.net_g
        if not self.has_contrast:
            return [network.query_estimator, network.converter, network.sr_network]
        modules: list[nn.Module] = [network.query_estimator, network.query_projector]
        return modules if stage == 1 else [*modules, network.converter, network.sr_network]

    def stage_method(self, stage: int) -> str:
        return "contrast" if self.has_contrast else "forward"

    def feed_data(self, data: dict[str, Any]) -> None:
        super().feed_data(data)
        if "lq" in data:
            self.feed_prior(data["kernel"].to(self.device), data["noise_sigma"].to(self.device))

    def feed_prior(self, kernel: Tensor, noise_sigma: Tensor) -> None:
        self.prior = degradation_prior(kernel, noise_sigma, basis=self.net_g.kernel_basis, setting=self.setting)

    def stage_losses(self, stage: int) -> "OrderedDict[str, Tensor]":
        network, losses = self.net_g, OrderedDict()
        if not self.has_contrast:
            losses["l_pix"] = self.cri_pix(self.step_network(self.lq[:, 0], self.prior), self.gt)
            return losses
        network.update_key_estimator()
        output = self.step_network(self.lq, self.prior, super_resolve=stage == 2)
        losses["l_contrast"] = self.losses["contrast_opt"](output.queries, output.keys, network.queue.clone())
        network.enqueue(output.keys[:, 0])
        if stage == 2:
            losses["l_pix"] = self.cri_pix(output.sr, self.gt)
        return losses

    def test(self) -> None:
        network = self.net_g_ema if hasattr(self, "net_g_ema") else self.net_g
        network.eval()
        with torch.no_grad():
            self.output = network(self.lq, self.prior)
        self.net_g.train(self.is_train)
