"""The exercises: every solution passes, every usual mistake is told apart and named."""

import importlib
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from notebooks import checks
from notebooks.checks import EXERCISES
from toy import statistics
from toy.data import figure6
from toy.diffusion import move, variance_preserving

LESSONS = [importlib.import_module(f"notebooks.solutions.lesson{i}") for i in range(1, 10)]
SOLUTIONS = {name: vars(lesson)[name] for lesson in LESSONS for name in vars(lesson) if name in EXERCISES}
log_sigmoid, sigmoid = F.logsigmoid, torch.sigmoid


def ddim(xt, t, t_next, eps, abar):
    return move(xt, t, t_next, eps, variance_preserving(abar))


def swapped_shares(xt, t, t_next, eps, abar):
    x0 = (xt - abar[t].sqrt() * eps) / (1 - abar[t]).sqrt()
    return abar[t_next].sqrt() * x0 + (1 - abar[t_next]).sqrt() * eps


def a_(abar, t):
    return abar[t].reshape(-1, 1)


def wrong_interval(quantile, less, root):
    return lambda v: quantile * np.std(v, ddof=less) / root(len(v))


def mean_per_class(p, r, desirable, beta, z0):
    parts = ((p[c], r[c], desirable[c], beta, z0) for c in (desirable, ~desirable))
    return sum(SOLUTIONS["kto_loss"](*part) for part in parts) / 2


def flips_in_place(desirable, share, generator):
    which = torch.rand(len(desirable), generator=generator) < share
    desirable[which] = ~desirable[which]
    return desirable


def only_first_liked(desirable, gamma, size, g):
    disliked = (~desirable).nonzero()[:, 0]
    other = disliked[torch.randint(len(disliked), (size,), generator=g)]
    return torch.where(torch.rand(size, generator=g) < gamma, desirable.nonzero()[0, 0], other)


def by_weight(desirable, weight, size, g):
    return torch.multinomial(weight, size, True, generator=g)


def one_coin(desirable, gamma, size, g):
    kind = desirable if torch.rand(1, generator=g) < gamma else ~desirable
    return kind.nonzero()[torch.randint(int(kind.sum()), (size,), generator=g), 0]


def drawn_anew(desirable, share, g):
    anew = torch.rand(len(desirable), generator=g) < 0.5
    return torch.where(torch.rand(len(desirable), generator=g) < share, anew, desirable)


def slow_but_right(x):
    for _ in range(1000):
        torch.tanh(x.detach())
    return SOLUTIONS["cautious"](x)


@torch.no_grad()
def without_gradient(*inputs):
    return SOLUTIONS["renoise_step"](*inputs)


def always_the_same(desirable, gamma, size, g):
    return SOLUTIONS["draw_batch"](desirable, gamma, size, torch.Generator().manual_seed(0))


def lines(header, *columns):
    return "\n".join([header, *(",".join(row) for row in zip(*columns, strict=True))])


def quoted(captions):
    return ['"' + caption.replace('"', '""') + '"' for caption in captions]


HEADER = "file_name,caption,label"

# exercise -> what a student might write, and words that the answer must have
WRONG = {
    "estimate_x0": [
        (lambda xt, t, eps, abar: (xt - (1 - a_(abar, t)) * eps) / a_(abar, t), "square root"),
        (lambda xt, t, eps, abar: xt - (1 - a_(abar, t)).sqrt() * eps, "divide by sqrt"),
        (lambda xt, t, eps, abar: (xt + (1 - a_(abar, t)).sqrt() * eps) / a_(abar, t).sqrt(), "take it away"),
        (lambda xt, t, eps, abar: (xt - (1 - abar[t]).sqrt() * eps) / abar[t].sqrt(), "RuntimeError"),
        (lambda xt, t, eps, abar: SOLUTIONS["estimate_x0"](xt, t - 1, eps, abar), "leave out the - 1"),
        (lambda xt, t, eps, abar: SOLUTIONS["estimate_x0"](xt, t, eps, 1 - abar), "exchanged"),
        (lambda xt, t, eps, abar: (xt - eps) / a_(abar, t).sqrt(), "has a share too"),
    ],
    "ddim_step": [
        (lambda xt, t, n, eps, abar: (xt - (1 - abar[t]).sqrt() * eps) / abar[t].sqrt(), "noise it again"),
        (lambda xt, t, n, eps, abar: ddim(xt, t, t, eps, abar), "t_next's, not t's"),
        (lambda xt, t, n, eps, abar: ddim(xt, t, n, eps, abar) - (1 - abar[n]).sqrt() * eps, "is missing"),
        (lambda xt, t, n, eps, abar: ddim(xt, t - 1, n - 1, eps, abar), "leave out the - 1"),
        (lambda xt, t, n, eps, a: ddim(xt, t, n, eps, a) - 2 * (1 - a[n]).sqrt() * eps, "added again"),
        (lambda xt, t, n, eps, abar: ddim(xt, t, n, torch.randn(4, 2), abar), "each time"),
        (swapped_shares, "exchanged"),
        (lambda xt, t, n, eps, abar: xt - eps, "is right"),
    ],
    "loss_aversion": [
        (lambda x: torch.where(x < 0, x, 2.25 * x), "gains count more"),
        (lambda x: torch.where(x >= 0, x, 2.25 * x.abs()), "negative value"),
        (lambda x: torch.where(x >= 0, x, 2.25 * x).mean(), "each example"),
        (lambda x: x if x >= 0 else 2.25 * x, "RuntimeError"),
        (lambda x: torch.where(x >= 0, x, -2.25), "times x"),
        (lambda x: torch.where(x >= 0, 1.0, 2.25) * x.sign() * x.abs() ** 0.88, "leave the power out"),
    ],
    "slope": [
        (lambda utility, x: utility(x), "asked for is its slope"),
        (lambda utility, x: SOLUTIONS["slope"](utility, x) / len(x), "take sum()"),
        (lambda utility, x: -SOLUTIONS["slope"](utility, x), "sign"),
        (lambda utility, x: torch.autograd.grad(utility(x), x)[0], "RuntimeError"),
        (lambda utility, x: sigmoid(-x), "whatever utility is given"),
        (lambda utility, x: sigmoid(x) * sigmoid(-x), "whatever utility is given"),
        (lambda utility, x: torch.autograd.grad(utility(x.requires_grad_()).sum(), x), "take [0]"),
        (lambda utility, x: (utility(x + 1e-3) - utility(x)) / 1e-3, "difference quotient"),
    ],
    "denoising_error": [
        (lambda p, e: F.mse_loss(p, e), "keep the examples apart"),
        (lambda p, e: ((p - e) ** 2).sum(-1), "not their sum"),
        (lambda p, e: ((p - e) ** 2).mean(0), "averages over the examples"),
        (lambda p, e: (p - e).mean(-1), "square"),
        (lambda p, e: (p - e).norm(dim=-1), "norm()"),
        (lambda p, e: (p - e).square().median(-1).values, "median"),
        (lambda p, e: (p - e).square(), "dim=-1 is missing"),
    ],
    "reference_point": [
        (lambda p, r: (r - p).mean().clamp(min=0), "detach"),
        (lambda p, r: max(0, (r - p).mean()), "detach"),
        (lambda p, r: (r.detach() - p.detach()).mean(), "clamp is missing"),
        (lambda p, r: (p - r).mean().clamp(min=0).detach(), "sign"),
        (lambda p, r: F.relu(r - p).mean().detach(), "first the mean"),
        (lambda p, r: (r - p).mean(), "clamp() and detach()"),
        (lambda p, r: (r - p).mean().abs().detach(), "abs()"),
        (lambda p, r: (r - p).mean().clamp(max=0).detach(), "clamp(min=0)"),
        (lambda p, r: (r - p).median().clamp(min=0).detach(), "median"),
    ],
    "kto_loss": [
        (lambda p, r, d, beta, z0: (1 - sigmoid(beta * (r - p - z0))).mean(), "s is missing"),
        (lambda p, r, d, beta, z0: (1 - sigmoid((2.0 * d - 1) * beta * (p - r - z0))).mean(), "g is"),
        (lambda p, r, d, beta, z0: sigmoid((2.0 * d - 1) * beta * (r - p - z0)).mean(), "without the 1 -"),
        (lambda p, r, d, beta, z0: (1 - sigmoid((1 - 2.0 * d) * beta * (r - p - z0))).mean(), "s with +1"),
        (lambda p, r, d, beta, z0: SOLUTIONS["kto_loss"](p, r, d, beta, z0).item(), "item()"),
        (lambda p, r, d, beta, z0: SOLUTIONS["kto_loss"](p, r, d, beta, -z0), "not g + z0"),
        (lambda p, r, d, beta, z0: mean_per_class(p, r, d, beta, z0), "for each class"),
        (lambda p, r, d, beta, z0: 1 - log_sigmoid((2.0 * d - 1) * beta * (r - p - z0)).mean(), "logarithm"),
        (lambda p, r, d, beta, z0: 1 - sigmoid(((2.0 * d - 1) * beta * (r - p - z0)).mean()), "then mean"),
        (lambda p, r, d, beta, z0: (1 - sigmoid((2.0 * d - 1) * beta * (r - p))).mean(), "z0 is missing"),
        (lambda p, r, d, beta, z0: SOLUTIONS["kto_loss"](p, r, d, beta, z0).detach(), "detach"),
        (lambda p, r, d, beta, z0: (1 - sigmoid((2.0 * d - 1) * beta * (r - p) - z0)).mean(), "z0) first"),
        (lambda p, r, d, beta, z0: (1 - (2.0 * d - 1) * sigmoid(beta * (r - p - z0))).mean(), "inside U"),
    ],
    "undesirable_rate": [
        (lambda x: 1 - SOLUTIONS["undesirable_rate"](x), "turn the comparison"),
        (lambda x: SOLUTIONS["undesirable_rate"](x) * len(x), "share"),
        (lambda x: ((x - torch.tensor([0.3, 0.6])).norm(dim=1) < 0.0599**0.5).float().mean(), "circle"),
        (lambda x: (~figure6().is_desirable(x)).float().mean(), "outside the liked circle"),
        (lambda x: (x[:, 1] < 0.6).float().mean(), "halfway"),
        (lambda x: SOLUTIONS["undesirable_rate"](x) * len(x) / 3500, "that are given"),
    ],
    "balance": [
        (lambda a, b: (a + b) / 2, "arithmetic"),
        (lambda a, b: 2 / (1 / a + 1 / b), "not positive"),
        (lambda a, b: max(a, 0) * max(b, 0), "product"),
        (lambda a, b: max(0, 2 * a * b / (a + b)), "both signs"),
    ],
    "half_width": [
        (wrong_interval(1.96, 1, math.sqrt), "1.96"),
        (lambda v: statistics.interval(v)[1] * math.sqrt(len(v)), "sqrt(n)"),
        (lambda v: statistics.interval(v)[1] * np.std(v) / np.std(v, ddof=1), "n - 1"),
        (lambda v: 2 * statistics.interval(v)[1], "whole width"),
        (wrong_interval(2.776, 1, math.sqrt), "depends on n"),
        (lambda v: statistics.interval(v), "asked for is a number"),
        (lambda v: statistics.interval(v)[1] * np.std(v, ddof=1), "variance"),
    ],
    "draw_batch": [
        (lambda d, gamma, n, g: torch.randint(len(d), (n,), generator=g), "is gamma used"),
        (lambda d, gamma, n, g: SOLUTIONS["draw_batch"](d, 1 - gamma, n, g), "disliked one"),
        (only_first_liked, "most liked"),
        (always_the_same, "same"),
        (lambda d, gamma, n, g: SOLUTIONS["draw_batch"](d, gamma, n, None), "same generator"),
        (lambda d, gamma, n, g: by_weight(d, torch.where(d, gamma, 1 - gamma), n, g), "class sizes"),
        (one_coin, "every place needs a draw of its own"),
    ],
    "flip_labels": [
        (flips_in_place, "clone"),
        (lambda d, share, g: d & (torch.rand(len(d), generator=g) > share), "only liked"),
        (lambda d, share, g: d ^ (torch.rand(len(d), generator=g) > share), "all but"),
        (lambda d, share, g: d ^ (torch.arange(len(d)) % 4 == 0), "whatever the generator"),
        (lambda d, share, g: d ^ (torch.rand(1, generator=g) < share), "every label needs a draw of its own"),
        (lambda d, share, g: d ^ (torch.arange(len(d)) < share * len(d)), "side by side"),
        (drawn_anew, "do not draw it anew"),
        (lambda d, share, g: d ^ (torch.randperm(len(d), generator=g) < share * len(d)), "a probability"),
    ],
    "dpo_loss": [
        (lambda w, l, rw, rl, beta: -log_sigmoid(beta * (rw - w - rl + l)).mean(), "0.5"),  # noqa: E741
        (lambda w, l, rw, rl, beta: -log_sigmoid(0.5 * beta * (w - rw - l + rl)).mean(), "sign"),  # noqa: E741
        (lambda w, l, rw, rl, beta: -log_sigmoid(0.5 * beta * (l - w)).mean(), "reference is missing"),  # noqa: E741
        (lambda w, l, rw, rl, beta: -log_sigmoid(0.5 * beta * (rw - w - rl + l)).sum(), "not their sum"),  # noqa: E741
        (lambda w, l, rw, rl, beta: -log_sigmoid(0.5 * (rw - w - rl + l)).mean(), "beta is missing"),  # noqa: E741
        (lambda w, l, rw, rl, beta: -log_sigmoid(0.5 * beta * (rw - w)).mean(), "loser's reward is missing"),  # noqa: E741
        (lambda w, l, rw, rl, beta: -log_sigmoid(0.5 * beta * (rw - w + rl - l)).mean(), "not added"),  # noqa: E741
    ],
    "pair_weight": [
        (lambda w, l, gamma: gamma * sigmoid(w - l), "alpha"),  # noqa: E741
        (lambda w, l, gamma: 2 * sigmoid(w - l) - 1, "gamma is missing"),  # noqa: E741
        (lambda w, l, gamma: gamma * (2 * sigmoid(l - w) - 1), "exchanged"),  # noqa: E741
        (lambda w, l, gamma: 2 * 10 * sigmoid(w - l) - 10, "gamma of 10 built in"),  # noqa: E741
        (lambda w, l, gamma: 20 * sigmoid(w - l) - gamma, "gamma of 10 built in"),  # noqa: E741
        (lambda w, l, gamma: 2 * gamma * sigmoid(w - l) - 10, "gamma of 10 built in"),  # noqa: E741
        (lambda w, l, gamma: gamma * sigmoid(w - l) - gamma, "2 before alpha"),  # noqa: E741
    ],
    "renoise_step": [
        (lambda model, x, t, n, process: move(x, t, n, model(x, t), process), "plain inversion"),
        (
            lambda model, x, t, n, p: move(x, t, n, model(move(x, t, n, model(x, t), p), n), p),
            "average both",
        ),
        (
            lambda model, x, t, n, process: move(
                x, t, n, (model(x, t) + model(move(x, t, n, model(x, t), process), t)) / 2, process
            ),
            "t_next, not t",
        ),
        (lambda model, x, t, n, p: move(x, t, n, (model(x, t) + model(x, n)) / 2, p), "at the guess"),
        (lambda model, x, t, n, p: SOLUTIONS["renoise_step"](model, x, n, t, p), "not back"),
    ],
    "cautious": [
        (torch.sigmoid, "a gain weighs"),
        (F.logsigmoid, "hopeless loss still pulls"),
        (lambda x: torch.where(x >= 0, x, 2.25 * x), "far gain still pulls"),
        (lambda x: torch.tanh(x).mean(), "shape ()"),
        (lambda x: -torch.tanh(x), "wrong way"),
        (lambda x: torch.where(x >= 0, 2.0, 1.0) * torch.tanh(x), "less than 1.2 times"),
    ],
    "redness": [
        (lambda x: x[:, 0].mean() - x.mean(), "each image"),
        (lambda x: x[:, 2].mean((1, 2)) - x.mean((1, 2, 3)), "blue"),
        (lambda x: x[:, 0].mean((1, 2)) - x[:, 1:].mean((1, 2, 3)), "all three"),
        (lambda x: x[0].mean((1, 2)) - x.mean((1, 2, 3)), "first image"),
        (lambda x: x[:, 0].mean((1, 2)) / x.mean((1, 2, 3)), "not their ratio"),
        (lambda x: x[:, 0].sum((1, 2)) - x.sum((1, 2, 3)), "means, not sums"),
    ],
    "feedback_csv": [
        (lambda n, c, liked: lines("image,caption,label", n, quoted(c), ["1", "0", "0"]), "first line"),
        (lambda n, c, liked: lines(HEADER, n, c, ["1", "0", "0"]), "csv.writer"),
        (lambda n, c, liked: lines(HEADER, n, quoted(c), ["0", "1", "1"]), "exchanged"),
        (lambda n, c, liked: lines(HEADER, n, quoted(c), ["good", "bad", "bad"]), "not good"),
        (lambda n, c, liked: lines(HEADER, n, quoted(c), ["liked", "dislike", "dislike"]), "not dislike"),
        (lambda n, c, liked: lines(HEADER, n, quoted(c), ["liked"] * 3), "every row has the label liked"),
        (lambda n, c, liked: lines(HEADER, n, quoted(c), ["0", "1", "0"]), "does not belong"),
        (lambda n, c, liked: [n, c, liked], "asked for is a str"),
    ],
    "velocity_to_eps": [
        (lambda xt, v, sigma: xt - (1 - sigma) * v, "sign is turned"),
        (lambda xt, v, sigma: xt - sigma * v, "that is x0"),
        (lambda xt, v, sigma: xt + sigma * v, "what is left is 1 - sigma"),
        (lambda xt, v, sigma: xt + v, "starts at xt"),
        (lambda xt, v, sigma: v, "still to be added"),
        (lambda xt, v, sigma: (1 - sigma) * v + sigma * xt, "diffusion's v"),
        (lambda xt, v, sigma: (xt - (1 - sigma) * v) / sigma, "where x0 should"),
        (lambda xt, v, sigma: (xt + (1 - sigma) * v) / sigma, "no division"),
        (lambda xt, v, sigma: xt + (1 - sigma[:, None]) * v, "(4, 2)"),
        (lambda xt, v, sigma: (xt + (1 - sigma) * v).detach(), "detached"),
        (lambda xt, v, sigma: 0 * xt, "is right"),
    ],
    "euler_step": [
        (lambda xt, v, sigma, nxt: xt + (sigma - nxt) * v, "sign is turned"),
        (lambda xt, v, sigma, nxt: xt - (nxt - sigma) * v, "sign is turned"),
        (lambda xt, v, sigma, nxt: xt - sigma * v, "that is x0"),
        (lambda xt, v, sigma, nxt: xt + nxt * v, "not by sigma_next - sigma"),
        (lambda xt, v, sigma, nxt: xt - nxt * v, "not by sigma_next - sigma"),
        (lambda xt, v, sigma, nxt: xt + v, "length of the stride"),
        (lambda xt, v, sigma, nxt: (nxt - sigma) * v, "start at xt"),
        (lambda xt, v, sigma, nxt: (1 - nxt) * xt + nxt * v, "not xt and the velocity"),
        (lambda xt, v, sigma, nxt: (1 - nxt) * (xt - sigma * v) + nxt * v, "where eps should"),
        (
            lambda xt, v, sigma, nxt: (1 - nxt) * (xt - sigma * v) + nxt * torch.randn_like(xt),
            "drawn by chance",
        ),
        (lambda xt, v, sigma, nxt: xt.mean(), "shape ()"),
    ],
}  # fmt: skip


# answers that are right, though not those of the solutions
ALSO_RIGHT = {
    "loss_aversion": lambda x: torch.minimum(x, 2.25 * x),
    "slope": lambda utility, x: torch.func.vmap(torch.func.grad(utility))(x),
    "kto_loss": lambda p, r, d, beta, z0: sigmoid(torch.where(d, -beta, beta) * (r.detach() - p - z0)).mean(),
    "dpo_loss": lambda w, l, rw, rl, beta: F.softplus(0.5 * beta * (w - l - (rw - rl).detach())).mean(),  # noqa: E741
    "undesirable_rate": lambda x: (x[:, 1] < 0.7).float().mean(),
    "reference_point": lambda p, r: max(0, (r - p).mean().item()),
    "balance": lambda a, b: 0 if min(a, b) <= 0 else 2 / (1 / a + 1 / b),
    "half_width": lambda v: statistics.interval(v)[1],
    "draw_batch": lambda d, gamma, n, g: by_weight(
        d, torch.where(d, gamma / d.sum(), (1 - gamma) / (~d).sum()), n, g
    ),
    "cautious": lambda x: -torch.exp(-x.clamp(-4, 4)),
    "renoise_step": without_gradient,
    "redness": lambda x: torch.tensor((x[:, 0] - x.mean(1)).numpy().mean((1, 2))),
    "feedback_csv": lambda n, c, liked: lines(HEADER, n, quoted(c), [str(like) for like in liked]),
    "velocity_to_eps": lambda xt, v, sigma: (xt - sigma * v) + v,
    "euler_step": lambda xt, v, sigma, nxt: (1 - nxt) * (xt - sigma * v) + nxt * (xt + (1 - sigma) * v),
}


@pytest.mark.parametrize("name", ALSO_RIGHT)
def test_another_right_answer_is_right(name):
    assert EXERCISES[name](ALSO_RIGHT[name]).right, EXERCISES[name](ALSO_RIGHT[name])


def test_a_slow_answer_is_not_a_wrong_one():
    assert EXERCISES["cautious"](slow_but_right).right


def test_there_are_twelve_exercises_or_more_and_each_has_a_solution_and_three_wrong_answers():
    assert len(EXERCISES) >= 12
    assert set(EXERCISES) == set(SOLUTIONS) == set(WRONG)
    assert all(len(answers) >= 3 for answers in WRONG.values())


@pytest.mark.parametrize("name", EXERCISES)
def test_the_solution_is_right(name):
    assert getattr(checks, name) is EXERCISES[name]  # a lesson calls it so
    verdict = EXERCISES[name](SOLUTIONS[name])
    assert verdict.right, verdict
    assert repr(verdict).startswith("✓ Right.")


@pytest.mark.parametrize(
    ("name", "answer", "words"), [(name, *wrong) for name, answers in WRONG.items() for wrong in answers]
)
def test_a_usual_mistake_is_named(name, answer, words):
    verdict = EXERCISES[name](answer)
    assert not verdict.right
    assert words in verdict.text, verdict
    assert "\n" not in verdict.text and len(verdict.text) < 240


@pytest.mark.parametrize("name", EXERCISES)
def test_an_exercise_left_open_gets_a_sentence(name):
    verdict = EXERCISES[name](lambda *arguments: ...)
    assert not verdict.right and ("nothing yet" in verdict.text or "returns ellipsis" in verdict.text)


@pytest.mark.parametrize("name", EXERCISES)
def test_a_function_that_raises_gets_a_sentence(name):
    def answer(*arguments):
        raise KeyError("lost")

    text = EXERCISES[name](answer).text
    assert "KeyError" in text and "lost" in text and "\n" not in text


@pytest.mark.parametrize("name", EXERCISES)
def test_a_wrong_shape_and_a_number_for_a_function_get_a_sentence(name):
    assert not EXERCISES[name](lambda *arguments: torch.zeros(3, 7)).right
    assert "by its name" in EXERCISES[name](0.5).text
