"""The metrics of the 2-D study, against what is known of Gaussians."""

import math

import numpy as np
import pytest
import torch

from toy import metrics
from toy.data import figure6, generator

WORLD = figure6()


def test_a_shift_moves_the_sliced_distance_by_its_share_per_direction():
    x = torch.randn(2000, 2, generator=generator("test", 0))
    shifted = x + torch.tensor([3.0, 4.0])
    assert metrics.sliced_wasserstein(x, shifted) == pytest.approx(5 / math.sqrt(2), rel=1e-4)
    assert metrics.sliced_wasserstein(x, x) == 0


def test_the_distance_is_numpy_written_out():
    x, y = np.random.default_rng(0).normal(size=(2, 300, 2))
    total = 0.0
    for k in range(64):
        axis = np.array([math.cos(k * math.pi / 64), math.sin(k * math.pi / 64)])
        total += np.mean((np.sort(x @ axis) - np.sort(y @ axis)) ** 2) / 64
    mine = metrics.sliced_wasserstein(torch.from_numpy(x), torch.from_numpy(y))
    assert mine == pytest.approx(math.sqrt(total), rel=1e-6)


def test_two_sets_of_the_same_distribution_are_at_the_noise_floor():
    floor = metrics.noise_floor(WORLD)
    judged = metrics.judge(WORLD.desirable(3500, generator("test", 1)), WORLD)
    assert 0.001 < floor < 0.008 and judged["distance"] < 0.008
    assert judged["undesirable_rate"] == pytest.approx(0.159, abs=0.02)
    assert judged["desirable_rate"] == pytest.approx(0.95, abs=0.02)


def test_balance_is_the_harmonic_mean_and_zero_where_nothing_was_gained():
    before = {"desirable_rate": 0.4, "undesirable_rate": 0.3, "distance": 0.2}
    after = metrics.compare({"desirable_rate": 0.9, "undesirable_rate": 0.15, "distance": 0.05}, before)
    assert after["alignment"] == pytest.approx(0.75) and after["avoidance"] == pytest.approx(0.5)
    assert after["balance"] == pytest.approx(0.6)
    assert metrics.compare(before, before)["balance"] == 0
    far = {"desirable_rate": 0.0, "undesirable_rate": 0.0, "distance": math.inf}
    assert metrics.compare(far, before)["balance"] == 0


def test_samples_that_are_not_finite_are_infinitely_far():
    judged = metrics.judge(torch.full((10, 2), math.nan), WORLD)
    assert judged == {"desirable_rate": 0.0, "undesirable_rate": 0.0, "distance": math.inf}
