"""Regions: a cut covers an image once, and patches of a sample lie where they should."""

import numpy as np
import pytest

from lightbsr.upscaling.regions import Region, cut, whole
from lightbsr.upscaling.shared import PATCH, PATCH_MARGIN, sample_patches


@pytest.mark.parametrize("size", [(1, 1), (1, 97), (40, 40), (41, 80), (83, 121)])
@pytest.mark.parametrize("side, multiple", [(1, 1), (16, 1), (40, 1), (16, 4), (18, 4), (500, 4)])
def test_a_cut_covers_every_pixel_once(size, side, multiple):
    covered = np.zeros(size, int)
    for region in cut(whole(size), side, multiple):
        assert 0 < region.height <= side and 0 < region.width <= side
        assert region.top % multiple == 0 and region.left % multiple == 0
        covered[region.inside(whole(size))] += 1
    assert (covered == 1).all()


def test_growing_stops_at_the_border_and_goes_out_to_multiples():
    region = Region(10, 20, 3, 9)
    assert region.grown(4, (22, 100)) == (6, 22, 0, 13)
    assert region.grown(4, (100, 100), 4) == (4, 24, 0, 13)
    assert region.inside(Region(6, 22, 0, 13), 2) == (slice(8, 28), slice(6, 18))


@pytest.mark.parametrize("size", [(200, 300), (500, 33), (33, 500), (1000, 1), (65, 64), (400, 400)])
@pytest.mark.parametrize("pixels", [1, 5000, 30_000, 59_999])
def test_a_sample_lies_inside_and_keeps_its_context(size, pixels):
    h, w = size
    if h * w <= pixels:
        assert sample_patches(size, pixels) == [(whole(size), whole(size))]
        return
    patches = sample_patches(size, pixels)
    shape = (min(PATCH, h), min(PATCH, w))
    assert len(patches) == 1 or len(patches) * shape[0] * shape[1] <= pixels
    taken = np.zeros(size, int)
    for patch, inner in patches:
        assert (patch.height, patch.width) == shape
        assert 0 <= patch.top and patch.bottom <= h and 0 <= patch.left and patch.right <= w
        # Context on every side, or the image's border.
        assert inner.top - patch.top >= PATCH_MARGIN or patch.top == 0
        assert patch.bottom - inner.bottom >= PATCH_MARGIN or patch.bottom == h
        assert inner.left - patch.left >= PATCH_MARGIN or patch.left == 0
        assert patch.right - inner.right >= PATCH_MARGIN or patch.right == w
        assert inner.area == min(PATCH - 2 * PATCH_MARGIN, h) * min(PATCH - 2 * PATCH_MARGIN, w)
        taken[inner.inside(whole(size))] += 1
    assert taken.max() == 1  # cells do not overlap


def test_a_sample_reaches_all_parts_of_the_image():
    patches = sample_patches((900, 1200), 64 * 64 * 12)
    cells = {(inner.top // 300, inner.left // 300) for _, inner in patches}
    assert len(patches) == 12 and cells == {(i, j) for i in range(3) for j in range(4)}
