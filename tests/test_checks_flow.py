"""The exercises of lesson 9: the usual mistakes are told apart and named, other right ways are right."""

import pytest
import torch

from notebooks import checks
from notebooks.checks import EXERCISES

# exercise -> what a student might write, and words that the answer must have
WRONG = {
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
}

# answers that are right, though not those of the solutions
ALSO_RIGHT = {
    "velocity_to_eps": lambda xt, v, sigma: (xt - sigma * v) + v,
    "euler_step": lambda xt, v, sigma, nxt: (1 - nxt) * (xt - sigma * v) + nxt * (xt + (1 - sigma) * v),
}


@pytest.mark.parametrize(
    ("name", "answer", "words"), [(name, *wrong) for name, answers in WRONG.items() for wrong in answers]
)
def test_a_usual_mistake_is_named(name, answer, words):
    verdict = EXERCISES[name](answer)
    assert not verdict.right
    assert words in verdict.text, verdict
    assert "\n" not in verdict.text and len(verdict.text) < 240


@pytest.mark.parametrize("name", ALSO_RIGHT)
def test_another_right_answer_is_right(name):
    assert EXERCISES[name](ALSO_RIGHT[name]).right, EXERCISES[name](ALSO_RIGHT[name])


@pytest.mark.parametrize("name", WRONG)
def test_the_lesson_asks_it_by_the_checks_of_all_lessons(name):
    assert getattr(checks, name) is EXERCISES[name]
