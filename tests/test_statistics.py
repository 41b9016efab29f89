"""Means and win rates: their 95% intervals hold the truth 95 times in 100."""

import math

import numpy as np
import pytest
import torch

from toy import statistics
from toy.statistics import Z, interval, outcomes, win_rate


def test_the_interval_covers_the_mean_95_times_in_100():
    g = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        mean, half = interval(g.normal(1.0, 2.0, size=5).tolist())
        inside += abs(mean - 1.0) <= half
    assert inside / 2000 == pytest.approx(0.95, abs=0.015)


def test_one_seed_has_no_interval():
    mean, half = interval([0.5])
    assert mean == 0.5 and math.isnan(half)


def test_the_median_image_of_each_prompt_decides():
    first = torch.tensor([[0, 0, 3, 9, 9], [0, 0, 1, 9, 9], [2, 2, 2, 2, 2]])
    other = torch.tensor([[2, 2, 2, 2, 2], [2, 2, 2, 2, 2], [0, 0, 2, 9, 9]])
    assert outcomes(first, other).tolist() == [1, 0, 0.5]
    even = outcomes(torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0, 2.0]]))  # medians 2 and 2
    assert even.tolist() == [0.5]


@pytest.mark.parametrize(
    ("wins", "ties", "losses"), [(0.55, 0.0, 0.45), (0.5, 0.3, 0.2), (0.85, 0.0, 0.15), (0.06, 0.04, 0.9)]
)
def test_both_intervals_of_a_win_rate_cover_it_about_95_times_in_100(wins, ties, losses, monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 500)
    g, runs, n = np.random.default_rng(0), 1500, 150
    truth, inside = wins + ties / 2, np.zeros(2)
    for _ in range(runs):
        found = win_rate(torch.from_numpy(g.choice([1.0, 0.5, 0.0], n, p=[wins, ties, losses])))
        inside[0] += found["low"] <= truth <= found["high"]
        inside[1] += found["bootstrap_low"] <= truth <= found["bootstrap_high"]
    # 1500 simulations have a standard error of 0.006; the bootstrap is a little short where one side is rare
    assert 0.935 <= inside[0] / runs <= 0.97
    assert 0.92 <= inside[1] / runs <= 0.965


def test_without_ties_the_normal_interval_is_wilsons():
    found = win_rate(torch.tensor([1.0] * 43 + [0.0] * 7))
    p, n = 0.86, 50
    middle, half = p + Z**2 / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    assert found["low"] == pytest.approx((middle - half) / (1 + Z**2 / n))
    assert found["high"] == pytest.approx((middle + half) / (1 + Z**2 / n))


def test_ties_count_half_are_reported_and_carry_no_doubt_of_their_own():
    found = win_rate(torch.full((40,), 0.5))
    assert found["win_rate"] == 0.5 and found["ties"] == 1
    assert found["low"] == pytest.approx(0.5) and found["high"] == pytest.approx(0.5)


def test_a_clean_sweep_is_not_certain():
    found = win_rate(torch.ones(20))
    assert found["high"] == pytest.approx(1) and 0.8 < found["low"] < 0.9
    assert found["bootstrap_low"] == 1  # which resampling cannot know


def test_the_bootstrap_draws_whole_prompts_and_the_same_ones_again():
    w = torch.from_numpy(np.random.default_rng(1).choice([1.0, 0.5, 0.0], 200))
    found, deviation = win_rate(w), w.std(correction=0).item() / math.sqrt(200)
    assert found["bootstrap_high"] - found["bootstrap_low"] == pytest.approx(2 * Z * deviation, rel=0.06)
    assert found == win_rate(w)
