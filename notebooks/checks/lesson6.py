"""The checks of lesson 6, pairs."""

import torch
import torch.nn.functional as F

from notebooks.answers import compare, errors, exercise, points
from toy import diffusion, losses


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

    # the reference is frozen, so its errors may come detached
    return compare(student, right, (*(errors(k) for k in range(4)), 3.0), mistakes, gradients=2)


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
        *(
            (of(formula), "yours has a gamma of 10 built in: use the one that is given")
            for formula in (
                lambda p, gamma: 10 * (2 * p - 1),
                lambda p, gamma: 20 * p - gamma,
                lambda p, gamma: 2 * gamma * p - 10,
            )
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

    inputs = (
        predict_eps,
        points(0),
        torch.tensor(200),
        torch.tensor(400),
        diffusion.variance_preserving(diffusion.linear_schedule()),
    )
    return compare(student, both_ends, inputs, mistakes, gradients=0)
