"""Scores that are no finite number: NaN, and left out of means."""

import math

import numpy as np
import pytest
from basicsr.metrics import calculate_niqe, calculate_psnr, calculate_ssim

from lightbsr_data.scores import finite_mean, finite_score

NOISE = np.random.RandomState(0).randint(0, 256, (240, 250, 3), np.uint8)
ON_Y = {"crop_border": 4, "test_y_channel": True}


def test_finite_scores_are_the_metrics():
    other = NOISE[::-1].copy()
    assert finite_score(calculate_psnr, NOISE, other, **ON_Y) == calculate_psnr(NOISE, other, **ON_Y)
    assert finite_score(calculate_ssim, NOISE, other, **ON_Y) == calculate_ssim(NOISE, other, **ON_Y)
    assert finite_score(calculate_niqe, NOISE, crop_border=4) > 0


@pytest.mark.parametrize(
    ("metric", "images", "options"),
    [
        (calculate_psnr, [NOISE, NOISE], ON_Y),  # infinite
        (calculate_psnr, [NOISE[:8, :8], NOISE[8:16, :8]], ON_Y),  # the border leaves nothing
        (calculate_ssim, [NOISE[:18, :18], NOISE[20:38, :18]], ON_Y),  # 10 pixels a side, the window has 11
        (calculate_niqe, [NOISE[:180, :180]], {"crop_border": 4}),  # one block of 96x96
        (calculate_niqe, [NOISE[:40, :60]], {"crop_border": 4}),  # none
        (calculate_niqe, [np.full_like(NOISE, 255)], {"crop_border": 4}),  # flat
    ],
)
def test_no_finite_score(metric, images, options):
    assert math.isnan(finite_score(metric, *images, **options))


def test_means_leave_out_what_is_not_finite():
    assert finite_mean([1.0, math.nan, 3.0, math.inf]) == (2.0, 2)
    mean, count = finite_mean([math.nan])
    assert math.isnan(mean) and count == 0
