"""What reduced precision costs: PSNR of trained weights on a benchmark set, against float32."""

from pathlib import Path
from typing import Any

import torch
from basicsr.metrics import calculate_psnr
from basicsr.utils import tensor2img

from lightbsr.packaged import find_weights
from lightbsr.upscaling.upscaler import load_network
from lightbsr_data import BlindBenchmarkDataset
from lightbsr_models.precision import Autocast

MOST = 0.02  # dB
SIGMA = 2.4


@torch.inference_mode()
def mean_psnr(network: torch.nn.Module, images: Path, device: torch.device, amp: str | None) -> float:
    """On Y, ``scale`` pixels shaved, 8 bits; LR images of setting iso, sigma 2.4.

    Args:
        images: folder of HR images.
        amp: ``bf16``, ``fp16`` or None.
    """
    scale: int = network.upscale  # type: ignore[assignment]
    options = dict(dataroot_gt=str(images), io_backend=dict(type="disk"), scale=scale, degradation=dict(sigma=SIGMA))
    dataset, autocast = BlindBenchmarkDataset(options), Autocast(amp, device)
    scores = []
    for i in range(len(dataset)):
        item = dataset[i]
        lq = item["lq"][None].to(device).contiguous(memory_format=torch.channels_last)
        pictures = [tensor2img([t]) for t in (autocast(network, lq).cpu(), item["gt"][None])]
        scores.append(float(calculate_psnr(*pictures, crop_border=scale, test_y_channel=True)))
    return sum(scores) / len(scores)


def measure(weights: str, images: Path, device: torch.device) -> list[dict[str, Any]]:
    """PSNR in float32, bfloat16 and float16, and the decibels that are lost."""
    network = load_network(find_weights(weights)).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    scores = {amp: mean_psnr(network, images, device, amp) for amp in (None, "bf16", "fp16")}
    return [dict(precision=amp or "fp32", psnr=psnr, lost=scores[None] - psnr) for amp, psnr in scores.items()]
