"""The named degradation settings, and what follows from them."""

import math

import pytest

from lightbsr_compat import InputError
from lightbsr_data import SETTINGS, DegradationSetting, get_setting


def test_the_papers_settings():
    iso, aniso = get_setting("iso"), get_setting("aniso_noise")
    assert (iso.isotropic, iso.sigma, iso.has_noise, iso.num_prior_channels) == (True, (0.2, 4.0), False, 15)
    assert (aniso.isotropic, aniso.sigma, aniso.theta) == (False, (0.2, 4.0), (0.0, math.pi))
    assert (aniso.noise_sigma, aniso.has_noise, aniso.num_prior_channels) == ((0.0, 25.0), True, 18)
    assert all(name == setting.name for name, setting in SETTINGS.items())


def test_prior_channels_follow_from_the_noise():
    assert DegradationSetting("x", isotropic=True, noise_sigma=(0.0, 1.0)).num_prior_channels == 18
    assert DegradationSetting("x", isotropic=False).num_prior_channels == 15


def test_an_unknown_setting_names_the_nearest():
    with pytest.raises(InputError, match=r"'aniso_noises'.*did you mean 'aniso_noise'"):
        get_setting("aniso_noises")
    with pytest.raises(InputError, match="known: aniso_noise, iso, photo"):
        get_setting("zzz")
