"""The training and testing that both teachers share: a teacher carries its setting, and sees more than the LR image."""

from typing import Any

import torch
from torch import nn

from lightbsr_arch import network_options
from lightbsr_compat import InputError, load_weights_file
from lightbsr_data import build_degrader

from .checkpoints import pick_state_dict
from .checks import check_same
from .two_stage_model import TwoStageModel


class TeacherModel(TwoStageModel):
    """Base of the teachers' models.

    In training the degradation setting is ``datasets: train: degradation``. In testing it, and what follows from it,
    are read from the checkpoint.

    Class attributes:
        condition: the attribute of the model that the teacher takes in testing: ``prior`` or ``gt``.
        stored_options: options of ``network_g`` that no option file holds, since they follow from the setting.
    """

    condition: str
    stored_options: tuple[str, ...] = ("setting",)

    def __init__(self, opt: dict[str, Any]) -> None:
        stored = self.options_of_setting(opt) if opt["is_train"] else self._options_of_checkpoint(opt)
        super().__init__({**opt, "network_g": {**opt["network_g"], **stored}})

    def options_of_setting(self, opt: dict[str, Any]) -> dict[str, Any]:
        """The options of ``network_g`` that follow from the training set's degradation."""
        return dict(setting=build_degrader(opt).name)

    def _options_of_checkpoint(self, opt: dict[str, Any]) -> dict[str, Any]:
        path = opt["path"].get("pretrain_network_g")
        if path is None:
            raise InputError("path pretrain_network_g is missing: testing a teacher needs its checkpoint")
        state_dict = pick_state_dict(load_weights_file(path), path, opt["path"].get("param_key_g", "params"))
        try:
            network_class, options = network_options(state_dict)
        except ValueError as error:
            raise InputError(f"pretrain_network_g {path!r}: {error}") from None
        check_same("the network", {"type": opt["network_g"]["type"]}, {"type": network_class.__name__}, path)
        return {name: options[name] for name in self.stored_options}

    def test(self) -> None:
        network: nn.Module = self.net_g_ema if hasattr(self, "net_g_ema") else self.net_g
        network.eval()
        with torch.no_grad():
            self.output = network(self.lq, getattr(self, self.condition))
        self.net_g.train(self.is_train)
