"""How well samples match what is liked: the metrics of the 2-D study, all on plain point sets."""

import math

import torch
from torch import Tensor

from toy.data import World
from toy.seeds import generator

SAMPLES = 3500  # as in the paper's Figure 6


def sliced_wasserstein(x: Tensor, y: Tensor, directions: int = 64) -> float:
    """Sliced Wasserstein-2 distance between two sets of n points, (n, 2) each, in data units.

    sqrt(mean over directions of the mean squared difference of the sorted projections), with
    evenly spaced directions in the half circle, so that it has no randomness of its own.
    """
    angle = torch.arange(directions) * (torch.pi / directions)
    axes = torch.stack([angle.cos(), angle.sin()], 1).to(x)
    gap = (axes @ x.T).sort().values - (axes @ y.T).sort().values
    return gap.square().mean().sqrt().item()


def noise_floor(world: World, seed: int = 0) -> float:
    """The distance between two fresh sets of desirable points: nothing can measure below it."""
    g = generator("noise floor", seed)
    return sliced_wasserstein(world.desirable(SAMPLES, g), world.desirable(SAMPLES, g))


def judge(samples: Tensor, world: World, seed: int = 0) -> dict[str, float]:
    """desirable_rate, undesirable_rate and distance to P_d of samples (n, 2).

    A sample that is not finite counts as neither, and makes the distance infinite.
    """
    target = world.desirable(len(samples), generator("judge", seed))
    finite = bool(samples.isfinite().all())
    return {
        "desirable_rate": world.is_desirable(samples).float().mean().item(),
        "undesirable_rate": world.is_undesirable(samples).float().mean().item(),
        "distance": sliced_wasserstein(samples, target) if finite else math.inf,
    }


def compare(judged: dict[str, float], pretrained: dict[str, float]) -> dict[str, float]:
    """The same with alignment = 1 - distance / the pretrained model's, avoidance = 1 -
    undesirable_rate / the pretrained model's, and balance, their harmonic mean (0 where either is
    not positive). Where the classes overlap a perfect copy of P_d stays below 1, for its share of them."""
    alignment = 1 - judged["distance"] / pretrained["distance"]
    avoidance = 1 - judged["undesirable_rate"] / pretrained["undesirable_rate"]
    positive = alignment > 0 and avoidance > 0
    balance = 2 * alignment * avoidance / (alignment + avoidance) if positive else 0.0
    return {**judged, "alignment": alignment, "avoidance": avoidance, "balance": balance}
