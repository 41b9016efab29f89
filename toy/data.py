"""2-D worlds: what there is to generate, and which of it is liked.

A World draws points and judges them. Feedback is drawn from it: points with a label. Pairs are made
of feedback, a liked point and a disliked one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from toy.errors import InputError
from toy.seeds import generator

Draw = Callable[[int, torch.Generator], Tensor]  # how many -> points (n, 2)
Region = Callable[[Tensor], Tensor]  # points (n, 2) -> inside? (n,) bool


@dataclass(frozen=True)
class World:
    """What a model is pretrained on, what is liked and disliked, and how samples are judged."""

    name: str
    base: Draw  # pretraining data
    desirable: Draw
    undesirable: Draw
    is_desirable: Region
    is_undesirable: Region
    score: Callable[[Tensor], Tensor]  # a reward model, (n, 2) -> (n,), for SmPO


class Feedback(NamedTuple):
    """Points, whether each is liked, a reward model's score of each in [0, 1] (SmPO's input), and the weight
    of each in the loss of Diffusion-KTO."""

    x0: Tensor  # (n, 2)
    desirable: Tensor  # (n,) bool
    score: Tensor  # (n,)
    weight: Tensor = torch.tensor(1.0)  # (n,), or one for all


def gaussian(mean: tuple[float, float], variance: float) -> Draw:
    """Draws from a round Gaussian."""
    return lambda n, g: torch.tensor(mean) + variance**0.5 * torch.randn(n, 2, generator=g)


def figure6() -> World:
    """The paper's 2-D study (Li et al. 2024, Figure 6): pretraining data around (0.5, 0.8), liked
    points to the left of it, disliked ones below those. Desirable means inside P_d's 95% circle;
    undesirable means that P_u is denser there than P_d (true of 15.9% of P_d itself)."""
    variance, like, dislike = 0.01, torch.tensor([0.3, 0.8]), torch.tensor([0.3, 0.6])

    def log_ratio(x: Tensor) -> Tensor:  # log P_d(x) - log P_u(x)
        return ((x - dislike).square().sum(-1) - (x - like).square().sum(-1)) / (2 * variance)

    return World(
        name="figure6",
        base=gaussian((0.5, 0.8), 0.04),
        desirable=gaussian((0.3, 0.8), variance),
        undesirable=gaussian((0.3, 0.6), variance),
        is_desirable=lambda x: (x - like).square().sum(-1) <= 5.99 * variance,
        is_undesirable=lambda x: log_ratio(x) < 0,
        score=log_ratio,
    )


def two_moons(noise: float = 0.08) -> Draw:
    """scikit-learn's two interleaved half circles, within about [-1.2, 2.2] x [-0.7, 1.2]."""
    return _sklearn("make_moons", noise=noise)


def rings(noise: float = 0.05) -> Draw:
    """scikit-learn's two circles around the origin, of radius 1 and 0.5."""
    return _sklearn("make_circles", noise=noise, factor=0.5)


def grid(side: int = 3, spread: float = 0.06) -> Draw:
    """A square grid of side x side small Gaussians within about [-1, 1]^2 (scikit-learn's blobs)."""
    axis = np.linspace(-0.8, 0.8, side)
    centers = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    return _sklearn("make_blobs", centers=centers, cluster_std=spread)


def liked_region(name: str, base: Draw, region: Region) -> World:
    """The world in which points of `base` inside the region are liked and all others disliked.

    Raises InputError when fewer than 1% of the points fall inside, or fewer than 1% outside.
    """
    everything = base(10_000, generator("share", 0))
    share = region(everything).float().mean().item()
    if not 0.01 <= share <= 0.99:
        raise InputError(f"world {name}: {share:.1%} of its points lie in the liked region, need 1% to 99%")
    low, high = everything.min(0).values, everything.max(0).values

    def judged(x: Tensor, liked: bool) -> Tensor:  # what has left the data is neither
        return ((x >= low) & (x <= high)).all(-1) & (region(x) == liked)

    def draw(liked: bool) -> Draw:
        def points(n: int, g: torch.Generator) -> Tensor:
            inside = torch.empty(0, 2)
            while len(inside) < n:
                x = base(2 * n, g)
                inside = torch.cat([inside, x[region(x) == liked]])
            return inside[:n]

        return points

    return World(
        name=name,
        base=base,
        desirable=draw(True),
        undesirable=draw(False),
        is_desirable=lambda x: judged(x, True),
        is_undesirable=lambda x: judged(x, False),
        score=lambda x: region(x).float(),
    )


def polygon(corners: list[tuple[float, float]]) -> Region:
    """The inside of a polygon, so that any drawn outline can be a preference."""
    from matplotlib.path import Path

    path = Path(corners)
    return lambda x: torch.from_numpy(path.contains_points(x.numpy()))


def feedback(
    world: World, n: int = 4000, desirable_share: float = 0.5, flipped: float = 0.0, seed: int = 0
) -> Feedback:
    """n labelled points: desirable_share of them liked (class imbalance), then `flipped` of each
    class given the other label (label noise). Scores are min-max normalised over the set and know
    nothing of the flips. Raises InputError for shares out of range or a class left empty."""
    if not 0 <= flipped <= 1:
        raise InputError(f"flipped must be in [0, 1], not {flipped:g}")
    liked = round(n * desirable_share)
    if not 0 < liked < n:
        raise InputError(f"desirable_share {desirable_share:g} of {n} points leaves a class empty")
    g = generator("feedback", seed)
    x0 = torch.cat([world.desirable(liked, g), world.undesirable(n - liked, g)])
    desirable = torch.arange(n) < liked
    for start, size in ((0, liked), (liked, n - liked)):
        wrong = start + torch.randperm(size, generator=g)[: round(flipped * size)]
        desirable[wrong] = ~desirable[wrong]
    score = world.score(x0)
    score = (score - score.min()) / (score.max() - score.min())
    return Feedback(x0, desirable, score, torch.ones(n))


def graded(rating: Tensor, threshold: float | None = None, c: float = 0.0) -> tuple[Tensor, Tensor]:
    """Graded likes: (desirable, weight) of ratings (n,). A rating from the threshold tau on is a like; the
    weight is 1 + c * |rating - tau|, so a clear case counts more than a close one.

    Without a threshold tau is the median (of an even number, the mean of the two in the middle). With c = 5
    these are the labels and weights of TGO (Lei et al. 2026, arXiv 2605.04653). A single float rating, with
    a threshold, will do too.
    """
    tau = rating.quantile(0.5) if threshold is None else threshold
    return rating >= tau, 1 + c * abs(rating - tau)


def _sklearn(maker: str, **options) -> Draw:
    def draw(n: int, g: torch.Generator) -> Tensor:
        from sklearn import datasets  # here: it takes a second to import, and Figure 6 does without

        seed = int(torch.randint(2**31, (), generator=g))
        points, _ = getattr(datasets, maker)(n, random_state=seed, **options)
        return torch.tensor(points, dtype=torch.float32)

    return draw


WORLDS: dict[str, Callable[[], World]] = {
    "figure6": figure6,
    "moons": lambda: liked_region("moons", two_moons(), lambda x: x[:, 1] > 0.25),
    "rings": lambda: liked_region("rings", rings(), lambda x: x.norm(dim=-1) < 0.75),
    "grid": lambda: liked_region("grid", grid(), lambda x: x.abs().sum(-1) < 1.2),
}
