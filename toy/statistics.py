"""Means and win rates with their 95% intervals: the same for points and for images."""

import math

import torch
from torch import Tensor

from toy.seeds import generator

Z = 1.959964  # 95% of a normal distribution lie within so many standard deviations
RESAMPLES = 2000


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half width of its 95% interval over independent values, as of seeds or of prompts
    (Student's t); half width nan for one value."""
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return mean, math.nan
    from scipy.special import stdtrit  # Student's t quantile; scipy comes with scikit-learn

    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    return mean, float(stdtrit(n - 1, 0.975)) * deviation / math.sqrt(n)


def outcomes(first: Tensor, other: Tensor) -> Tensor:
    """Who wins each prompt by the median of its images: 1 the first, 0 the other, 0.5 a tie. (n, k) scores
    of k images of the same n prompts -> (n,) float64 (Li et al. 2024, section 5)."""
    gap = first.double().quantile(0.5, dim=1) - other.double().quantile(0.5, dim=1)
    return (gap.sign() + 1) / 2


def win_rate(outcomes: Tensor) -> dict[str, float]:
    """The mean of outcomes (n,) in [0, 1], the share of ties, and two 95% intervals over them.

    low, high: the normal one, as the p with (rate - p)^2 <= Z^2 (p (1 - p) - u) / n, where u, the mean of
    w (1 - w), is what ties take from the variance. It is Wilson's (1927) where there are none, and unlike
    rate +- Z s / sqrt(n) does not shrink to nothing at a rate of 0 or 1.
    bootstrap_low, bootstrap_high: quantiles of the rate over RESAMPLES draws with replacement.
    """
    w, n = outcomes.double(), len(outcomes)
    rate, u, a = w.mean().item(), (w * (1 - w)).mean().item(), Z**2 / n
    half_width = math.sqrt(max(0.0, a * (rate * (1 - rate) - u) + a**2 * (0.25 - u)))
    drawn = w[torch.randint(n, (RESAMPLES, n), generator=generator("bootstrap", 0))].mean(1)
    low, high = drawn.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return {
        "win_rate": rate,
        "low": (rate + a / 2 - half_width) / (1 + a),
        "high": (rate + a / 2 + half_width) / (1 + a),
        "bootstrap_low": low,
        "bootstrap_high": high,
        "ties": (w == 0.5).double().mean().item(),
    }
