"""LightBSR and KDSR as architectures of spandrel, which finds out from a state dict what network it belongs to.

``lightbsr.spandrel.install()`` adds them to spandrel's main registry; from then on its ``ModelLoader`` loads our
checkpoints and those of the papers' released format. Teachers are not detected: they need more than the LR image.
"""

import contextlib
from typing import Generic, TypeVar

from spandrel import (
    MAIN_REGISTRY,
    Architecture,
    ArchRegistry,
    ArchSupport,
    ImageModelDescriptor,
    ModelTiling,
    StateDict,
)
from torch import nn

from lightbsr_arch import KDSR, LightBSR, network_options

from .convert import convert_state_dict, recognise

Network = TypeVar("Network", bound=nn.Module)


def _network_name(state_dict: StateDict) -> str | None:
    """The class of the network that a state dict of our or of the released format belongs to, if any."""
    name = recognise(state_dict)
    if name is None:
        with contextlib.suppress(ValueError):
            name = network_options(state_dict)[0].__name__
    return name


class _StudentArch(Architecture[Network], Generic[Network]):
    """A student: its sizes are read off the state dict, whatever they are."""

    def __init__(self, name: str) -> None:
        super().__init__(id=name, detect=lambda state_dict: _network_name(state_dict) == name)

    def load(self, state_dict: StateDict) -> ImageModelDescriptor[Network]:
        if recognise(state_dict) is not None:
            state_dict = convert_state_dict(state_dict)[1]
        network_class, options = network_options(state_dict)
        sizes = {"num_feat": "nf", "num_group": "ng", "num_block": "nb"}
        return ImageModelDescriptor(
            network_class(**options).eval(),  # it has BatchNorm: who takes the network out must not find it training
            state_dict,
            architecture=self,
            purpose="SR",
            tags=[f"{options[size]}{tag}" for size, tag in sizes.items() if size in options],
            supports_half=True,
            supports_bfloat16=True,
            scale=options["upscale"],
            input_channels=3,
            output_channels=3,
            # A tile is upscaled with the degradation that it seems to have alone.
            tiling=ModelTiling.DISCOURAGED,
        )


class LightBSRArch(_StudentArch[LightBSR]):
    """LightBSR's student, ablations included."""

    def __init__(self) -> None:
        super().__init__("LightBSR")


class KDSRArch(_StudentArch[KDSR]):
    """KDSR's student: M, L, real-world and any other size."""

    def __init__(self) -> None:
        super().__init__("KDSR")


def install(registry: ArchRegistry = MAIN_REGISTRY) -> None:
    """Add both architectures to a registry of spandrel, unless they are there already."""
    for arch in (LightBSRArch(), KDSRArch()):
        registry.add(ArchSupport.from_architecture(arch), ignore_duplicates=True)
