"""How LightBSR's blocks take their global averages: over the image before them, or on behalf of a larger one.

Every block with a channel gate averages its features over the image plane. A tile of a large image has another average
than the image: seams show. So the averages are a strategy that ``sr_network(lq, idr, pool)`` hands to its blocks:
``SampledAverages`` takes those of all blocks in one pass over patches of the large image, ``GivenAverages`` gives them
to every tile. Both serve one pass and are then thrown away; the network itself keeps no state.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Pool = Callable[[Tensor], Tensor]  # (B, C, h, w) -> (B, C)


def global_average(x: Tensor) -> Tensor:
    """The average over the image plane: (B, C, h, w) -> (B, C)."""
    return x.mean((2, 3))


class GivenAverages:
    """Give the blocks averages that are known already, one block after the other.

    Args:
        averages: (N, C), those of the network's N pools in their order.
    """

    def __init__(self, averages: Tensor) -> None:
        self._averages = iter(averages.unbind(0))

    def __call__(self, x: Tensor) -> Tensor:
        return next(self._averages).to(x.dtype).expand(len(x), -1)


class SampledAverages:
    """Average over a whole batch of patches of one image, and remember it; every patch gets the same average.

    Args:
        weights: (B, 1, h, w), what each pixel counts: 0 where a patch only has context for its middle.
    """

    def __init__(self, weights: Tensor) -> None:
        self._weights = weights / weights.sum()
        self._taken: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        average = torch.einsum("bchw,bhw->c", x.float(), self._weights[:, 0])
        self._taken.append(average)
        return average.to(x.dtype).expand(len(x), -1)

    @property
    def averages(self) -> Tensor:
        """(N, C), one row for each pool of the network, in their order; (0, 0) where it has none."""
        return torch.stack(self._taken) if self._taken else self._weights.new_empty(0, 0)
