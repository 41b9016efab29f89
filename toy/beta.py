"""Beta found by pilots: runs of their own that stop after a sixth of the steps.

The rule takes the beta at which the weights of liked examples have changed by 7% there. At a smaller one
every smooth utility acts like a straight line. At a larger one the weight of a liked example depends on how
well it is won already, and liked examples are what holds a model on the data.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from toy.errors import InputError
from toy.objectives import LossInputs
from toy.utilities import Utility, slope

BEND = 0.07  # chosen in the plane; docs/beta.py measures how good it is
BETAS = torch.logspace(-6, 7, 521)  # 17 in a doubling: finer than any balance can tell
KINKED = 0.1  # the spread for a utility that is bent at 0 itself, as by a loss aversion
SHARE = 4 / 25  # of a run's steps: the length of a pilot, whose last quarter is looked at


def bend(utility: Utility, x: Tensor) -> Tensor:
    """Mean of |U'(x) / U'(0) - 1|: by how much the weights of examples have changed since the start. Over the
    last axis, (..., B) -> (...); x is a liked example's beta * (g - z0)."""
    return (slope(utility, x.flatten()).view_as(x) / slope(utility, torch.zeros(1)) - 1).abs().mean(-1)


def liked_gains(batches: Sequence[LossInputs]) -> Tensor:
    """g - z0 of the liked examples of the last quarter of a pilot's batches, (n,)."""
    last = batches[-max(1, len(batches) // 4) :]
    return torch.cat([(b.reference_error - b.policy_error - b.z0)[b.desirable] for b in last]).float().cpu()


def find_beta(utility: Utility, gains: Callable[[float], Tensor], rounds: int = 6) -> tuple[float, int]:
    """(the beta at which bend() is BEND, to three digits; the number of pilots run). For a straight line, 1.

    gains(beta) runs a pilot and returns its liked_gains. The first has beta 1. While weights bend less than
    BEND, gains do not depend on beta, because Adam divides by the size of the gradient; so a pilot whose own
    beta turns out to be small enough is the last. It uses no samples and no judge. Raises InputError for
    gains that are not finite or all 0.
    """
    beta = 1.0
    for count in range(1, rounds + 1):
        g = gains(beta)
        if not g.isfinite().all() or not g.any():
            raise InputError(
                f"no beta found: a pilot at beta {beta:g} broke, or learned nothing; choose one by hand"
            )
        bent = torch.cat([bend(utility, part[:, None] * g) for part in BETAS.split(64)]) >= BEND
        before = beta
        if bent[0]:
            beta = before = KINKED / g.std().item()
        elif bent.any():
            beta = BETAS[bent.int().argmax()].item()
        if beta > 0.9 * before:
            break
    return float(f"{beta:.3g}"), count
