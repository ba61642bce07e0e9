"""What runs the SR network: PyTorch, ONNX Runtime or OpenVINO."""

from typing import Any, Protocol

from torch import Tensor, nn

from lightbsr_arch.pooling import GivenAverages
from lightbsr_compat import InputError, nearest

ENGINES = ("torch", "onnx", "openvino")


class Engine(Protocol):
    """Runs one network. Tensors come and go on the device of the network that it was made from.

    Attributes:
        scale: the factor.
    """

    scale: int

    def whole(self, lq: Tensor) -> Tensor:
        """Super-resolve a whole image: (B, 3, h, w) -> (B, 3, h * scale, w * scale), not clamped."""

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
        return self._network.sr_network(lq, idr, GivenAverages(averages))  # type: ignore[operator,union-attr]


def make_engine(name: str, network: nn.Module, precision: str) -> Engine:
    """The engine called ``name`` for a network.

    Raises:
        InputError: there is none of that name, its package is missing, or it cannot compute so.
    """
    if name != "torch":
        raise InputError(f"engine is {name!r}{nearest(name, ENGINES)}")
    return TorchEngine(network)
