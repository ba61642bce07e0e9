"""Networks, or parts of them, as ONNX models in memory, with dynamic axes.

PyTorch's exporter over ``torch.export`` is used, which knows no TorchScript. tests/lightbsr/test_export.py holds a list
of the operators that may come out: TensorRT and ncnn take them.
"""

import importlib.util
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightbsr_compat import InputError

# Those that the exporter writes by itself; it would leave others at 18 and only log that. From 20 on GELU is one node.
OPSETS = range(18, 23)
DEFAULT_OPSET = 18
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
    module: nn.Module,
    inputs: Sequence[Tensor],
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
            may differ even if they share a name. What is not named here is fixed to the example's size.
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

    module.eval()
    # What PyTorch warns of is how it works inside (axes that it found to be equal, modules it will move).
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
