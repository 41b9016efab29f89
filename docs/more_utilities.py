"""More utilities to try, good and bad: python -m toy try docs/more_utilities.py:arctan

Each passes the check. What it does shows only in training, and its slope, the weight of an example, says why.
"""

import torch


def arctan(x):
    """Slope 1 / (1 + x^2): the sigmoid's shape with heavier tails, so no example is quite forgotten."""
    return torch.atan(x)


def error_function(x):
    """Slope about 1.1 exp(-x^2): the sigmoid's shape with lighter tails, so examples are soon forgotten."""
    return torch.erf(x)


def clipped(x):
    """Slope 1 within 2 of zero and 0 beyond: a straight line that ends."""
    return x.clamp(-2, 2)


def huber(x):
    """Slope 1 within 1 of zero and 1 / |x| beyond: a line that grows ever more slowly, but has no end."""
    return torch.where(x.abs() <= 1, x, x.sign() * (1 + x.abs().clamp(min=1).log()))


def asymmetric(x):
    """Slope 2 for losses and 1 for gains, everywhere: a loss weighs twice as much as the same gain."""
    return torch.where(x < 0, 2 * x, x)


def fearful_sigmoid(x):
    """Slope of the sigmoid, twice as large for losses: they weigh more, and are still forgotten."""
    return torch.where(x < 0, 2 * torch.sigmoid(x) - 0.5, torch.sigmoid(x))


def exploding(x):
    """Slope 1 + 3 x^2. Bad: what is farthest away pulls hardest, whether it is won or lost."""
    return x + x**3


def wave(x):
    """Slope 0.5 + cos x. Bad: where it is negative, likes are pushed away and dislikes pulled near."""
    return 0.5 * x + torch.sin(x)


def steep(x):
    """Slope 10 for x near 0, and 0 beyond 0.3. Bad: hardly any example is left after the first steps."""
    return torch.tanh(10 * x)


def flat(x):
    """Slope 0.001 to 0.004. A flat utility is no weak one: Adam, which divides by the size of the
    gradient, trains with it as with a line."""
    return 0.001 * x + 0.003 * torch.tanh(x)
