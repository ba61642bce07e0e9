"""LightBSR and KDSR as architectures of spandrel, which recognises a network by its state dict.

``lightbsr.spandrel.install()`` adds them to spandrel's main registry; its ``ModelLoader`` then loads our checkpoints
and those of the papers' released format. Teachers are not detected: they need more than the LR image.
"""

from typing import Any, Generic, NamedTuple, TypeVar

from spandrel import (
    MAIN_REGISTRY,
    Architecture,
    ArchRegistry,
    ArchSupport,
    ImageModelDescriptor,
    ModelTiling,
    StateDict,
    UnsupportedModelError,
)
from torch import nn

from lightbsr_arch import KDSR, LightBSR, find_state_dict, network_options

from .released import convert_state_dict, recognise

Network = TypeVar("Network", bound=nn.Module)


class _Recognised(NamedTuple):
    network_class: type[nn.Module]
    options: dict[str, Any]
    state_dict: StateDict


def _recognise(state_dict: StateDict) -> _Recognised | None:
    """Return the network that a whole state dict of our or of the released format belongs to, None for any other."""
    try:
        state_dict = find_state_dict(state_dict)
        if recognise(state_dict) is not None:
            state_dict = convert_state_dict(state_dict)[1]
        return _Recognised(*network_options(state_dict), state_dict)
    except (ValueError, RuntimeError):
        return None


class _StudentArch(Architecture[Network], Generic[Network]):
    """A student of any size."""

    def __init__(self, network_class: type[Network]) -> None:
        super().__init__(id=network_class.__name__, detect=lambda state_dict: self._find(state_dict) is not None)
        self._network_class = network_class

    def _find(self, state_dict: StateDict) -> _Recognised | None:
        found = _recognise(state_dict)
        return found if found is not None and found.network_class is self._network_class else None

    def load(self, state_dict: StateDict) -> ImageModelDescriptor[Network]:
        found = self._find(state_dict)
        if found is None:
            raise UnsupportedModelError(f"not a state dict of {self.id}")
        sizes = {"num_feat": "nf", "num_group": "ng", "num_block": "nb"}
        return ImageModelDescriptor(
            self._network_class(**found.options).eval(),  # eval: it has BatchNorm, and users take the network out
            found.state_dict,
            architecture=self,
            purpose="SR",
            tags=[f"{found.options[size]}{tag}" for size, tag in sizes.items() if size in found.options],
            supports_half=True,
            supports_bfloat16=True,
            scale=found.options["upscale"],
            input_channels=3,
            output_channels=3,
            tiling=ModelTiling.DISCOURAGED,  # every tile would be upscaled with a degradation of its own
        )


class LightBSRArch(_StudentArch[LightBSR]):
    """LightBSR's student, ablations included."""

    def __init__(self) -> None:
        super().__init__(LightBSR)


class KDSRArch(_StudentArch[KDSR]):
    """KDSR's student: M, L, real-world and any other size."""

    def __init__(self) -> None:
        super().__init__(KDSR)


def install(registry: ArchRegistry = MAIN_REGISTRY) -> list[ArchSupport]:
    """Add both architectures to a registry of spandrel, and return those that were not there already."""
    supports = [ArchSupport.from_architecture(arch) for arch in (LightBSRArch(), KDSRArch())]
    return registry.add(*supports, ignore_duplicates=True)
