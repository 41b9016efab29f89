"""The checks of lesson 1, diffusion."""

import torch

from notebooks.answers import compare, exercise, points
from toy.diffusion import linear_schedule


@exercise
def estimate_x0(student):
    """That is the clean point that a sampler heads for."""

    def of(formula, earlier=0):  # of xt, the share of signal and the noise
        return lambda xt, t, eps, abar: formula(xt, abar[t - earlier][:, None], eps)

    def solution(xt, a, eps):
        return (xt - (1 - a).sqrt() * eps) / a.sqrt()

    mistakes = [
        (of(lambda xt, a, eps: (xt - (1 - a) * eps) / a), "abar is a share of variance: take square roots"),
        (of(lambda xt, a, eps: xt - (1 - a).sqrt() * eps), "that is sqrt(abar) * x0: divide by sqrt(abar)"),
        (of(lambda xt, a, eps: (xt + (1 - a).sqrt() * eps) / a.sqrt()), "noise was added: take it away"),
        (of(lambda xt, a, eps: (xt - (1 - a).sqrt() * eps) * a.sqrt()), "divide by sqrt(abar), not multiply"),
        (of(lambda xt, a, eps: a.sqrt() * xt + (1 - a).sqrt() * eps), "that adds noise; turn it around"),
        (
            of(lambda xt, a, eps: solution(xt, 1 - a, eps)),
            "the shares are exchanged: sqrt(abar) belongs to x0, sqrt(1 - abar) to the noise",
        ),
        (of(lambda xt, a, eps: (xt - eps) / a.sqrt()), "the noise has a share too: sqrt(1 - abar)"),
        (of(lambda xt, a, eps: xt - eps), "the shares of signal and noise are missing"),
        (of(solution, earlier=1), "abar[t] belongs to timestep t: leave out the - 1"),
    ]
    inputs = points(0), torch.tensor([10, 300, 500, 900]), points(1), linear_schedule()
    return compare(student, of(solution), inputs, mistakes)


@exercise
def ddim_step(student):
    """Repeated from pure noise down to clean data, it is a sampler."""

    def of(formula, sign=-1, earlier=0):  # of the estimated x0, both shares of signal and the noise
        def step(xt, t, t_next, eps, abar):
            a, b = abar[t - earlier], abar[t_next - earlier]
            return formula((xt + sign * (1 - a).sqrt() * eps) / a.sqrt(), a, b, eps)

        return step

    def noised(x0, a, b, eps):
        return b.sqrt() * x0 + (1 - b).sqrt() * eps

    mistakes = [
        (of(lambda x0, a, b, eps: x0), "that is the estimated x0: noise it again, to the level of t_next"),
        (
            of(lambda x0, a, b, eps: a.sqrt() * x0 + (1 - a).sqrt() * eps),
            "the shares must be t_next's, not t's",
        ),
        (of(lambda x0, a, b, eps: b.sqrt() * x0), "the noise left at t_next is missing"),
        (of(lambda x0, a, b, eps: b.sqrt() * x0 + (1 - a).sqrt() * eps), "the noise must be t_next's too"),
        (of(lambda x0, a, b, eps: (1 - b).sqrt() * x0 + b.sqrt() * eps), "sqrt(abar) belongs to x0"),
        (of(lambda x0, a, b, eps: a.sqrt() * x0 + (1 - b).sqrt() * eps), "the signal must be t_next's too"),
        (of(lambda x0, a, b, eps: b * x0 + (1 - b) * eps), "abar is a share of variance: take square roots"),
        (lambda xt, t, n, eps, abar: noised(xt, abar[t], abar[n], eps), "noise x0, not xt"),
        (of(lambda x0, a, b, eps: noised(a.sqrt() * x0, a, b, eps)), "x0 is not divided by sqrt(abar[t])"),
        (of(lambda x0, a, b, eps: noised(x0, a, b, -eps)), "the noise is added again, not taken away"),
        (of(noised, sign=1), "in x0 the noise is taken away"),
        (
            lambda xt, t, n, eps, abar: noised(
                (xt - abar[t].sqrt() * eps) / (1 - abar[t]).sqrt(), abar[t], abar[n], eps
            ),
            "in x0 signal and noise are exchanged: the noise has the share 1 - abar",
        ),
        (of(noised, earlier=1), "abar[t] belongs to timestep t: leave out the - 1"),
    ]
    inputs = points(0), torch.tensor(600), torch.tensor(400), points(1), linear_schedule()
    return compare(student, of(noised), inputs, mistakes)
