"""The checks of lesson 2, utility functions."""

import torch

from notebooks.answers import compare, exercise
from toy import utilities


@exercise
def loss_aversion(student):
    """A loss weighs 2.25 times as much as a gain of the same size."""

    def bent(gain, loss):
        return lambda x: torch.where(x >= 0, gain * x, loss * x)

    mistakes = [
        (bent(2.25, 1), "that makes gains count more; losses should"),
        (bent(1, -2.25), "a loss has a negative value: the sign got lost"),
        (bent(1, 1 / 2.25), "that makes losses count less: multiply instead of dividing"),
        (bent(2.25, 2.25), "gains are enlarged too: only losses should be"),
        (lambda x: bent(1, 2.25)(x).mean(), "one value for each example: leave out the mean"),
        (lambda x: torch.where(x >= 0, x, 2.25), "a loss is worth 2.25 times x, not 2.25"),
        (lambda x: torch.where(x >= 0, x, -2.25), "a loss is worth 2.25 times x, not -2.25"),
        (
            lambda x: bent(1, 2.25)(x.sign() * x.abs() ** 0.88),
            "that is the whole function of 1992: here leave the power out",
        ),
    ]
    return compare(student, bent(1, 2.25), (torch.tensor([-3.0, -0.5, 0.5, 3.0]),), mistakes)


@exercise
def slope(student):
    """The slope at x is the weight of the example."""

    def of_mean(utility, x):
        x = x.detach().requires_grad_()
        return torch.autograd.grad(utility(x).mean(), x)[0]

    mistakes = [
        (lambda utility, x: utility(x), "that is the utility; asked for is its slope"),
        (of_mean, "mean() divides each slope by the size of the batch: take sum()"),
        (lambda utility, x: x * utilities.slope(utility, x), "that is x times the slope: leave x out"),
        (
            lambda utility, x: -utilities.slope(utility, x),
            "the sign is turned: the gradient of U is the slope",
        ),
        (
            lambda utility, x: utilities.slope(utilities.loss_averse, x),
            "that is the slope of log sigmoid: take the gradient of whatever utility is given",
        ),
        (
            lambda utility, x: utilities.slope(utilities.kahneman_tversky, x),
            "that is the slope of the sigmoid: take the gradient of whatever utility is given",
        ),
    ]
    x = torch.tensor([-2.0, 0.0, 1.0, 3.0])
    for utility in (utilities.loss_averse, utilities.kahneman_tversky):
        answer = student(utility, x.clone())
        if isinstance(answer, tuple):
            return "torch.autograd.grad returns a tuple, one entry for each input: take [0]"
        wrong = compare(student, utilities.slope, (utility, x), mistakes, gradients=0)
        if wrong and _nearly(answer, utilities.slope(utility, x)):
            return "close, as a difference quotient is: torch.autograd.grad gives the slope itself"
        if wrong:
            return wrong
    return None


def _nearly(answer, right) -> bool:
    return (
        isinstance(answer, torch.Tensor)
        and answer.shape == right.shape
        and (answer - right).abs().max() < 0.01
    )
