"""The degradation settings: which blur, noise and compression a network is trained for.

Source: LightBSR (ICCV 2025), Sec. 4.1 (Setting 1 = ``iso``, Setting 2 = ``aniso_noise``). ``photo`` is ours:
pictures as cameras and web sites leave them.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from lightbsr_compat import InputError, did_you_mean

KERNEL_SIZE = 21
NUM_KERNEL_COMPONENTS = 15
# The raw noise level stands this often behind the kernel's components, so that a 3x3 convolution cannot overlook it.
NUM_NOISE_CHANNELS = 3
DOWNSAMPLERS = ("bicubic", "area", "bilinear")  # bicubic first: the papers'
NO_JPEG = 100.0  # the quality that stands for an image that was not compressed
# Of a photograph's prior: noise level if Gaussian, if Poisson, if grey; JPEG; one channel for each way to down-sample.
_NUM_PHOTO_CHANNELS = 4 + len(DOWNSAMPLERS)


@dataclass(frozen=True)
class DegradationSetting:
    """Ranges that the degradation of one image is drawn from, each uniformly, in the order in which they are applied.

    Attributes:
        name: as in option files and checkpoints.
        isotropic: whether both kernel widths are one draw; a number in [0, 1] is the probability of that.
        sigma: (low, high) of the kernel widths (standard deviations), in HR pixels.
        theta: (low, high) of the kernel's angle, in radians; unused where isotropic.
        downsample: ways to down-sample, ``bicubic``, ``area`` and ``bilinear`` (antialiased), one of them drawn.
        noise_sigma: (low, high) of the noise's standard deviation on the 0-255 scale.
        gray_noise_prob: probability that all channels have the same noise.
        poisson_noise_prob: probability of Poisson instead of Gaussian noise; ``noise_sigma`` is then that of mid-grey.
        grain_prob: probability that the noise is smoothed by a Gaussian, its standard deviation kept, as demosaicking,
            denoising and scaling leave grain: its pixels are correlated.
        grain_width: (low, high) of that Gaussian's standard deviation, in LR pixels.
        jpeg: (low, high) of the JPEG quality, 1 to 100, with 4:2:0 chroma subsampling; None: no JPEG.
        clean_prob: probability of down-sampling alone, by ``bicubic`` or ``area``.
        mild_prob: probability that all ranges are cut to the third that is next to clean.
        skip_prob: probability, each by itself, that blur, noise and JPEG of an image that is not clean are left out.

    Raises:
        InputError: a value outside its range.
    """

    name: str
    isotropic: bool | float
    sigma: tuple[float, float] = (0.2, 4.0)
    theta: tuple[float, float] = (0.0, math.pi)
    downsample: tuple[str, ...] = ("bicubic",)
    noise_sigma: tuple[float, float] = (0.0, 0.0)
    gray_noise_prob: float = 0.0
    poisson_noise_prob: float = 0.0
    grain_prob: float = 0.0
    grain_width: tuple[float, float] = (0.4, 1.0)
    jpeg: tuple[float, float] | None = None
    clean_prob: float = 0.0
    mild_prob: float = 0.0
    skip_prob: float = 0.0

    def __post_init__(self) -> None:
        bounds = dict(
            sigma=(0.01, 10.0),
            theta=(-math.pi, math.pi),
            noise_sigma=(0.0, 255.0),
            grain_width=(0.01, 10.0),
            jpeg=(1.0, 100.0),
        )
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if name == "jpeg" and value is None:
                continue
            if not (_are_numbers(value) and len(value) == 2 and low <= value[0] <= value[1] <= high):
                raise InputError(f"degradation {name} is {value!r}, but must be [low, high] within [{low:g}, {high:g}]")
            object.__setattr__(self, name, tuple(map(float, value)))
        for field in fields(self):
            value = getattr(self, field.name)
            if (field.name.endswith("_prob") or field.name == "isotropic") and not (
                isinstance(value, (bool, int, float)) and 0 <= value <= 1
            ):
                raise InputError(f"degradation {field.name} is {value!r}, but must be within [0, 1]")
        ways = self.downsample
        if not isinstance(ways, (list, tuple)) or not ways or not set(ways) <= set(DOWNSAMPLERS):
            raise InputError(f"degradation downsample is {ways!r}, but must be a list of {', '.join(DOWNSAMPLERS)}")
        object.__setattr__(self, "downsample", tuple(ways))
        if self.clean_prob + self.mild_prob > 1:
            raise InputError("degradation clean_prob and mild_prob are more than 1 together")

    @property
    def has_noise(self) -> bool:
        """Whether any noise can be drawn."""
        return self.noise_sigma[1] > 0

    @property
    def is_classic(self) -> bool:
        """Whether this is blur, bicubic down-sampling and Gaussian noise alone (Eq. 9)."""
        noise_probs = (self.gray_noise_prob, self.poisson_noise_prob, self.grain_prob)
        others = (*noise_probs, self.clean_prob, self.mild_prob, self.skip_prob)
        return (
            isinstance(self.isotropic, bool) and self.downsample == ("bicubic",) and not self.jpeg and not any(others)
        )

    @property
    def num_prior_channels(self) -> int:
        """Length P of the degradation prior (``degradation_prior`` lists its channels)."""
        if not self.is_classic:
            return NUM_KERNEL_COMPONENTS + _NUM_PHOTO_CHANNELS
        return NUM_KERNEL_COMPONENTS + (NUM_NOISE_CHANNELS if self.has_noise else 0)


def _are_numbers(values: Any) -> bool:
    return isinstance(values, (list, tuple)) and all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in values
    )


SETTINGS = {
    setting.name: setting
    for setting in (
        DegradationSetting("iso", isotropic=True),
        DegradationSetting("aniso_noise", isotropic=False, noise_sigma=(0.0, 25.0)),
        DegradationSetting(
            "photo",
            isotropic=0.5,
            sigma=(0.2, 3.0),
            downsample=("bicubic", "area", "bilinear"),
            noise_sigma=(0.0, 20.0),
            gray_noise_prob=0.4,
            poisson_noise_prob=0.3,
            grain_prob=0.4,
            jpeg=(30.0, 97.0),
            clean_prob=0.25,
            mild_prob=0.5,
            skip_prob=0.25,
        ),
    )
}


def get_setting(setting: str | Mapping[str, Any]) -> DegradationSetting:
    """The setting of that name, or the one that a mapping of an option file describes.

    Args:
        setting: a name; or ``{isotropic: true, sigma: [0.5, 2.0], noise_sigma: [0, 10], jpeg: [40, 95]}`` with the
            attributes of ``DegradationSetting``; or that as JSON, which is such a setting's name in checkpoints.

    Raises:
        InputError: no such setting or attribute (names the nearest), or a value outside its range.
    """
    if isinstance(setting, str) and setting.startswith("{"):
        try:
            setting = json.loads(setting)
        except ValueError:
            raise InputError(f"degradation is {setting!r}, but must be the name of a setting or a mapping") from None
    if isinstance(setting, Mapping):
        known = {field.name for field in fields(DegradationSetting)} - {"name"}
        for name in setting:
            if name not in known:
                raise InputError(f"degradation has an unknown entry {name!r}{did_you_mean(str(name), known)}")
        if "isotropic" not in setting:
            raise InputError("degradation isotropic is missing: true or false")
        return DegradationSetting(name=json.dumps(dict(setting), sort_keys=True), **setting)
    if setting not in SETTINGS:
        raise InputError(
            f"degradation is {setting!r}, but must be the name of a setting{did_you_mean(setting, SETTINGS)}"
        )
    return SETTINGS[setting]
