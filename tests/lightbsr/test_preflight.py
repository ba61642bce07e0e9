"""The estimate of memory, against what a training step of the same option file keeps for its backward pass."""

import pytest
import torch

from lightbsr.packaged import packaged_options
from lightbsr.training.preflight import training_bytes
from lightbsr_arch import LightBSR
from lightbsr_compat import load_options

SIZES = dict(num_feat=16, num_group=3, num_block=2, num_idr=16, num_channel_idr=6)


def estimate(kind: str = "lightbsr_student_x4_iso", **train):
    """Bytes of the activations alone: the rest are weights."""
    options = load_options(packaged_options()[kind])
    options["network_g"] |= SIZES if "lightbsr" in kind else dict(num_feat=16, num_block=100)
    options["datasets"]["train"].update(batch_size_per_gpu=4, gt_size=64)
    options["train"] |= dict(ema_decay=0) | train
    memory, checkpoint = training_bytes(options)
    return memory - checkpoint // 3 * 4


@pytest.mark.parametrize("amp", [None, "bf16"])
def test_estimate_is_near_what_a_step_keeps(amp):
    network = LightBSR(upscale=4, **SIZES).train()
    weights = sum(p.nbytes for p in network.parameters())
    with kept_bytes() as kept, torch.autocast("cpu", torch.bfloat16, enabled=bool(amp)):
        network(torch.rand(4, 3, 16, 16))
    assert estimate(amp=amp) == pytest.approx(kept[0] - weights, rel=0.5)


def test_mixed_precision_is_not_promised_more_than_it_saves():
    network, lq = LightBSR(upscale=4, **SIZES).train(), torch.rand(4, 3, 16, 16)
    with kept_bytes() as plain:
        network(lq)
    with kept_bytes() as mixed, torch.autocast("cpu", torch.bfloat16):
        network(lq)
    assert mixed[0] / plain[0] <= estimate(amp="bf16") / estimate() <= 1.3 * mixed[0] / plain[0]


@pytest.mark.parametrize("kind", ["lightbsr_student_x4_iso", "kdsr_student_M_x4_iso"])
def test_estimate_knows_the_options_for_memory(kind):
    plain = estimate(kind)
    assert estimate(kind, amp="bf16") == pytest.approx(plain * 2 / 3, rel=1e-3)
    assert 0 < estimate(kind, checkpointing=True) < 0.75 * plain
