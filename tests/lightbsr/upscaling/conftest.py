"""Weights files of small networks, made by the tests themselves."""

import pytest
import torch
from torch import nn

from lightbsr_arch import KDSR, LightBSR


def make_lightbsr(*, upscale: int = 2, **options) -> LightBSR:
    """A small LightBSR with large layer scales, and channel gates that depend on the averages."""
    sizes = dict(num_feat=8, num_group=1, num_block=2, num_idr=16, num_channel_idr=6, layer_scale_init=3.0)
    network = LightBSR(upscale=upscale, **(sizes | options)).eval()
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.01, 0.1)  # small features would hide that an IDR is another
        if name.endswith("channel_gate.0"):
            module.weight.data[:, :6] *= 30  # the averages' columns
        if name.endswith("channel_gate.2"):
            module.weight.data *= 5
    return network


def make_kdsr(*, upscale: int = 2, **options) -> KDSR:
    """A small KDSR whose IDR differs between images, and whose kernels depend on it."""
    network = KDSR(upscale=upscale, **(dict(num_feat=8, num_block=2, num_resblock=1) | options)).eval()
    for name, module in network.named_modules():
        if name.startswith("estimator") and isinstance(module, (nn.Conv2d, nn.Linear)):
            module.weight.data *= 2.2
        if "to_kernel" in name and isinstance(module, nn.Linear):
            module.weight.data *= 4
    return network


@pytest.fixture(scope="session")
def networks() -> dict[str, nn.Module]:
    """One network of each kind by name, x2; ``plain`` is LightBSR without averages."""
    torch.manual_seed(0)
    return {
        "lightbsr": make_lightbsr(),
        "kdsr": make_kdsr(),
        "plain": make_lightbsr(channel_modulation=False),
    }


@pytest.fixture(scope="session")
def weights(tmp_path_factory, networks) -> dict[str, str]:
    """Their weights files by name."""
    folder = tmp_path_factory.mktemp("weights")
    for name, network in networks.items():
        torch.save({"params": network.state_dict()}, folder / f"{name}.pth")
    return {name: str(folder / f"{name}.pth") for name in networks}
