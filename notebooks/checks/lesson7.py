"""The checks of lesson 7, your own utility."""

import torch

from notebooks.answers import exercise, wrong_shape
from toy import utilities
from toy.errors import InputError


@exercise
def cautious(student):
    """Losses pull harder than gains, and what is settled is left alone."""
    if wrong := wrong_shape(student(torch.zeros(3)), (3,)):
        return wrong
    try:
        warnings = utilities.check_utility(student, "yours")
    except InputError as error:
        return str(error).removeprefix("utility yours ")
    for warning in warnings:
        if "times as slow" not in warning:  # slow is not wrong, and a busy machine may look slow
            return warning.removeprefix("yours ")
    x = torch.linspace(0.2, 3, 15)
    gain, loss = utilities.slope(student, x), utilities.slope(student, -x)
    if not (loss > 1.2 * gain).all():
        k = (loss - 1.2 * gain).argmin()
        return f"at x = {x[k]:.1f} a gain weighs {gain[k]:.3f}, a loss {loss[k]:.3f}: less than 1.2 times it"
    start = utilities.slope(student, torch.zeros(1)).item()
    for end, what in ((8.0, "a far gain"), (-8.0, "a hopeless loss")):
        far = utilities.slope(student, torch.tensor([end])).item()
        if far > 0.1 * start:
            return f"{what} still pulls: slope {far:.3f} at x = {end:g}, {start:.3f} at 0; stay below a tenth"
    return None
