"""Adversarial training of a student: a discriminator, its losses, and a perceptual loss.

Source: Real-ESRGAN (ICCVW 2021), Sec. 3.4; KDSR (ICLR 2023), Sec. 4.3.
"""

from typing import Any

from basicsr.archs import build_network
from basicsr.losses import build_loss
from torch import Tensor, nn

from lightbsr_data import TrainingBatch

from .distributed import model_to_device
from .losses import ImageLoss
from .two_stage_model import Stage, TwoStageModel


class AdversarialStage(Stage):
    """A student's stage 2 with a perceptual and an adversarial loss.

    Args:
        model: of the student.
        stage: its stage 2, with ``super_resolve(batch)``, which returns SR images and losses.

    Attributes:
        sr: the SR images (B, 3, H, W) of the last batch, without gradient, for the discriminator's step.
    """

    sr: Tensor

    def __init__(self, model: "AdversarialModel", stage: Any) -> None:
        super().__init__(model)
        self.stage = stage
        self.net_d = model.net_d
        self.gan_loss = model.cri_gan
        sharpened = "perceptual_opt" in model.usm_targets
        self.perceptual_loss = ImageLoss(model.cri_perceptual, sharpened=sharpened) if model.cri_perceptual else None

    def trained(self) -> list[nn.Module]:
        return self.stage.trained()

    def forward(self, batch: TrainingBatch) -> dict[str, Tensor]:
        sr, losses = self.stage.super_resolve(batch)
        if self.perceptual_loss is not None:
            perceptual, style = self.perceptual_loss(sr, batch)
            parts = {"l_percep": perceptual, "l_style": style}
            losses.update({name: part for name, part in parts.items() if part is not None})
        losses["l_gan"] = self.gan_loss(self.net_d(sr), True, is_disc=False)
        self.sr = sr.detach()
        return losses


class AdversarialModel(TwoStageModel):
    """Stands before a student's model among the bases; stage 2 alone is adversarial.

    Options, besides the student's: ``network_d``; ``path: pretrain_network_d``; of ``train``: ``gan_opt``,
    ``perceptual_opt`` (may be missing), ``optim_d``.
    """

    def init_training_settings(self) -> None:
        self.cri_gan = build_loss(self.opt["train"]["gan_opt"]).to(self.device)
        self.net_d = model_to_device(self, build_network(self.opt["network_d"]))
        self.print_network(self.net_d)
        path = self.opt["path"].get("pretrain_network_d")
        if path is not None:
            self.load_network(self.net_d, path, self.opt["path"].get("strict_load_d", True), "params")
        self.net_d.train()
        super().init_training_settings()
        self.net_d.requires_grad_(False)  # but for its own step

    def make_stage(self, number: int) -> Stage:
        stage = super().make_stage(number)
        return stage if number == 1 else AdversarialStage(self, stage)

    def setup_optimizers(self) -> None:
        super().setup_optimizers()
        optim_opt = dict(self.opt["train"]["optim_d"])
        self.optimizer_d = self.get_optimizer(optim_opt.pop("type"), self.net_d.parameters(), **optim_opt)
        self.optimizers.append(self.optimizer_d)

    def step(self) -> dict[str, Tensor]:
        losses = super().step()
        return {**losses, **self._discriminator_step()} if self.stage_number == 2 else losses

    def _discriminator_step(self) -> dict[str, Tensor]:
        self.net_d.requires_grad_(True)
        self.optimizer_d.zero_grad()
        log = {}
        real = self.batch.sharpened_gt if "gan_opt" in self.usm_targets else self.batch.gt
        for name, images, is_real in (("real", real, True), ("fake", self.stage.sr, False)):  # type: ignore[arg-type]
            score = self.net_d(images)
            log[f"l_d_{name}"] = self.cri_gan(score, is_real, is_disc=True)
            log[f"out_d_{name}"] = score.detach().mean()
            log[f"l_d_{name}"].backward()
        self.optimizer_d.step()
        self.net_d.requires_grad_(False)
        return log

    def save(self, epoch: int, current_iter: int) -> None:
        self.save_network(self.net_d, "net_d", current_iter)
        super().save(epoch, current_iter)
