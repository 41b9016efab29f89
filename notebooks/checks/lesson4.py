"""The checks of lesson 4, Figure 6."""

import math

import torch

from notebooks.answers import compare, compare_numbers, exercise
from toy import statistics
from toy.data import generator


@exercise
def undesirable_rate(student):
    """The share of samples that a disliked origin explains better."""
    like, dislike = torch.tensor([0.3, 0.8]), torch.tensor([0.3, 0.6])

    def nearer(x):
        return ((x - dislike).norm(dim=-1) < (x - like).norm(dim=-1)).float()

    mistakes = [
        (lambda x: 1 - nearer(x).mean(), "those are nearer to the liked mean: turn the comparison"),
        (lambda x: nearer(x).sum(), "that is how many; asked for is their share"),
        (nearer, "one number: the mean over the samples"),
        (lambda x: 100 * nearer(x).mean(), "a share between 0 and 1, not percent"),
        (
            lambda x: ((x - dislike).square().sum(-1) <= 5.99 * 0.01).float().mean(),
            "that counts those within the disliked circle; compare the two distances instead",
        ),
        (
            lambda x: ((x - like).square().sum(-1) > 5.99 * 0.01).float().mean(),
            "that counts those outside the liked circle; compare the two distances instead",
        ),
        (lambda x: (x[:, 1] < 0.6).float().mean(), "the border is halfway between the means, not at one"),
        (lambda x: (x[:, 0] < 0.7).float().mean(), "up and down is the second coordinate, x[:, 1]"),
        (lambda x: nearer(x).sum() / 3500, "divide by the number of samples that are given"),
    ]
    samples = torch.tensor([0.3, 0.73]) + 0.15 * torch.randn(200, 2, generator=generator("exercise", 4))
    return compare(student, lambda x: nearer(x).mean(), (samples,), mistakes)


@exercise
def balance(student):
    """High only where both are high: hence the harmonic mean."""

    def unless(formula):  # 0 where either is not positive
        return lambda a, b: formula(a, b) if a > 0 and b > 0 else 0.0

    mistakes = [
        (lambda a, b: (a + b) / 2, "that is the arithmetic mean: one makes up for the other"),
        (unless(lambda a, b: (a + b) / 2), "that is the arithmetic mean: one makes up for the other"),
        (
            lambda a, b: 2 * a * b / (a + b),
            "it is 0 where either is not positive: the formula does not know that",
        ),
        (lambda a, b: 2 * a * b / (a + b) if a > 0 or b > 0 else 0.0, "0 where either one is not positive"),
        (
            lambda a, b: max(0.0, 2 * a * b / (a + b)),
            "of -0.5 and 0.3 that makes 1.5: look at both signs before you divide",
        ),
        (unless(lambda a, b: a * b), "that is the product: two halves would be a quarter"),
        (unless(lambda a, b: a * b / (a + b)), "that is half of it"),
        (unless(lambda a, b: (a * b) ** 0.5), "that is the geometric mean; harmonic is 2ab / (a + b)"),
        (unless(min), "that is the smaller one: the other counts as well"),
    ]
    cases = [(0.5, 0.5), (0.9, 0.3), (0.8, -0.5), (-0.4, -0.2), (-0.5, 0.3)]
    return compare_numbers(student, unless(lambda a, b: 2 * a * b / (a + b)), cases, mistakes)


@exercise
def half_width(student):
    """It says how well a few seeds stand for all."""
    from scipy.special import stdtrit

    def of(quantile, less=1, root=math.sqrt, power=0.5):
        def width(values):
            n, mean = len(values), math.fsum(values) / len(values)
            deviation = (math.fsum((v - mean) ** 2 for v in values) / (n - less)) ** power
            return quantile(n) * deviation / root(n)

        return width

    def t(n):
        return float(stdtrit(n - 1, 0.975))

    mistakes = [
        (of(lambda n: t(5)), "that is t for five values: it depends on n"),
        (of(lambda n: 2.776), "2.776 is t for five values: it depends on n"),
        (of(lambda n: 1.96), "1.96 is for many values: for few, Student's t is wider"),
        (of(t, root=lambda n: 1), "that is for single values; the mean scatters less: divide by sqrt(n)"),
        (of(t, root=lambda n: n), "divide by the root of n, not by n"),
        (of(t, root=lambda n: math.sqrt(n - 1)), "divide by sqrt(n): the n - 1 belongs into the deviation"),
        (of(t, less=0), "the deviation takes n - 1: the mean came from the same values"),
        (of(t, power=1), "that is the variance: the deviation is its root"),
        (of(lambda n: 2 * t(n)), "that is the whole width: half of it"),
        (of(lambda n: float(stdtrit(n, 0.975))), "t has n - 1 degrees of freedom"),
        (of(lambda n: float(stdtrit(n - 1, 0.95))), "95% in the middle leaves 2.5% on each side: 0.975"),
    ]
    cases = [([0.81, 0.86, 0.84],), ([0.2, 0.9, 0.5, 0.7, 0.1],)]
    return compare_numbers(student, lambda values: statistics.interval(values)[1], cases, mistakes)
