"""Real-ESRGAN's second-order degradation on batches, on any device, and the pool that mixes its batches.

Source: Real-ESRGAN (ICCVW 2021), Sec. 3. The kernels come from BasicSR's ``RealESRGANDataset``, JPEG is BasicSR's. As
there one draw per batch decides about resizing, kind of noise, second blur and order; noise levels, gray noise and JPEG
qualities are drawn per image. Unlike there every draw comes from one explicit generator, gray noise differs between the
images of a batch, and what was drawn is returned.
"""

import copy
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from lightbsr_compat import InputError, require_basicsr

from .degradations import blur, to_8_bit
from .option_types import NonNegative, Probability, Range, Section

_RESIZE_MODES = ("area", "bilinear", "bicubic")
_GRAY_WEIGHTS = (0.2989, 0.587, 0.114)  # ITU-R BT.601, as torchvision rounds them


class OrderRanges(Section):
    """Ranges that one of the two degradations of Real-ESRGAN (ICCVW 2021, Sec. 3) is drawn from."""

    model_config = ConfigDict(frozen=True)

    blur_prob: Probability
    resize_prob: Annotated[list[NonNegative], Field(min_length=3, max_length=3)]
    """Weights of enlarging, shrinking and keeping the size."""
    resize_range: Range
    """Factor, from below to above 1."""
    gaussian_noise_prob: Probability
    """Poisson noise otherwise."""
    noise_range: Range
    """Standard deviation on the 0-255 scale."""
    poisson_scale_range: Range
    """Factor of the Poisson noise."""
    gray_noise_prob: Probability
    """Probability that an image's noise is the same in all channels."""
    jpeg_range: Range
    """JPEG quality, 1-99."""

    @model_validator(mode="after")
    def _check(self) -> "OrderRanges":
        low, high = self.resize_range
        if not 0 < low <= 1 <= high:
            raise InputError(f"resize_range is {self.resize_range}, but must reach from below to above 1")
        if not sum(self.resize_prob):
            raise InputError(f"resize_prob is {self.resize_prob}, but one weight must be above 0")
        # At quality 100 BasicSR's JPEG divides by zero.
        if not 1 <= self.jpeg_range[0] <= self.jpeg_range[1] <= 99:
            raise InputError(f"jpeg_range is {self.jpeg_range}, but a JPEG quality lies in [1, 99]")
        return self


# Real-ESRGAN's published option files.
FIRST_ORDER = OrderRanges(
    blur_prob=1.0,
    resize_prob=[0.2, 0.7, 0.1],
    resize_range=[0.15, 1.5],
    gaussian_noise_prob=0.5,
    noise_range=[1, 30],
    poisson_scale_range=[0.05, 3],
    gray_noise_prob=0.4,
    jpeg_range=[30, 95],
)
SECOND_ORDER = OrderRanges(
    blur_prob=0.8,
    resize_prob=[0.3, 0.4, 0.3],
    resize_range=[0.3, 1.2],
    gaussian_noise_prob=0.5,
    noise_range=[1, 25],
    poisson_scale_range=[0.05, 2.5],
    gray_noise_prob=0.4,
    jpeg_range=[30, 95],
)


def _completed(ranges: OrderRanges) -> BeforeValidator:
    """Take what a section leaves out from ``ranges``."""
    return BeforeValidator(lambda given: {**vars(ranges), **given} if isinstance(given, dict) else given)


class SecondOrderOptions(Section):
    """Both degradations of Real-ESRGAN; what is left out is the paper's."""

    first: Annotated[OrderRanges, _completed(FIRST_ORDER)] = FIRST_ORDER
    second: Annotated[OrderRanges, _completed(SECOND_ORDER)] = SECOND_ORDER


def parse_orders(options: Any) -> tuple[OrderRanges, OrderRanges]:
    """Read ``second_order: {first: {...}, second: {...}}`` of an option file; what is left out is Real-ESRGAN's.

    Raises:
        InputError: an unknown name, or a value that is out of its range.
    """
    try:
        orders = SecondOrderOptions.model_validate({} if options is None else options)
    except ValidationError as errors:
        error = errors.errors(include_url=False)[0]
        place = "".join(f"{part}: " for part in error["loc"])
        raise InputError(f"second_order: {place}{error['msg']}") from None
    return orders.first, orders.second


class OrderParameters(NamedTuple):
    """Parameters drawn for one of the two degradations.

    Attributes:
        kernel: (B, 21, 21), a single 1 where nothing was blurred.
        resize: (B,) factor; of the second, relative to the LR size.
        noise_sigma: (B,) of the Gaussian noise on the 0-255 scale, 0 where it was Poisson noise.
        poisson_scale: (B,) factor of the Poisson noise, 0 where it was Gaussian noise.
        gray_noise: (B,) 1 where all channels have the same noise, else 0.
        jpeg_quality: (B,) 1-99.
    """

    kernel: Tensor
    resize: Tensor
    noise_sigma: Tensor
    poisson_scale: Tensor
    gray_noise: Tensor
    jpeg_quality: Tensor


class SecondOrderParameters(NamedTuple):
    """Parameters drawn for a batch.

    Attributes:
        first, second: the two degradations.
        sinc_kernel: (B, 21, 21), a single 1 where there is none.
        jpeg_last: (B,) 1 where the second JPEG compression is the last step, 0 where it comes before the sinc filter.
    """

    first: OrderParameters
    second: OrderParameters
    sinc_kernel: Tensor
    jpeg_last: Tensor


def _mix_gray(colour: Tensor, gray: Tensor, gray_noise: Tensor) -> Tensor:
    """(B, 3, h, w) noise, or the (B, 1, h, w) one for the images whose ``gray_noise`` (B,) is 1."""
    return torch.where(gray_noise[:, None, None, None] > 0, gray, colour)


def gaussian_noise(images: Tensor, sigma: Tensor, gray_noise: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian noise of standard deviation ``sigma`` (B,) on the 0-255 scale, for images (B, 3, h, w) in [0, 1]."""

    def normal(channels: int) -> Tensor:
        size = (images.shape[0], channels, *images.shape[2:])
        return torch.randn(size, generator=generator, device=images.device, dtype=images.dtype)

    return _mix_gray(normal(images.shape[1]), normal(1), gray_noise) * sigma[:, None, None, None] / 255.0


def poisson_noise(images: Tensor, scale: Tensor, gray_noise: Tensor, generator: torch.Generator) -> Tensor:
    """``scale`` (B,) times Poisson noise of images (B, 3, h, w) in [0, 1].

    As many photons are counted at full brightness as there are levels in the 8-bit image, rounded up to a power of 2.
    """

    def noise(x: Tensor) -> Tensor:
        levels = to_8_bit(x * 255.0)
        seen = torch.zeros(x.shape[0], 256, device=x.device, dtype=x.dtype)
        seen.scatter_(1, levels.flatten(1).long(), 1.0)
        photons = torch.exp2(seen.sum(1).log2().ceil())[:, None, None, None]
        x = levels / 255.0
        return torch.poisson(x * photons, generator=generator) / photons - x

    weights = images.new_tensor(_GRAY_WEIGHTS)[None, :, None, None]
    gray = noise((images * weights).sum(1, keepdim=True))
    return _mix_gray(noise(images), gray, gray_noise) * scale[:, None, None, None]


def draw_order(ranges: OrderRanges, kernel: Tensor, generator: torch.Generator) -> OrderParameters:
    """Draw one of the two degradations of a batch, on the CPU; ``kernel`` (B, 21, 21) is its blur, if it has one."""
    batch = kernel.shape[0]

    def uniform(bounds: Sequence[float], size: tuple[int, ...] = (batch,)) -> Tensor:
        low, high = bounds
        return low + (high - low) * torch.rand(size, generator=generator)

    def happens(probability: float) -> bool:
        return bool(torch.rand((), generator=generator) < probability)

    kernel = kernel.cpu()
    if not happens(ranges.blur_prob):
        kernel = identity_kernels(batch)
    kind = int(torch.multinomial(torch.tensor(ranges.resize_prob, dtype=torch.float), 1, generator=generator))
    low, high = ranges.resize_range
    resize = float(uniform(((1.0, high), (low, 1.0), (1.0, 1.0))[kind], ()))
    sigma, scale = uniform(ranges.noise_range), uniform(ranges.poisson_scale_range)
    is_gaussian = float(happens(ranges.gaussian_noise_prob))
    gray = (torch.rand(batch, generator=generator) < ranges.gray_noise_prob).float()
    return OrderParameters(
        kernel=kernel,
        resize=torch.full((batch,), resize),
        noise_sigma=sigma * is_gaussian,
        poisson_scale=scale * (1.0 - is_gaussian),
        gray_noise=gray,
        jpeg_quality=uniform(ranges.jpeg_range),
    )


class SecondOrderDegradation:
    """Blur, resize, noise and JPEG, twice, with a sinc filter before or after the last JPEG.

    Args:
        scale: 2, 3 or 4.
        first, second: what the two degradations are drawn from.

    Raises:
        InputError: BasicSR, whose JPEG this uses, is not installed.
    """

    def __init__(self, *, scale: int, first: OrderRanges = FIRST_ORDER, second: OrderRanges = SECOND_ORDER) -> None:
        require_basicsr("the second-order degradation")
        from basicsr.utils import DiffJPEG

        self.scale = scale
        self.first = first
        self.second = second
        # A copy: BasicSR's quantisation tables belong to all instances, whichever device they are on.
        self._jpeg = copy.deepcopy(DiffJPEG(differentiable=False)).requires_grad_(False)

    @torch.no_grad()
    def __call__(
        self, images: Tensor, kernel1: Tensor, kernel2: Tensor, sinc_kernel: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, SecondOrderParameters]:
        """Degrade a batch.

        Args:
            images: (B, 3, H, W) in [0, 1]; H and W multiples of the scale, and at least 74: a 21x21 kernel must fit
                into the smallest image on the way.
            kernel1, kernel2, sinc_kernel: (B, 21, 21), as ``RealESRGANDataset`` draws them.
            generator: of all draws, on the CPU.

        Returns:
            lq (B, 3, H / scale, W / scale) in [0, 1], multiples of 1/255, and what was drawn.
        """
        batch, device = images.shape[0], images.device
        size = (images.shape[2] // self.scale, images.shape[3] // self.scale)
        noise_generator = torch.Generator(device).manual_seed(int(torch.randint(2**62, (), generator=generator)))
        draws = [draw_order(r, k, generator) for r, k in ((self.first, kernel1), (self.second, kernel2))]
        modes = [_RESIZE_MODES[int(torch.randint(3, (), generator=generator))] for _ in range(3)]
        jpeg_last = bool(torch.rand((), generator=generator) < 0.5)
        # All draws are made on the CPU, so that they are the same on every device.
        first, second = (OrderParameters(*(value.to(images) for value in draw)) for draw in draws)

        x = blur(images, first.kernel)
        x = F.interpolate(x, scale_factor=float(draws[0].resize[0]), mode=modes[0])
        x = self.compress(self._add_noise(x, first, noise_generator), first.jpeg_quality)

        factor = float(draws[1].resize[0])
        x = blur(x, second.kernel)
        x = F.interpolate(x, size=[int(side * factor) for side in size], mode=modes[1])
        x = self._add_noise(x, second, noise_generator)
        sinc_kernel = sinc_kernel.to(images)
        if jpeg_last:
            x = blur(F.interpolate(x, size=size, mode=modes[2]), sinc_kernel)
            x = self.compress(x, second.jpeg_quality)
        else:
            x = self.compress(x, second.jpeg_quality)
            x = blur(F.interpolate(x, size=size, mode=modes[2]), sinc_kernel)
        parameters = SecondOrderParameters(first, second, sinc_kernel, images.new_full((batch,), float(jpeg_last)))
        return to_8_bit(x * 255.0) / 255.0, parameters

    def compress(self, images: Tensor, quality: Tensor) -> Tensor:
        """Images (B, 3, h, w), clamped to [0, 1], through JPEG of ``quality`` (B,), 1-99."""
        return self._jpeg.to(images.device)(images.clamp(0, 1), quality=quality.clone())  # it writes into the quality

    @staticmethod
    def _add_noise(images: Tensor, parameters: OrderParameters, generator: torch.Generator) -> Tensor:
        # One kind for the whole batch: the other's levels are all zero.
        if bool(parameters.poisson_scale.any()):
            noise = poisson_noise(images.clamp(0, 1), parameters.poisson_scale, parameters.gray_noise, generator)
        else:
            noise = gaussian_noise(images, parameters.noise_sigma, parameters.gray_noise, generator)
        return (images + noise).clamp(0, 1)


def identity_kernels(batch: int, size: int = 21) -> Tensor:
    """Kernels that change nothing: (B, size, size), 1 in the centre."""
    kernels = torch.zeros(batch, size, size)
    kernels[:, size // 2, size // 2] = 1.0
    return kernels


class PairPool:
    """Mixes the images of successive batches, since one batch shares its resize factor and kind of noise.

    Until it is full it passes batches through and keeps them; then it hands out images at random and keeps the batch in
    their places.

    Args:
        size: images in the pool; 0 for none.
        batch: images of a batch.

    Raises:
        InputError: ``size`` is no multiple of ``batch``.
    """

    def __init__(self, *, size: int, batch: int) -> None:
        if size < 0 or size % batch:
            raise InputError(f"pool_size is {size}, but must be a multiple of batch_size_per_gpu, {batch}")
        self.size = size
        self._stored: list[Tensor] = []
        self._filled = 0

    def __call__(self, *tensors: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Swap tensors that belong together, (B, ...) each, against as many from the pool; pairs stay together."""
        batch = tensors[0].shape[0]
        if not self.size:
            return tensors
        if not self._stored:
            self._stored = [t.new_zeros(self.size, *t.shape[1:]) for t in tensors]
        if self._filled < self.size:
            for stored, t in zip(self._stored, tensors, strict=True):
                stored[self._filled : self._filled + batch] = t
            self._filled += batch
            return tensors
        chosen = torch.randperm(self.size, generator=generator)[:batch].to(tensors[0].device)
        swapped = tuple(stored[chosen] for stored in self._stored)
        for stored, t in zip(self._stored, tensors, strict=True):
            stored[chosen] = t
        return swapped

    def state(self) -> dict[str, Any]:
        """The pool's content on the CPU, for a training state; 8-bit images are stored as uint8."""
        return {"filled": self._filled, "stored": [_pack(t.cpu()) for t in self._stored]}

    def load_state(self, state: dict[str, Any], device: torch.device) -> None:
        """Hold again what ``state`` returned."""
        self._filled = state["filled"]
        self._stored = [(t.float() / 255.0 if t.dtype == torch.uint8 else t).to(device) for t in state["stored"]]


def _pack(images: Tensor) -> Tensor:
    """Multiples of 1/255 as uint8, if they come back bit by bit; anything else as it is."""
    levels = (images * 255.0).round()
    if levels.min() < 0 or levels.max() > 255 or not torch.equal(levels / 255.0, images):
        return images
    return levels.byte()
