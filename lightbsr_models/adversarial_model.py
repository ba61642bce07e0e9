"""What makes a student's training adversarial: a discriminator, its losses, and a perceptual loss.

Source: Real-ESRGAN (ICCVW 2021), Sec. 3.4; KDSR (ICLR 2023), Sec. 4.3.
"""

from collections import OrderedDict

from basicsr.archs import build_network
from basicsr.losses import build_loss
from basicsr.models.base_model import BaseModel
from torch import Tensor

from .two_stage_model import TwoStageModel


class AdversarialModel(TwoStageModel):
    """To be put before a student's model among the bases; stage 2 alone is adversarial.

    Options, besides the student's: ``network_d``; ``path: pretrain_network_d``; of ``train``: ``gan_opt``,
    ``perceptual_opt`` (may be missing), ``optim_d``.
    """

    def init_training_settings(self) -> None:
        self.cri_gan = build_loss(self.opt["train"]["gan_opt"]).to(self.device)
        self.net_d = BaseModel.model_to_device(self, build_network(self.opt["network_d"]))
        self.print_network(self.net_d)
        path = self.opt["path"].get("pretrain_network_d")
        if path is not None:
            self.load_network(self.net_d, path, self.opt["path"].get("strict_load_d", True), "params")
        self.net_d.train()
        super().init_training_settings()

    def setup_optimizers(self) -> None:
        super().setup_optimizers()
        optim_opt = dict(self.opt["train"]["optim_d"])
        self.optimizer_d = self.get_optimizer(optim_opt.pop("type"), self.net_d.parameters(), **optim_opt)
        self.optimizers.append(self.optimizer_d)

    def stage_losses(self, stage: int) -> "OrderedDict[str, Tensor]":
        losses = super().stage_losses(stage)
        if stage == 2:
            if self.cri_perceptual:
                perceptual, style = self.cri_perceptual(self.output, self.target("perceptual_opt"))
                parts = {"l_percep": perceptual, "l_style": style}
                losses.update({name: part for name, part in parts.items() if part is not None})
            self.net_d.requires_grad_(False)
            losses["l_gan"] = self.cri_gan(self.net_d(self.output), True, is_disc=False)
        return losses

    def after_step(self, stage: int) -> "OrderedDict[str, Tensor]":
        log = super().after_step(stage)
        if stage == 2:
            self.net_d.requires_grad_(True)
            self.optimizer_d.zero_grad()
            for name, images, is_real in (
                ("real", self.target("gan_opt"), True),
                ("fake", self.output.detach(), False),
            ):
                score = self.net_d(images)
                log[f"l_d_{name}"] = self.cri_gan(score, is_real, is_disc=True)
                log[f"out_d_{name}"] = score.detach().mean()
                log[f"l_d_{name}"].backward()
            self.optimizer_d.step()
        return log

    def save(self, epoch: int, current_iter: int) -> None:
        self.save_network(self.net_d, "net_d", current_iter)
        super().save(epoch, current_iter)
