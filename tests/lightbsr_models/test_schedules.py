"""The learning rate of a run in two stages, at its corners and as torch's LambdaLR steps it."""

import itertools
import math

import pytest
import torch

from lightbsr_models.schedules import two_stage_cosine

# The paper's run: 100 + 600 epochs of 970 iterations, 5 of them warm-up, 2e-4 to 1e-6.
PAPER = dict(pretrain_iter=97_000, warmup_iter=4_850, total_iter=679_000, min_factor=1e-6 / 2e-4)


def at(iteration: int, **options) -> float:
    """The factor of an iteration, counted from 1."""
    return two_stage_cosine(**{**PAPER, **options})(iteration - 1)


def test_stage_1_is_constant():
    assert {at(i) for i in (1, 2, 5_000, 96_999, 97_000)} == {1.0}


def test_warm_up_is_linear_from_nothing():
    assert at(97_001) == pytest.approx(1 / 4_850)
    assert at(97_000 + 2_425) == pytest.approx(0.5)
    assert at(97_000 + 4_850) == 1.0


def test_cosine_goes_down_to_the_minimum():
    half_way = (97_000 + 4_850 + 679_000) // 2
    assert at(half_way) == pytest.approx((1 + 0.005) / 2, abs=1e-5)
    quarter = 97_000 + 4_850 + (679_000 - 101_850) // 4
    assert at(quarter) == pytest.approx(0.005 + 0.995 * (1 + math.sqrt(0.5)) / 2, abs=1e-5)
    assert at(679_000) == pytest.approx(0.005)


def test_each_part_is_monotone():
    factors = [at(i, pretrain_iter=20, warmup_iter=10, total_iter=100) for i in range(1, 101)]
    assert factors[:20] == [1.0] * 20
    rising, falling = factors[20:30], factors[29:]
    assert all(a < b for a, b in itertools.pairwise(rising))
    assert all(a > b for a, b in itertools.pairwise(falling))
    assert min(factors) > 0


def test_past_the_end_it_stays_at_the_minimum():
    assert at(700_000) == pytest.approx(0.005)


def test_without_stage_1_and_without_warm_up():
    assert at(1, pretrain_iter=0, warmup_iter=0, total_iter=1_000_000) == pytest.approx(1, abs=1e-6)
    assert at(10, pretrain_iter=10, warmup_iter=0, total_iter=10) == 1.0
    assert at(11, pretrain_iter=10, warmup_iter=0, total_iter=10) == pytest.approx(0.005)


def test_the_optimizer_gets_it_iteration_by_iteration():
    """BasicSR steps its schedulers before every iteration but the first."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2e-4)
    options = dict(pretrain_iter=2, warmup_iter=2, total_iter=6, min_factor=0.005)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, two_stage_cosine(**options))
    rates = []
    for iteration in range(1, 7):
        if iteration > 1:
            optimizer.step()
            scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([2e-4, 2e-4, 1e-4, 2e-4, 1.005e-4, 1e-6])


def test_a_resumed_run_follows_the_option_file_of_the_day():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    short = two_stage_cosine(**{**PAPER, "total_iter": 200_000})
    state = torch.optim.lr_scheduler.LambdaLR(optimizer, short).state_dict()
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, two_stage_cosine(**PAPER))
    scheduler.load_state_dict(state)
    (factor,) = scheduler.lr_lambdas
    assert factor(200_000 - 1) == at(200_000) != at(200_000, total_iter=200_000)
