"""Exercises that check themselves: give a check your function, it says in words what is wrong.

Value and gradient are compared with the library's on small inputs. A wrong answer is looked up among
the usual mistakes, which are written here as functions, each with the sentence that helps.
"""

import csv
import io
import math

import torch
import torch.nn.functional as F

from notebooks.answers import compare, compare_numbers, exercise, wrong_shape
from notebooks.checks_flow import euler_step, velocity_to_eps  # noqa: F401, lesson 9's
from toy import diffusion, losses, statistics, utilities
from toy.data import generator
from toy.diffusion import linear_schedule, variance_preserving
from toy.errors import InputError

ABAR = linear_schedule()


def points(seed: int) -> torch.Tensor:
    return torch.randn(4, 2, generator=generator("exercise points", seed))


def errors(seed: int) -> torch.Tensor:
    return torch.rand(8, generator=generator("exercise errors", seed))


# Lesson 1: diffusion


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
    inputs = points(0), torch.tensor([10, 300, 500, 900]), points(1), ABAR
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
        (of(noised, earlier=1), "abar[t] belongs to timestep t: leave out the - 1"),
    ]
    inputs = points(0), torch.tensor(600), torch.tensor(400), points(1), ABAR
    return compare(student, of(noised), inputs, mistakes)


# Lesson 2: utility functions


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
        wrong = compare(student, utilities.slope, (utility, x), mistakes, gradients=False)
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


# Lesson 3: the loss


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
        (lambda p, e: (p - e).square().mean(-1).detach(), "the gradient is cut: no detach() here"),
    ]
    return compare(student, lambda p, e: (p - e).square().mean(-1), (points(0), points(1)), mistakes)


@exercise
def reference_point(student):
    """The batch's mean reward, never below 0, without a gradient."""

    def on_both(function):  # a batch that gained and one that lost
        def values(p, above, below):
            both = [function(p, above), function(p, below)]
            numbers = all(isinstance(value, float | torch.Tensor) for value in both)
            return torch.stack([torch.as_tensor(value) for value in both]) if numbers else both[0]

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
    return compare(student, right, (errors(0), errors(1), liked, 3.0, 0.1), mistakes)


# Lesson 4: Figure 6


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


# Lesson 5: knobs


@exercise
def draw_batch(student):
    """How often a class is seen no longer depends on how large it is."""
    desirable = torch.arange(1000) % 10 == 0  # a tenth is liked
    size, g = 4000, generator("exercise", 5)
    for gamma in (0.8, 0.3):
        index = student(desirable, gamma, size, g)
        if wrong := wrong_shape(index, (size,)):
            return wrong
        if index.dtype != torch.long or index.min() < 0 or index.max() >= len(desirable):
            return f"asked for are whole numbers (torch.long) from 0 to {len(desirable) - 1}"
        share = desirable[index].float().mean().item()
        if share in (0, 1):
            kind = "liked" if share else "disliked"
            return f"with gamma {gamma} the whole batch is {kind}: every place needs a draw of its own"
        if abs(share - 0.1) < 0.03:
            return (
                "liked ones are as frequent as in the data: is gamma used, and do indices count in desirable?"
            )
        if abs(share - (1 - gamma)) < 0.04:
            return "gamma is the probability of a liked example, yours that of a disliked one"
        if abs(share - gamma) > 0.04:
            return f"with gamma {gamma} {share:.0%} of the batch is liked: class sizes must not matter"
        for kind, name in ((desirable, "liked"), (~desirable, "disliked")):
            if index[kind[index]].unique().numel() < kind.sum() / 2:
                return f"most {name} examples never come: draw evenly among them all"
    batches = [student(desirable, 0.8, size, g) for _ in range(3)]
    if torch.equal(batches[0], batches[1]):
        return "every batch is the same: draw from the generator, without seeding it anew"
    if len({int(desirable[index].sum()) for index in batches}) == 1:
        return "gamma is a probability: how many are liked varies from batch to batch"
    return _undetermined(lambda g: student(desirable, 0.8, size, g))


@exercise
def flip_labels(student):
    """Both classes lose the same share of their labels, and the given ones stay as they were."""
    desirable = torch.arange(4000) < 1600
    original = desirable.clone()
    labels = student(desirable, 0.25, generator("exercise", 6))
    if not torch.equal(desirable, original):
        return "the labels that were given are changed too: work on a clone()"
    if wrong := wrong_shape(labels, (4000,)):
        return wrong
    if labels.dtype != torch.bool:
        return f"labels are bool, yours are {labels.dtype}"
    flipped = labels != original
    liked, disliked = (flipped[kind].float().mean().item() for kind in (original, ~original))
    if max(liked, disliked) == 0 or min(liked, disliked) == 1:
        return "all labels are flipped, or none: every label needs a draw of its own"
    if flipped.sum() == flipped.nonzero().max() - flipped.nonzero().min() + 1:
        return "the flipped labels stand side by side: chance must decide which ones are flipped"
    if min(liked, disliked) == 0:
        return f"only {'liked' if liked else 'disliked'} examples lose their label: noise knows no class"
    if abs(liked - 0.75) < 0.05 and abs(disliked - 0.75) < 0.05:
        return "that flips all but the share that was asked for"
    if abs(liked - 0.125) < 0.04 and abs(disliked - 0.125) < 0.04:
        return "half of the chosen labels stay as they were: turn a chosen label, do not draw it anew"
    if abs(liked - 0.25) > 0.05 or abs(disliked - 0.25) > 0.05:
        return f"asked for 25%, it flips {liked:.0%} of the liked and {disliked:.0%} of the disliked"
    if torch.equal(student(desirable, 0.25, generator("exercise", 7)), labels):
        return "the same examples are flipped whatever the generator: draw them from it"
    return _undetermined(lambda g: student(desirable, 0.25, g))


def _undetermined(draw) -> str | None:
    if torch.equal(draw(generator("exercise", 8)), draw(generator("exercise", 8))):
        return None
    return "the same generator gives other numbers each time: draw all of them from it (generator=...)"


# Lesson 6: pairs


@exercise
def dpo_loss(student):
    """Only the difference of the two rewards counts."""

    def of(formula):  # of beta and the difference of the rewards
        return lambda w, l, w_ref, l_ref, beta: formula(beta, (w_ref - w) - (l_ref - l))  # noqa: E741

    log_sigmoid = F.logsigmoid
    mistakes = [
        (of(lambda beta, gap: -log_sigmoid(beta * gap).mean()), "the factor 0.5 is missing"),
        (
            of(lambda beta, gap: -log_sigmoid(-0.5 * beta * gap).mean()),
            "that prefers the loser: the sign of g (reference minus policy) or of the difference is turned",
        ),
        (
            of(lambda beta, gap: -log_sigmoid(0.5 * beta * gap).sum()),
            "the mean over the pairs, not their sum",
        ),
        (of(lambda beta, gap: -log_sigmoid(0.5 * gap).mean()), "beta is missing"),
        (of(lambda beta, gap: log_sigmoid(0.5 * beta * gap).mean()), "a loss shrinks: minus log sigmoid"),
        (of(lambda beta, gap: -log_sigmoid((0.5 * beta * gap).mean())), "the mean comes last"),
        (of(lambda beta, gap: -torch.sigmoid(0.5 * beta * gap).mean()), "the log is missing"),
        (of(lambda beta, gap: -log_sigmoid(0.5 * beta * gap)), "the mean over the pairs is missing"),
        (
            lambda w, l, w_ref, l_ref, beta: -log_sigmoid(0.5 * beta * (l - w)).mean(),  # noqa: E741
            "the reference is missing: a reward is the reference's error minus the policy's",
        ),
        (
            lambda w, l, w_ref, l_ref, beta: -log_sigmoid(0.5 * beta * (w_ref - w)).mean(),  # noqa: E741
            "the loser's reward is missing",
        ),
        (
            lambda w, l, w_ref, l_ref, beta: -log_sigmoid(0.5 * beta * (w_ref - w + l_ref - l)).mean(),  # noqa: E741
            "the loser's reward is to be taken away, not added",
        ),
    ]

    def right(*a):
        return losses.diffusion_dpo(*a[:4], beta=a[4], with_metrics=False)[0]

    return compare(student, right, (*(errors(k) for k in range(4)), 3.0), mistakes)


@exercise
def pair_weight(student):
    """0 for a tie, and the more the clearer a pair is."""

    def of(formula):  # of p and gamma
        return lambda winner, loser, gamma: formula(torch.sigmoid(winner - loser), gamma)

    mistakes = [
        (of(lambda p, gamma: p), "that is p; the weight is 2 alpha - gamma"),
        (lambda w, l, gamma: gamma * (2 * torch.sigmoid(gamma * (w - l)) - 1), "no gamma in the softmax"),  # noqa: E741
        (of(lambda p, gamma: gamma * p), "that is alpha; the weight is 2 alpha - gamma"),
        (of(lambda p, gamma: 2 * p - gamma), "alpha is gamma * p: gamma is missing in it"),
        (of(lambda p, gamma: gamma * p - gamma), "the 2 before alpha is missing"),
        (
            of(lambda p, gamma: 10 * (2 * p - 1)),
            "yours has a gamma of 10 built in: use the one that is given",
        ),
        (of(lambda p, gamma: 2 * p - 1), "gamma is missing: that is 2 p - 1"),
        (of(lambda p, gamma: gamma - 2 * gamma * p), "winner and loser are exchanged"),
        (lambda w, l, gamma: 2 * gamma * w.softmax(0) - gamma, "the softmax is over a pair, not the batch"),  # noqa: E741
        (
            lambda w, l, gamma: 2 * gamma * w / (w + l) - gamma,  # noqa: E741
            "p is exp(w) / (exp(w) + exp(l)), not a share of the scores themselves",
        ),
    ]
    inputs = torch.tensor([0.5, 0.9, 1.0, 0.3]), torch.tensor([0.5, 0.4, 0.1, 0.6]), 4.0
    return compare(student, of(lambda p, gamma: gamma * (2 * p - 1)), inputs, mistakes)


@exercise
def renoise_step(student):
    """That is a stride of SmPO's inversion: the eps of both ends, averaged."""

    def of(formula, late=True):  # of the eps at the start and at the guessed end
        def step(predict_eps, x, t, t_next, process):
            first = predict_eps(x, t)
            guess = diffusion.move(x, t, t_next, first, process)
            second = predict_eps(guess, t_next if late else t)
            return diffusion.move(x, t, t_next, formula(first, second), process)

        return step

    def of_guess(predict_eps, x, t, t_next, process):
        return predict_eps(diffusion.move(x, t, t_next, predict_eps(x, t), process), t_next)

    def again(predict_eps, x, t, t_next, process):
        first = predict_eps(x, t)
        guess = diffusion.move(x, t, t_next, first, process)
        return diffusion.move(guess, t, t_next, (first + predict_eps(guess, t_next)) / 2, process)

    both_ends = of(lambda a, b: (a + b) / 2)
    mistakes = [
        (of(lambda a, b: a), "that is plain inversion, by the eps of the start: ask again at the end"),
        (of(lambda a, b: b), "that is the eps of the end alone: average both"),
        (of(lambda a, b: a + b), "their mean, not their sum"),
        (of(lambda a, b: (a + b) / 2, late=False), "at the guess the time is t_next, not t"),
        (
            lambda model, x, t, n, process: diffusion.move(x, t, n, (model(x, t) + model(x, n)) / 2, process),
            "ask the second time at the guess, not at x",
        ),
        (
            lambda model, x, t, n, process: (model(x, t) + of_guess(model, x, t, n, process)) / 2,
            "now move x by that eps",
        ),
        (again, "the second move starts from x again, not from the guess"),
        (lambda model, x, t, n, process: both_ends(model, x, n, t, process), "go from t to t_next, not back"),
    ]

    def predict_eps(x, t):  # it bends, so that its ends differ
        return torch.tanh(x * (0.5 + t / 1000))

    inputs = predict_eps, points(0), torch.tensor(200), torch.tensor(400), variance_preserving(ABAR)
    return compare(student, both_ends, inputs, mistakes, gradients=False)


# Lesson 7: your own utility


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


# Lesson 8: Stable Diffusion


@exercise
def redness(student):
    """One number for each image, above 0 where red is stronger than the average colour."""
    mistakes = [
        (lambda x: x[:, 0].mean() - x.mean(), "one number for each image: leave out dimension 0 of the mean"),
        (lambda x: x[:, 2].mean((1, 2)) - x.mean((1, 2, 3)), "red is channel 0, yours is blue"),
        (lambda x: x[:, 0].mean((1, 2)), "the mean of all channels is to be taken away"),
        (
            lambda x: x[:, 0].mean((1, 2)) - x[:, 1:].mean((1, 2, 3)),
            "the mean of all three channels, with red",
        ),
        (lambda x: x.mean((1, 2, 3)) - x[:, 0].mean((1, 2)), "the sign is turned: red minus all"),
        (lambda x: x[:, 0] - x.mean(1), "the mean over rows and columns is missing"),
        (lambda x: x[:, 0].mean((1, 2)) - x.mean(), "the mean of each image, not of the whole batch"),
        (lambda x: x[..., 0].mean((1, 2)) - x.mean((1, 2, 3)), "channels are dimension 1, not the last one"),
        (
            lambda x: x[0].mean((1, 2)) - x.mean((1, 2, 3)),
            "images[0] is the first image: channels are dimension 1",
        ),
        (
            lambda x: x[:, 0].mean((1, 2)) / x.mean((1, 2, 3)),
            "the difference of the two means, not their ratio",
        ),
        (lambda x: x[:, 0].sum((1, 2)) - x.sum((1, 2, 3)), "means, not sums"),
    ]
    images = torch.rand(3, 3, 2, 4, generator=generator("exercise", 8))

    def right(x):
        return x[:, 0].mean((1, 2)) - x.mean((1, 2, 3))

    return compare(student, right, (images,), mistakes, gradients=False)


@exercise
def feedback_csv(student):
    """python -m sd train takes it as it is."""
    names = ["a.png", "b.png", "c.png"]
    captions = ["a red circle, small", 'a "blue" square', "a cross"]
    text = student(names, captions, [True, False, False])
    if text is None or text is ...:
        return "it returns nothing yet; put your answer where the dots are"
    if not isinstance(text, str):
        return f"it returns {type(text).__name__}; asked for is a str"
    rows = [row for row in csv.reader(io.StringIO(text)) if row]
    if not rows or rows.pop(0) != ["file_name", "caption", "label"]:
        return "the first line must be file_name,caption,label (a StringIO gives its text by getvalue())"
    if len(rows) != len(names):
        return f"{len(names)} images make {len(names)} rows under the header, yours has {len(rows)}"
    if any(len(row) != 3 for row in rows) or [row[1] for row in rows] != captions:
        return "a caption with a comma or a quote does not come back whole: use csv.writer"
    if [row[0] for row in rows] != names:
        return "the first column must be the image's file name"
    words = [row[2].lower() for row in rows]
    for like, dislike in (("liked", "disliked"), ("1", "0"), ("true", "false")):
        if set(words) <= {like, dislike}:
            if words == [dislike, like, like]:
                return "liked and disliked are exchanged"
            if len(set(words)) == 1:
                return f"every row has the label {words[0]}: take it from the list liked, row by row"
            return None if words == [like, dislike, dislike] else "a label does not belong to its row"
    odd = next(word for word in words if word not in ("liked", "disliked"))
    return f"the labels are {', '.join(words)}: each must be liked or disliked, not {odd}"
