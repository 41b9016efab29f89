"""The checks of lesson 3, the loss."""

import torch
import torch.nn.functional as F

from notebooks.answers import compare, errors, exercise, points
from toy import losses


@exercise
def denoising_error(student):
    """One number for each example; nothing else enters the losses."""
    mistakes = [
        (lambda p, e: (p - e).square().mean(), "keep the examples apart: the mean over dim=-1 only"),
        (lambda p, e: (p - e).square().mean(0), "that averages over the examples: take dim=-1"),
        (lambda p, e: (p - e).square().sum(-1), "the mean over the dimensions, not their sum"),
        (lambda p, e: (p - e).mean(-1), "square the difference"),
        (lambda p, e: (p - e).mean(-1).square(), "first the squares, then their mean"),
        (lambda p, e: (p - e).abs().mean(-1), "the square of the difference, not its size"),
        (lambda p, e: (p - e).square().mean(-1).sqrt(), "the mean square, without a root"),
        (lambda p, e: (p - e).norm(dim=-1), "norm() is the root of a sum: take the mean of the squares"),
        (lambda p, e: (p - e).square().median(-1).values, "the mean of the squares, not their median"),
        (lambda p, e: (p - e).square(), "one number for each example: the mean over dim=-1 is missing"),
        (
            lambda p, e: (p - e).square().mean(-1).detach(),
            "the gradient is cut: no detach() and no item() here",
        ),
    ]
    return compare(student, lambda p, e: (p - e).square().mean(-1), (points(0), points(1)), mistakes)


@exercise
def reference_point(student):
    """The batch's mean reward, never below 0, without a gradient."""

    def on_both(function):  # a batch that gained and one that lost
        def values(p, above, below):
            both = [function(p, above), function(p, below)]
            numbers = all(isinstance(value, int | float | torch.Tensor) for value in both)
            return torch.stack([torch.as_tensor(value).float() for value in both]) if numbers else both[0]

        return values

    mistakes = [
        (lambda p, r: (r - p).mean().clamp(min=0), "detach() it: training must not move its own yardstick"),
        (lambda p, r: (r - p).mean().detach(), "it is never below 0: the clamp is missing"),
        (
            lambda p, r: (r - p).mean(),
            "never below 0, and without a gradient: clamp() and detach()",
        ),
        (lambda p, r: (p - r).mean().clamp(min=0).detach(), "the reward is reference minus policy: sign"),
        (lambda p, r: (p - r).mean().detach(), "the reward is reference minus policy: sign"),
        (lambda p, r: (r - p).clamp(min=0).mean().detach(), "first the mean, then the clamp"),
        (lambda p, r: (r - p).clamp(min=0).detach(), "one number for the batch: take the mean"),
        (lambda p, r: (r - p).sum().clamp(min=0).detach(), "the mean, not the sum"),
        (lambda p, r: (r - p).median().clamp(min=0).detach(), "the mean, not the median"),
        (
            lambda p, r: (r - p).mean().abs().detach(),
            "abs() makes a gain of a loss: below 0 it is 0, by clamp(min=0)",
        ),
        (lambda p, r: (r - p).mean().clamp(max=0).detach(), "clamp(max=0) is never above 0: clamp(min=0)"),
    ]
    inputs = errors(0), errors(1) + 0.5, errors(1) - 0.5
    named = [(on_both(mistake), text) for mistake, text in mistakes]
    return compare(on_both(student), on_both(losses.reference_point), inputs, named)


@exercise
def kto_loss(student):
    """Diffusion-KTO in a few lines, value and gradient as in toy.losses."""

    def of(formula):  # of s, beta and g - z0
        return lambda p, r, liked, beta, z0: formula(torch.where(liked, 1.0, -1.0), beta, r - p - z0)

    sigmoid = torch.sigmoid
    right = of(lambda s, beta, gain: (1 - sigmoid(s * beta * gain)).mean())

    def per_class(s, beta, gain):
        loss = 1 - sigmoid(s * beta * gain)
        return (loss[s > 0].mean() + loss[s < 0].mean()) / 2

    mistakes = [
        (of(lambda s, beta, gain: (1 - sigmoid(beta * gain)).mean()), "s is missing: -1 where disliked"),
        (
            of(lambda s, beta, gain: sigmoid(s * beta * gain).mean()),
            "that rises with the mean utility: is it U without the 1 -, or s with +1 where disliked?",
        ),
        (of(lambda s, beta, gain: -sigmoid(s * beta * gain).mean()), "the loss is 1 - U, not -U"),
        (
            of(lambda s, beta, gain: 1 - sigmoid((s * beta * gain).mean())),
            "U of each example first, then mean",
        ),
        (of(lambda s, beta, gain: (1 - sigmoid(s * gain)).mean()), "beta is missing"),
        (of(lambda s, beta, gain: (1 - sigmoid(s * beta * gain)).sum()), "the mean, not the sum"),
        (of(lambda s, beta, gain: (1 - s * sigmoid(beta * gain)).mean()), "s belongs inside U"),
        (
            of(lambda s, beta, gain: (1 - sigmoid((s > 0) * beta * gain)).mean()),
            "s is -1 where disliked, not 0",
        ),
        (of(lambda s, beta, gain: 1 - sigmoid(s * beta * gain)), "the mean over the batch is missing"),
        (lambda *inputs: right(*inputs).detach(), "the gradient is cut: no detach() and no item() here"),
        (of(per_class), "one mean over all examples, not one for each class"),
        (
            of(lambda s, beta, gain: (1 - F.logsigmoid(s * beta * gain)).mean()),
            "U is the sigmoid here, not its logarithm",
        ),
        (
            of(lambda s, beta, gain: -F.logsigmoid(s * beta * gain).mean()),
            "U is the sigmoid here, not its logarithm",
        ),
        (lambda p, r, liked, beta, z0: right(p, r, liked, beta, -z0), "g - z0, not g + z0"),
        (lambda p, r, liked, beta, z0: right(p, r, liked, beta, 0.0), "z0 is missing"),
        (lambda p, r, liked, beta, z0: right(r, p, liked, beta, z0), "g is reference minus policy: sign"),
        (
            lambda p, r, liked, beta, z0: right(p, r, liked, beta, torch.where(liked, z0, -z0) / beta),
            "(g - z0) first",
        ),
        (
            lambda p, r, liked, beta, z0: right(p, r, liked, beta, (r - p).mean()),
            "z0 is given: do not compute it again, with a gradient",
        ),
        (
            lambda p, r, liked, beta, z0: right(p, r, liked, beta, losses.reference_point(p, r)),
            "z0 is given: do not compute it again",
        ),
    ]

    liked = torch.tensor([True, False, True, True, False, False, True, True])
    # the reference is frozen, so its error may come detached
    return compare(student, right, (errors(0), errors(1), liked, 3.0, 0.1), mistakes, gradients=1)
