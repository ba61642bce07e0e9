"""What runs the SR network: PyTorch, ONNX Runtime or OpenVINO.

The last two run graphs that are exported, in memory, when they are first needed: one of the whole network, and one of
its SR part for tiles, to which the IDR and the averages of the whole image are inputs. These are found with PyTorch
whatever the engine: they are a few hundredths of the work.
"""

import abc
import importlib.util
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from lightbsr_arch import IDR, LightBSR
from lightbsr_arch.pooling import GivenAverages
from lightbsr_compat import InputError, did_you_mean

from ..export import require_onnx, to_onnx

ENGINES = ("torch", "onnx", "openvino")


class Engine(Protocol):
    """Runs one network, from any number of threads. Tensors come and go on the network's device.

    Attributes:
        scale: the factor.
    """

    scale: int

    def whole(self, lq: Tensor) -> Tensor:
        """Super-resolve a whole image: (1, 3, h, w) -> (1, 3, h * scale, w * scale), not clamped."""

    def tile(self, lq: Tensor, idr: Any, averages: Tensor) -> Tensor:
        """Super-resolve a tile, guided by the IDR and the averages of the image that it belongs to; not clamped."""


class TorchEngine:
    """The network as it is."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self.scale: int = network.upscale  # type: ignore[assignment]

    def whole(self, lq: Tensor) -> Tensor:
        return self._network(lq)

    def tile(self, lq: Tensor, idr: Any, averages: Tensor) -> Tensor:
        sr_network = self._network.sr_network
        if sr_network.takes_averages:  # type: ignore[union-attr]
            return sr_network(lq, idr, GivenAverages(averages))  # type: ignore[operator]
        return sr_network(lq, idr)  # type: ignore[operator]


class _LightBSRTile(nn.Module):
    """LightBSR's SR network as a function of tensors: lq, channel IDR, spatial IDR, averages."""

    input_names = ("lq", "idr_channel", "idr_spatial", "averages")
    dynamic = ("lq", "idr_spatial")

    def __init__(self, network: LightBSR) -> None:
        super().__init__()
        self.sr_network = network.sr_network

    def forward(self, lq: Tensor, channel: Tensor, spatial: Tensor, averages: Tensor) -> Tensor:
        return self.sr_network(lq, IDR(channel, spatial), GivenAverages(averages))


class _KDSRTile(nn.Module):
    """KDSR's SR network as a function of tensors: lq, IDR."""

    input_names = ("lq", "idr")
    dynamic = ("lq",)

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.sr_network = network.sr_network

    def forward(self, lq: Tensor, idr: Tensor) -> Tensor:
        return self.sr_network(lq, idr)  # type: ignore[operator]


Run = Callable[[dict[str, np.ndarray]], np.ndarray]


class GraphEngine(abc.ABC):
    """A network as two ONNX graphs, each made when it is first needed.

    Args:
        network: ``LightBSR`` or ``KDSR``; on a GPU if the graphs are to run there.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._lock = threading.Lock()
        self._graphs: dict[str, Run] = {}
        self.scale: int = network.upscale  # type: ignore[assignment]

    @abc.abstractmethod
    def load(self, model: bytes) -> Run:
        """Make an ONNX model ready; what comes out may be called from any number of threads."""

    def whole(self, lq: Tensor) -> Tensor:
        return self._run("whole", self._network, ("lq",), ("lq",), [lq])

    def tile(self, lq: Tensor, idr: Any, averages: Tensor) -> Tensor:
        part: _LightBSRTile | _KDSRTile
        if isinstance(self._network, LightBSR):
            part, inputs = _LightBSRTile(self._network), [lq, *idr, averages]
        else:
            part, inputs = _KDSRTile(self._network), [lq, idr]
        return self._run("tile", part, part.input_names, part.dynamic, inputs)

    def _run(
        self, name: str, module: nn.Module, input_names: Sequence[str], dynamic: Sequence[str], inputs: list[Tensor]
    ) -> Tensor:
        with self._lock:
            if name not in self._graphs:
                self._graphs[name] = self.load(_exported(module, input_names, dynamic, inputs))
            run = self._graphs[name]
        arrays = (x.float().cpu().contiguous().numpy() for x in inputs)
        return torch.from_numpy(run(dict(zip(input_names, arrays, strict=True)))).to(inputs[0].device)


def _exported(module: nn.Module, input_names: Sequence[str], dynamic: Sequence[str], inputs: Sequence[Tensor]) -> bytes:
    """A module as an ONNX model whose images may have any height and width, but come one at a time."""
    # The exporter takes an axis of length 1 for a constant: small images that stand for all.
    examples = [
        x.new_zeros(1, x.shape[1], 16, 20) if name in dynamic else x
        for name, x in zip(input_names, inputs, strict=True)
    ]
    axes = {name: {2: "height", 3: "width"} for name in dynamic}
    with torch.inference_mode(False), torch.no_grad():
        examples = [x.clone() for x in examples]  # no inference tensors
        return to_onnx(module, examples, input_names=input_names, output_names=["sr"], dynamic=axes)


def _require(package: str, engine: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise InputError(f"engine {engine} needs {package}, which is not installed: pip install 'lightbsr[{engine}]'")


class OnnxEngine(GraphEngine):
    """ONNX Runtime, on the GPU if the network is there.

    Raises:
        InputError: onnxruntime is not installed, or has no CUDA while the network is on a GPU.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        _require("onnxruntime", "onnx")
        require_onnx("engine onnx")
        import onnxruntime

        device = next(network.parameters()).device
        self._providers: list[Any] = ["CPUExecutionProvider"]
        if device.type != "cpu":
            if device.type != "cuda" or "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
                raise InputError(f"engine onnx cannot use device {str(device)!r}: this onnxruntime knows CPUs only")
            self._providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))

    def load(self, model: bytes) -> Run:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(model, options, providers=self._providers)
        taken = {entry.name for entry in session.get_inputs()}  # what a graph does not need it may leave out

        def run(inputs: dict[str, np.ndarray]) -> np.ndarray:
            return session.run(None, {name: value for name, value in inputs.items() if name in taken})[0]

        return run


class OpenVINOEngine(GraphEngine):
    """OpenVINO on the CPU.

    Raises:
        InputError: openvino, or what exporting needs, is not installed, or the network is on a GPU.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        _require("openvino", "openvino")
        require_onnx("engine openvino")
        device = next(network.parameters()).device
        if device.type != "cpu":
            raise InputError(f"engine openvino cannot use device {str(device)!r}: it runs on the CPU here")

    def load(self, model: bytes) -> Run:
        import openvino

        core = openvino.Core()
        options = {
            "INFERENCE_PRECISION_HINT": "f32",  # else some CPUs compute in bfloat16: a grey level off
            "SNIPPETS_MODE": "DISABLE",  # OpenVINO 2026.4 crashes where it fuses the MLPs of successive IDR-CBs
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        compiled = core.compile_model(core.read_model(model, b""), "CPU", options)
        taken = {name for entry in compiled.inputs for name in entry.get_names()}

        def run(inputs: dict[str, np.ndarray]) -> np.ndarray:
            request = compiled.create_infer_request()  # one for each call: they are not shared by threads
            result = request.infer({name: value for name, value in inputs.items() if name in taken})
            return np.array(next(iter(result.values())))

        return run


def make_engine(name: str, network: nn.Module, precision: str) -> Engine:
    """The engine called ``name`` for a network.

    Raises:
        InputError: there is none of that name, its package is missing, or it cannot compute so.
    """
    if name == "torch":
        return TorchEngine(network)
    engines: dict[str, type[GraphEngine]] = {"onnx": OnnxEngine, "openvino": OpenVINOEngine}
    if name not in engines:
        raise InputError(f"engine is {name!r}{did_you_mean(name, ENGINES)}")
    if precision != "fp32":
        raise InputError(f"precision is {precision!r}, but engine {name} computes in fp32")
    return engines[name](network)
