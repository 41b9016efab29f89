"""What the runs of an ensemble see in each step, and how well a denoiser does on it."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from toy.data import Feedback, generator
from toy.diffusion import add_noise
from toy.model import Denoiser

ROWS = 4096  # examples drawn at once: many for speed, few enough for the processor's cache


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
    model: Denoiser, xt: Tensor, t: Tensor, eps: Tensor, condition: Tensor | float = 0.0
) -> Tensor:
    """err = mean over the two dimensions of (predicted - eps)^2, (runs, B)."""
    return (model(xt, t, condition) - eps).square().mean(-1)


def batches(
    references: Denoiser,
    feedbacks: list[Feedback],
    streams: list[tuple[int, float | None]],
    size: int,
    abar: Tensor,
) -> Iterator[tuple[Batch, Batch]]:
    """Endless (batch, unrelated batch). streams[i] = (seed, gamma) says what run i sees, with gamma
    None for pairs; references and feedbacks hold one entry for each seed, in order of appearance.

    An example is desirable with probability gamma and uniform within its class; a pair is one of
    each, with t and eps in common. Runs of the same stream see the same numbers. The reference
    never changes, so its errors are computed once per stream, for several steps at a time.
    """
    seeds = list(dict.fromkeys(seed for seed, _ in streams))
    unique = list(dict.fromkeys(streams))
    stream_of = [unique.index(stream) for stream in streams]
    starts = [seeds.index(seed) for seed, _ in unique]
    reference = references.select(starts)
    generators = [generator("align", seed) for seed, _ in unique]  # the same numbers for the same seed

    def column(values: list) -> Tensor:
        return torch.tensor(values).view(-1, 1, 1)

    paired = column([gamma is None for _, gamma in unique])
    gamma = column([gamma or 0.0 for _, gamma in unique])
    liked = column([int(feedbacks[i].desirable.sum()) for i in starts])
    disliked = column([int((~feedbacks[i].desirable).sum()) for i in starts])
    first = column([sum(len(f.x0) for f in feedbacks[:i]) for i in starts])  # where a feedback begins
    orders = [f.desirable.int().argsort(descending=True, stable=True) for f in feedbacks]  # liked first
    points = [references.select([i]).encode(f.x0[orders[i]])[0] for i, f in enumerate(feedbacks)]
    points, score = torch.cat(points), torch.cat([f.score[o] for f, o in zip(feedbacks, orders, strict=True)])

    ahead = max(2, ROWS // (len(unique) * size))  # steps drawn at once
    place = torch.arange(size)
    twin = place % max(size // 2, 1)  # where a loser finds its winner's t and eps

    def numbers(g: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # of one step
        t = (torch.rand(size, generator=g) * len(abar)).long()
        which = torch.rand(size, generator=g, dtype=torch.float64)
        return torch.rand(size, generator=g), which, t, torch.randn(size, 2, generator=g)

    while True:
        # step by step, so that a run's numbers do not depend on which other runs there are
        drawn = [numbers(g) for g in generators for _ in range(ahead)]
        label, which, t, eps = (
            torch.stack(v).unflatten(0, (len(unique), ahead)) for v in zip(*drawn, strict=True)
        )
        t = torch.where(paired, t[..., twin], t)
        eps = torch.where(paired[..., None], eps[..., twin, :], eps).to(points)
        desirable = torch.where(paired, place < size // 2, label < gamma)
        index = first + torch.where(desirable, which * liked, liked + which * disliked).long()
        x0 = points[index]
        xt = add_noise(x0, t, eps, abar)
        with torch.no_grad():
            flat = (xt.flatten(1, 2), t.flatten(1), eps.flatten(1, 2))
            error = denoising_error(reference, *flat).view(t.shape)
        seen = [v[stream_of] for v in (x0, t, eps, xt, desirable, score[index], error)]  # by every run
        steps = [Batch(*(value[:, k] for value in seen)) for k in range(ahead)]
        for k in range(ahead):
            yield steps[k], steps[k - 1]
