"""``lightbsr export``: a student's weights as an ONNX model, compared with PyTorch before it is written.

PyTorch's exporter over ``torch.export`` is used, not TorchScript. tests/lightbsr/test_export.py lists the operators
that may come out: TensorRT and ncnn take them.
"""

import argparse
import importlib.util
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightbsr_compat import InputError, atomic_write

if TYPE_CHECKING:  # the command line answers mistakes in its arguments without importing PyTorch
    from torch import Tensor, nn

# Those that the exporter writes by itself; it would leave others at 18 and only log that. From 20 on GELU is one node.
OPSETS = range(18, 23)
DEFAULT_OPSET = 18
# How far a model may be from PyTorch's float32, as a part of white (1) or of the largest value where that is larger.
# fp16's unit of rounding is 2^-11 = 4.9e-4, and it rounds in every layer: networks of the papers' sizes with random
# weights come out four units off, which leaves five-fold room.
TOLERANCES = {"fp32": 1e-4, "fp16": 1e-2}
# What a model is compared on: a pixel, sides below the estimator's stride of 4, multiples of it and others.
_SIZES = ((1, 1), (2, 7), (13, 5), (16, 24), (33, 30))
_BATCHES = (1, 2)
_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


def require_onnx(what: str) -> None:
    """Raise InputError, saying what to install, where a package that exporting needs is missing.

    Args:
        what: what needs it, the beginning of the sentence.
    """

    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"{what} needs {', '.join(missing)}: pip install 'lightbsr[onnx]'")


def to_onnx(
    module: "nn.Module",
    inputs: "Sequence[Tensor]",
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    dynamic: Mapping[str, Mapping[int, str]],
    opset: int = DEFAULT_OPSET,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """Export a module as an ONNX model, in memory.

    Args:
        module: a network, or a part of one; put into eval mode. Its outputs are one tensor or a flat tuple of them.
        inputs: examples of what its ``forward`` takes, in order, on the module's device; every dynamic axis of length
            2 or more, since PyTorch would take a 1 for a constant.
        input_names: a name for every input.
        output_names: a name for every output.
        dynamic: input name -> {axis: name of the axis}. Axes that the module needs to be equal become one; the others
            may differ even if they share a name. Axes that are not named here are fixed to the example's size.
        opset: version of ONNX's operator set, one of ``OPSETS``.
        metadata: notes that the model file carries.

    Returns:
        The model file's content, weights included.

    Raises:
        InputError: onnx, onnxruntime or onnxscript is not installed, or an opset that cannot be written.
        onnx.checker.ValidationError: a name that is given is one that the exporter uses inside the graph ('mean').
    """

    require_onnx("exporting to ONNX")
    if opset not in OPSETS:
        raise InputError(f"opset is {opset}, but must be {OPSETS[0]} to {OPSETS[-1]}")
    import onnx
    import onnxscript.optimizer
    import torch

    module.eval()
    # PyTorch warns of how it works inside (axes that it found to be equal, modules it will move).
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            tuple(inputs),
            input_names=list(input_names),
            output_names=list(output_names),
            dynamic_shapes=tuple(dict(dynamic.get(name, {})) for name in input_names),
            opset_version=opset,
            dynamo=True,
            verbose=False,
            optimize=False,
        )
        assert program is not None  # only the TorchScript exporter returns None
        # The optimizer's time grows with the square of the number of nodes, most of which fold into constants.
        onnxscript.optimizer.fold_constants(program.model)
        onnxscript.optimizer.remove_unused_nodes(program.model)
        program.optimize()
    model = program.model_proto
    _strip(model)
    onnx.helper.set_model_props(model, dict(metadata or {}))
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _strip(model: Any) -> None:
    """Remove the notes that the exporter leaves at every node: paths and source lines of this machine."""
    graph = model.graph
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.ClearField("doc_string")


def differences(
    model: bytes, network: "nn.Module", *, sizes: Sequence[tuple[int, int]] = _SIZES, batches: Sequence[int] = _BATCHES
) -> Iterator[tuple[str, float]]:
    """Compare an exported network with PyTorch on noise, by ONNX Runtime on the CPU.

    Args:
        model: the model file's content.
        network: a student in eval mode, float32, on the CPU.
        sizes: (height, width) of the LR images.
        batches: numbers of images.

    Yields:
        The input's size in words, and the largest difference as a part of 1 (white), or of the largest value that
        PyTorch gives where that is larger; infinite where the sizes of the outputs differ.
    """
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    for h, w in sizes:
        for batch in batches:
            lq = torch.rand(batch, 3, h, w, generator=generator)
            with torch.inference_mode():
                expected = network(lq)
            sr = torch.from_numpy(session.run(None, {"lq": lq.numpy()})[0])
            difference = float("inf")
            if sr.shape == expected.shape:
                difference = float((sr - expected).abs().max() / expected.abs().max().clamp(min=1))
            yield f"batch {batch}, {h}x{w}", difference


def _in_half(network: "nn.Module") -> "nn.Module":
    """Return a network that computes in float16 with float32 inputs and outputs."""
    import copy

    from torch import Tensor, nn

    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = copy.deepcopy(network).half()

        def forward(self, lq: Tensor) -> Tensor:
            return self.network(lq.half()).float()

    return Half()


def export_file(
    weights: str,
    target: str,
    *,
    precision: str = "fp32",
    opset: int = DEFAULT_OPSET,
    size: tuple[int, int] | None = None,
) -> str:
    """Export a student's weights as an ONNX model that takes ``lq`` (B, 3, h, w) and gives ``sr``, both float32.

    Args:
        weights: a checkpoint, or the name of packaged weights, as ``lightbsr upscale`` takes it.
        target: the ``.onnx`` to write, once it was compared with PyTorch; replaced whole or not at all.
        precision: ``fp32`` or ``fp16``, in which the model computes and keeps its weights.
        opset: version of ONNX's operator set.
        size: (height, width) of the LR image, for programs that need a fixed shape, B being 1 then; None leaves B, h
            and w free.

    Returns:
        A sentence that says what was written and how far it is from PyTorch.

    Raises:
        InputError: weights, target, opset or packages that cannot be used, or a model that differs from PyTorch.
    """
    import torch

    import lightbsr

    from .packaged import find_weights
    from .upscaling.upscaler import load_network

    if not target.endswith(".onnx"):
        raise InputError(f"{target!r} is no name of an ONNX model: it must end in .onnx")
    require_onnx("lightbsr export")
    network = load_network(find_weights(weights))
    name, scale = type(network).__name__, network.upscale
    model = to_onnx(
        network if precision == "fp32" else _in_half(network),
        [torch.rand(2, 3, 10, 11) if size is None else torch.rand(1, 3, *size)],
        input_names=["lq"],
        output_names=["sr"],
        dynamic={"lq": {0: "batch", 2: "height", 3: "width"}} if size is None else {},
        opset=opset,
        metadata={
            "network": name,
            "scale": str(scale),
            "precision": precision,
            "weights": os.path.basename(weights),
            "lightbsr": lightbsr.__version__,
        },
    )
    compared = dict(sizes=_SIZES, batches=_BATCHES) if size is None else dict(sizes=[size], batches=[1])
    largest = 0.0
    for shape, difference in differences(model, network, **compared):
        if not difference <= TOLERANCES[precision]:  # NaN is neither
            raise InputError(
                f"{weights!r} as ONNX, {precision}, gives images that differ from PyTorch's by {difference:.2g} of"
                f" white ({shape}), but {TOLERANCES[precision]:g} is allowed: nothing was written"
                f"{'' if precision == 'fp32' else '; export it as fp32'}"
            )
        largest = max(largest, difference)
    with atomic_write(target) as temporary:
        Path(temporary).write_bytes(model)
    shapes = "any size" if size is None else f"batch 1, {size[0]}x{size[1]}"
    return (
        f"{name}, x{scale}, {precision}, opset {opset}, {shapes}: written to {target}; it differs from PyTorch by at"
        f" most {largest:.1e} of white ({255 * largest:.2g} grey levels of 255)"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    from lightbsr_cli import at_least

    parser.add_argument("--weights", required=True, metavar="FILE", help="a student's checkpoint, or packaged")
    parser.add_argument("--onnx", required=True, metavar="FILE", help="the .onnx to write")
    parser.add_argument("--precision", choices=tuple(TOLERANCES), default="fp32", help="fp32 (default) or fp16")
    parser.add_argument(
        "--size",
        nargs=2,
        type=at_least(1),
        metavar=("H", "W"),
        help="one LR image of this size, for programs that need a fixed shape (default: any size and batch)",
    )
    parser.add_argument(
        "--opset",
        type=int,
        choices=OPSETS,
        default=DEFAULT_OPSET,
        metavar="N",
        help="version of ONNX's operator set, 18 (default) to 22",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    size = None if args.size is None else tuple(args.size)
    print(export_file(args.weights, args.onnx, precision=args.precision, opset=args.opset, size=size))
    return 0
