"""The examples that the runs of an ensemble train on, and how well a denoiser does on them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from toy.data import Feedback
from toy.diffusion import add_noise, target
from toy.model import Denoiser
from toy.objectives import Run
from toy.seeds import generator

ROWS = 4096  # examples drawn at once: many for speed, few enough for the processor's cache


class Stream(NamedTuple):
    """What a run's examples depend on. Runs of one stream train on the same numbers."""

    seed: int
    pairs: bool
    gamma: float  # probability that an example is desirable; of a pair, one of two is


def stream_of(run: Run) -> Stream:
    return Stream(run.seed, run.needs.pairs, 0.5 if run.needs.pairs else run.gamma)


@dataclass
class Batch:
    """One step's examples for every run: (runs, B), or (runs, B, 2) for points and noise.

    Runs on pairs have winners in the first half of B and, in the same order, losers in the second.
    """

    x0: Tensor
    t: Tensor
    eps: Tensor
    xt: Tensor
    desirable: Tensor
    score: Tensor
    reference_error: Tensor


def denoising_error(
    model: Denoiser, x0: Tensor, t: Tensor, eps: Tensor, xt: Tensor, condition: Tensor | float = 0.0
) -> Tensor:
    """err = mean over the two dimensions of (predicted - target)^2, (runs, B). The target is eps, or the
    velocity eps - x0 for a flow."""
    return (model(xt, t, condition) - target(x0, t, eps, model.process)).square().mean(-1)


def batches(
    references: Denoiser, feedbacks: list[Feedback], streams: list[Stream], size: int
) -> Iterator[Batch]:
    """Endless batches, one for each step. streams[i] is what run i trains on; references and feedbacks
    hold one entry for each seed, in order of appearance.

    An example is desirable with probability gamma and uniform within its class; a pair is one of
    each, with t and eps in common. The reference never changes, so its errors are computed once
    per stream, for several steps at a time.
    """
    seeds = list(dict.fromkeys(stream.seed for stream in streams))
    unique = list(dict.fromkeys(streams))
    places = [unique.index(stream) for stream in streams]
    starts = [seeds.index(stream.seed) for stream in unique]
    reference, process = references.select(starts), references.process
    generators = [generator("align", stream.seed) for stream in unique]
    choose = _Chooser(references, feedbacks, starts)
    pairs, gamma = _column([s.pairs for s in unique]), _column([s.gamma for s in unique])
    ahead = max(2, ROWS // (len(unique) * size))  # steps drawn at once
    place = torch.arange(size)
    twin = place % max(size // 2, 1)  # where a loser finds its winner's t and eps

    while True:
        # step by step, so that a run's numbers do not depend on which other runs there are
        drawn = [_numbers(size, len(process), g) for g in generators for _ in range(ahead)]
        label, which, t, eps = (
            torch.stack(v).unflatten(0, (len(unique), ahead)) for v in zip(*drawn, strict=True)
        )
        t = torch.where(pairs, t[..., twin], t)
        eps = torch.where(pairs[..., None], eps[..., twin, :], eps).to(choose.points)
        desirable = torch.where(pairs, place < size // 2, label < gamma)
        x0, score = choose(desirable, which)
        xt = add_noise(x0, t, eps, process)
        with torch.no_grad():
            inputs = [v.flatten(1, 2) for v in (x0, t, eps, xt)]
            error = denoising_error(reference, *inputs).view(t.shape)
        columns = [v[places] for v in (x0, t, eps, xt, desirable, score, error)]  # for every run
        yield from (Batch(*(column[:, k] for column in columns)) for k in range(ahead))


class _Chooser:
    """Picks the points of each stream from its feedback, all of which lie side by side, liked ones first."""

    def __init__(self, references: Denoiser, feedbacks: list[Feedback], starts: list[int]):
        self.liked = _column([int(feedbacks[i].desirable.sum()) for i in starts])
        self.disliked = _column([int((~feedbacks[i].desirable).sum()) for i in starts])
        self.first = _column([sum(len(f.x0) for f in feedbacks[:i]) for i in starts])
        orders = [f.desirable.int().argsort(descending=True, stable=True) for f in feedbacks]
        encoded = [references.select([i]).encode(f.x0[orders[i]])[0] for i, f in enumerate(feedbacks)]
        self.points = torch.cat(encoded)
        self.score = torch.cat([f.score[o] for f, o in zip(feedbacks, orders, strict=True)])

    def __call__(self, desirable: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
        """Points and scores of the class that is asked for, uniform as `which` is in [0, 1)."""
        place = torch.where(desirable, which * self.liked, self.liked + which * self.disliked)
        index = self.first + place.long()
        return self.points[index], self.score[index]


def _numbers(size: int, timesteps: int, g: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All that is random in one step: label, which of its class, t and eps."""
    t = (torch.rand(size, generator=g) * timesteps).long()
    which = torch.rand(size, generator=g, dtype=torch.float64)
    return torch.rand(size, generator=g), which, t, torch.randn(size, 2, generator=g)


def _column(values: list) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1)
