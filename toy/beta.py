"""Beta found by pilots, short runs that are only begun.

The rule takes the beta at which the weights of liked examples have changed by 7% since the start. At a
smaller one every smooth utility acts like a straight line. At a larger one the weight of a liked example
depends on how well it is won already, and liked examples are what holds a model on the data.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from toy.errors import InputError
from toy.utilities import Utility, slope

BEND = 0.07  # chosen in the plane, where docs/beta.py measures how good it is
BETAS = torch.logspace(-6, 7, 521)  # 17 in a doubling: finer than any balance can tell
KINKED = 0.1  # the spread for a utility that is bent at 0 itself, as by a loss aversion


def bend(utility: Utility, x: Tensor) -> Tensor:
    """Mean of |U'(x) / U'(0) - 1|: by how much the weights of examples have changed since the start. Over the
    last axis, (..., B) -> (...); x is a liked example's beta * (g - z0)."""
    return (slope(utility, x.flatten()).view_as(x) / slope(utility, torch.zeros(1)) - 1).abs().mean(-1)


def find_beta(
    utility: Utility, gains: Callable[[float], Tensor], start: float, rounds: int = 8
) -> tuple[float, int]:
    """(the beta at which bend() is BEND, the number of pilots run). A straight line has none: it keeps start.

    gains(beta) runs a pilot and returns g - z0 of the liked examples of its last steps, (B,). The beta that
    bends these is used for the next pilot, since gains shrink as beta grows. The search ends when two betas
    in a row agree within a tenth, or after `rounds` pilots. It uses no samples and no judge. Raises
    InputError for gains that are not finite or all 0.
    """
    beta = start
    for count in range(1, rounds + 1):
        g = gains(beta).float()
        if not g.isfinite().all() or not g.any():
            raise InputError(
                f"no beta found: a pilot at beta {beta:g} broke, or learned nothing; choose one by hand"
            )
        bent = torch.cat([bend(utility, part[:, None] * g) for part in BETAS.split(64)]) >= BEND
        before, beta = beta, BETAS[bent.int().argmax()].item() if bent.any() else start
        if bent[0]:
            beta = KINKED / g.std().item()
        if abs(beta / before - 1) < 0.1:
            break
    return beta, count
