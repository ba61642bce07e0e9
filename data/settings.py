"""The degradation settings of the papers: which kernels and noise levels a network is trained for.

Source: LightBSR (ICCV 2025), Sec. 4.1 (Setting 1 = ``iso``, Setting 2 = ``aniso_noise``).
"""

import math
from dataclasses import dataclass

from lightbsr_compat import InputError, did_you_mean

KERNEL_SIZE = 21
NUM_KERNEL_COMPONENTS = 15
# The raw noise level stands this often behind the kernel's components, so that a 3x3 convolution cannot overlook it.
NUM_NOISE_CHANNELS = 3


@dataclass(frozen=True)
class DegradationSetting:
    """Ranges that the degradation of one image is drawn from, each uniformly.

    Attributes:
        name: as in option files and checkpoints.
        isotropic: whether both kernel widths are one draw.
        sigma: (low, high) of the kernel widths (standard deviations), in HR pixels.
        theta: (low, high) of the kernel's angle, in radians; unused where isotropic.
        noise_sigma: (low, high) of the noise's standard deviation on the 0-255 scale.
    """

    name: str
    isotropic: bool
    sigma: tuple[float, float] = (0.2, 4.0)
    theta: tuple[float, float] = (0.0, math.pi)
    noise_sigma: tuple[float, float] = (0.0, 0.0)

    @property
    def has_noise(self) -> bool:
        """Whether any noise can be drawn."""
        return self.noise_sigma[1] > 0

    @property
    def num_prior_channels(self) -> int:
        """Length P of the degradation prior: 15 kernel components, and the noise level three times if any."""
        return NUM_KERNEL_COMPONENTS + (NUM_NOISE_CHANNELS if self.has_noise else 0)


SETTINGS = {
    setting.name: setting
    for setting in (
        DegradationSetting("iso", isotropic=True),
        DegradationSetting("aniso_noise", isotropic=False, noise_sigma=(0.0, 25.0)),
    )
}


def get_setting(name: str) -> DegradationSetting:
    """The setting of that name.

    Raises:
        InputError: there is none; names the nearest.
    """
    if name not in SETTINGS:
        raise InputError(f"degradation is {name!r}, but must be the name of a setting{did_you_mean(name, SETTINGS)}")
    return SETTINGS[name]
