"""``lightbsr export``: a student's weights as an ONNX model, compared with PyTorch before it is written."""

import argparse
import copy
import os
from collections.abc import Iterator

import torch
from torch import Tensor, nn

import lightbsr
from lightbsr_compat import InputError, atomic_write

from .export import DEFAULT_OPSET, require_onnx, to_onnx
from .packaged import find_weights
from .upscaling.upscaler import load_network

# What a model may differ from PyTorch's float32, as a part of white (1) or of the largest value where that is larger.
# fp16's unit of rounding is 2^-11 = 4.9e-4, and it rounds in every layer: networks of the papers' sizes with random
# weights come out four units off, which leaves five-fold room.
TOLERANCES = {"fp32": 1e-4, "fp16": 1e-2}
# What a model is compared on: a pixel, sides below the estimator's stride of 4, multiples of it and others.
_SIZES = ((1, 1), (2, 7), (13, 5), (16, 24), (33, 30))
_BATCHES = (1, 2)


class _Half(nn.Module):
    """A network that computes in float16, its inputs and outputs being float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).half()

    def forward(self, lq: Tensor) -> Tensor:
        return self.network(lq.half()).float()


def differences(model: bytes, network: nn.Module) -> Iterator[tuple[str, float]]:
    """Compare an exported network with PyTorch on noise of several sizes and batches, by ONNX Runtime on the CPU.

    Args:
        model: the model file's content.
        network: a student in eval mode, float32, on the CPU.

    Yields:
        The input's size in words, and the largest difference as a part of 1 (white), or of the largest value that
        PyTorch gives where that is larger; infinite where the sizes of the outputs differ.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    for h, w in _SIZES:
        for batch in _BATCHES:
            lq = torch.rand(batch, 3, h, w, generator=generator)
            with torch.inference_mode():
                expected = network(lq)
            sr = torch.from_numpy(session.run(None, {"lq": lq.numpy()})[0])
            difference = float("inf")
            if sr.shape == expected.shape:
                difference = float((sr - expected).abs().max() / expected.abs().max().clamp(min=1))
            yield f"batch {batch}, {h}x{w}", difference


def export_file(weights: str, target: str, *, precision: str = "fp32", opset: int = DEFAULT_OPSET) -> str:
    """Export a student's weights as an ONNX model that takes ``lq`` (B, 3, h, w) and gives ``sr``, both float32.

    Args:
        weights: a checkpoint, or the name of packaged weights, as ``lightbsr upscale`` takes it.
        target: the ``.onnx`` to write, once it was compared with PyTorch; replaced whole or not at all.
        precision: ``fp32`` or ``fp16``, in which the model computes and keeps its weights.
        opset: version of ONNX's operator set.

    Returns:
        A sentence that says what was written and how far it is from PyTorch.

    Raises:
        InputError: weights, target, opset or packages that cannot be used, or a model that differs from PyTorch.
    """
    if not target.endswith(".onnx"):
        raise InputError(f"{target!r} is no name of an ONNX model: it must end in .onnx")
    require_onnx("lightbsr export")
    network = load_network(find_weights(weights))
    name, scale = type(network).__name__, network.upscale
    model = to_onnx(
        network if precision == "fp32" else _Half(network),
        [torch.rand(2, 3, 10, 11)],
        input_names=["lq"],
        output_names=["sr"],
        dynamic={"lq": {0: "batch", 2: "height", 3: "width"}},
        opset=opset,
        metadata={
            "network": name,
            "scale": str(scale),
            "precision": precision,
            "weights": os.path.basename(weights),
            "lightbsr": lightbsr.__version__,
        },
    )
    way_out = "" if precision == "fp32" else "; export it as fp32"
    largest = 0.0
    for size, difference in differences(model, network):
        if not difference <= TOLERANCES[precision]:  # NaN is neither
            raise InputError(
                f"{weights!r} as ONNX, {precision}, gives images that differ from PyTorch's by {difference:.2g} of"
                f" white ({size}), but {TOLERANCES[precision]:g} is allowed: nothing was written{way_out}"
            )
        largest = max(largest, difference)
    with atomic_write(target) as temporary, open(temporary, "wb") as file:
        file.write(model)
    return (
        f"{name}, x{scale}, {precision}, opset {opset}: written to {target}; at {len(_SIZES)} sizes and batches of"
        f" {' and '.join(map(str, _BATCHES))} it differs from PyTorch by at most {largest:.1e} of white"
        f" ({255 * largest:.2g} grey levels of 255)"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--weights", required=True, metavar="FILE", help="a student's checkpoint, or packaged")
    parser.add_argument("--onnx", required=True, metavar="FILE", help="the .onnx to write")
    parser.add_argument("--precision", choices=("fp32", "fp16"), default="fp32", help="fp32 (default) or fp16")
    parser.add_argument(
        "--opset", type=int, default=18, metavar="N", help="version of ONNX's operator set, 18 (default) to 22"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    print(export_file(args.weights, args.onnx, precision=args.precision, opset=args.opset))
    return 0
