"""The degradation of photographs: blur, down-sampling by one of several ways, noise, JPEG; on the CPU, in data sets.

JPEG is libjpeg's (through OpenCV), with 4:2:0 chroma subsampling as cameras write it. An encoder works image by image
on the CPU, so the whole degradation is done there, by the workers of the data loader.
"""

import functools
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from .degradations import downsample, to_8_bit
from .kernels import gaussian_kernels
from .settings import DOWNSAMPLERS, NO_JPEG, DegradationSetting

_CHROMA_420 = 0x221111  # of cv2.IMWRITE_JPEG_SAMPLING_FACTOR
_MILD_SHARE = 1 / 3
NO_BLUR = 0.01  # the kernel width where nothing is blurred: the kernel is a single 1
_GRID = 8  # side of JPEG's blocks


def _gaussian_kernel(*values: float) -> Tensor:
    """The kernel of widths sigma_x and sigma_y and an angle: (1, 21, 21)."""
    return gaussian_kernels(*(torch.tensor([value], dtype=torch.float64) for value in values)).float()


class PhotoParameters(NamedTuple):
    """The degradation of one photograph.

    Attributes:
        sigma_x, sigma_y: kernel widths in HR pixels; 0.01 where nothing is blurred.
        theta: the kernel's angle in radians.
        how: the way to down-sample, of ``DOWNSAMPLERS``.
        noise_sigma: standard deviation on the 0-255 scale; of Poisson noise, that of mid-grey.
        poisson, gray: whether the noise is Poisson noise, and the same in all channels.
        quality: of JPEG, 1 to 100; None where the image is not compressed.
        grain_width: standard deviation of the Gaussian that smooths the noise, in LR pixels; 0 for white noise.
    """

    sigma_x: float
    sigma_y: float
    theta: float
    how: str
    noise_sigma: float
    poisson: bool
    gray: bool
    quality: int | None
    grain_width: float = 0.0

    def kernel(self) -> Tensor:
        """The blur kernel: (1, 21, 21)."""
        return _gaussian_kernel(self.sigma_x, self.sigma_y, self.theta)

    def scalars(self) -> Tensor:
        """Input of ``degradation_prior`` besides kernel and noise level: (4,) poisson, gray, how, quality."""
        quality = NO_JPEG if self.quality is None else self.quality
        return torch.tensor([self.poisson, self.gray, DOWNSAMPLERS.index(self.how), quality], dtype=torch.float)


def sample_photo(setting: DegradationSetting, generator: torch.Generator) -> PhotoParameters:
    """Draw the degradation of one image from a setting, on the CPU."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    kind = uniform(0, 1)
    clean = kind < setting.clean_prob
    share = _MILD_SHARE if kind < setting.clean_prob + setting.mild_prob else 1.0

    def left_out() -> bool:
        return uniform(0, 1) < setting.skip_prob or clean

    low, high = setting.sigma[0], setting.sigma[0] + share * (setting.sigma[1] - setting.sigma[0])
    sigma_x, sigma_y, theta = uniform(low, high), uniform(low, high), uniform(*setting.theta)
    if uniform(0, 1) < float(setting.isotropic):
        sigma_y, theta = sigma_x, 0.0
    if left_out():
        sigma_x, sigma_y, theta = NO_BLUR, NO_BLUR, 0.0
    ways = [way for way in setting.downsample if not (clean and way == "bilinear")] or list(setting.downsample)
    how = ways[int(uniform(0, len(ways)))]
    low, high = setting.noise_sigma
    noise_sigma = uniform(low, low + share * (high - low))
    poisson, gray = uniform(0, 1) < setting.poisson_noise_prob, uniform(0, 1) < setting.gray_noise_prob
    grain_width = uniform(*setting.grain_width) if uniform(0, 1) < setting.grain_prob else 0.0
    if left_out():
        noise_sigma, poisson, gray, grain_width = 0.0, False, False, 0.0
    quality = None
    if setting.jpeg is not None:
        low, high = setting.jpeg
        quality = round(uniform(high - share * (high - low), high))
        if left_out():
            quality = None
    return PhotoParameters(sigma_x, sigma_y, theta, how, noise_sigma, poisson, gray, quality, grain_width)


def photo_noise(images: Tensor, parameters: PhotoParameters, generator: torch.Generator) -> Tensor:
    """Noise for images (B, 3, h, w) on the 0-255 scale, as large as they are.

    At brightness x Poisson noise has the variance ``noise_sigma ** 2 * x / 127.5``, ``noise_sigma ** 2`` at mid-grey.
    Grain is that noise after a Gaussian filter whose squared coefficients sum to 1, so that its variance stays.
    """
    size = (images.shape[0], 1 if parameters.gray else images.shape[1], *images.shape[2:])
    if parameters.poisson:
        mean = (images.mean(1, keepdim=True) if parameters.gray else images).clamp(0, 255)
        gain = parameters.noise_sigma**2 / 127.5  # grey levels of one photon
        noise = gain * torch.poisson(mean / gain, generator=generator) - mean
    else:
        noise = parameters.noise_sigma * torch.randn(size, generator=generator)
    if parameters.grain_width:
        kernel = _gaussian_kernel(parameters.grain_width, parameters.grain_width, 0.0)[0]
        noise = _blur(noise, kernel / kernel.square().sum().sqrt())
    return noise


def jpeg(images: Tensor, quality: int, *, offset: tuple[int, int] = (0, 0)) -> Tensor:
    """Encode and decode images as JPEG with 4:2:0 chroma subsampling.

    Args:
        images: (B, 3, h, w), whole numbers on the 0-255 scale, RGB.
        quality: 1 to 100.
        offset: rows and columns, 0 to 7, by which JPEG's blocks begin before the images, which are mirrored there.

    Returns:
        (B, 3, h, w), whole numbers on the 0-255 scale.
    """
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, _CHROMA_420]
    top, left = offset
    decoded = []
    for image in images.byte().permute(0, 2, 3, 1).numpy()[..., ::-1]:
        padded = cv2.copyMakeBorder(image, top, 0, left, 0, cv2.BORDER_REFLECT)
        data: np.ndarray = cv2.imencode(".jpg", padded, options)[1]
        image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
        decoded.append(image[top:, left:, ::-1])
    return torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).to(images)


def _blur(images: Tensor, kernel: Tensor) -> Tensor:
    """``degradations.blur`` of (B, C, H, W) with one kernel (21, 21), many times as fast on the CPU."""
    row, column = kernel.sum(0), kernel.sum(1) / kernel.sum()
    if torch.allclose(torch.outer(column, row), kernel, rtol=0, atol=1e-6 * float(kernel.max())):
        blur = functools.partial(cv2.sepFilter2D, kernelX=row.numpy(), kernelY=column.numpy())
    else:
        blur = functools.partial(cv2.filter2D, kernel=kernel.numpy())
    pixels = [image.permute(1, 2, 0).numpy() for image in images]
    blurred = [blur(image, ddepth=-1, borderType=cv2.BORDER_REFLECT_101) for image in pixels]
    # OpenCV drops a single channel's axis.
    return torch.from_numpy(np.stack(blurred)).reshape(images.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)


def degrade_photo(images: Tensor, parameters: PhotoParameters, *, scale: int, generator: torch.Generator) -> Tensor:
    """Degrade views of one photograph; noise and the place of JPEG's blocks are drawn for each call.

    Args:
        images: (D, 3, H, W) in [0, 1], H and W multiples of ``scale``, on the CPU.
        parameters: of all views.
        scale: 2, 3 or 4.
        generator: of the noise, and of the place of JPEG's blocks.

    Returns:
        (D, 3, H / scale, W / scale) uint8.
    """
    x = images * 255.0
    if parameters.sigma_x > NO_BLUR:
        x = _blur(x, parameters.kernel()[0])
    x = downsample(x, scale, parameters.how)
    if parameters.noise_sigma:
        x = x + photo_noise(x, parameters, generator)
    x = to_8_bit(x)
    if parameters.quality is not None:
        top, left = torch.randint(_GRID, (2,), generator=generator).tolist()
        x = jpeg(x, parameters.quality, offset=(top, left))
    return x.byte()
