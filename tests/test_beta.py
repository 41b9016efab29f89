"""Beta found by pilots: the rule of toy/beta.py against closed forms, and in training."""

import json
import math
from itertools import islice

import pytest
import torch

from docs import beta as study
from toy.beta import BEND, bend, find_beta, liked_gains
from toy.errors import InputError
from toy.objectives import LossInputs, Run
from toy.study import PILOT, auto_beta
from toy.train import align
from toy.utilities import UTILITIES

NORMAL = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
MEAN = math.sqrt(2 / math.pi)  # of |z|, z normal


def parabola(x):
    return x - 0.25 * x**2  # its slope is 1 - x / 2, so that its bend is the mean of |x| / 2


def test_the_bend_is_how_far_weights_have_moved():
    assert bend(parabola, 3 * NORMAL).item() == pytest.approx(1.5 * MEAN, rel=0.02)
    assert bend(UTILITIES["linear"], NORMAL) == 0


@pytest.mark.parametrize("scale, pilots", [(0.001, 1), (0.05, 1), (1.0, 2), (100.0, 2)])
def test_gains_of_a_known_spread_give_the_beta_of_the_closed_form(scale, pilots):
    beta, count = find_beta(parabola, lambda beta: scale * NORMAL)
    assert beta == pytest.approx(2 * BEND / (MEAN * scale), rel=0.08)
    assert count == pilots  # a second one, where beta 1 bent the weights too far


def test_gains_that_shrink_as_beta_grows_are_followed_to_the_same_beta():
    beta, pilots = find_beta(parabola, lambda beta: 10 * NORMAL / (1 + beta) ** 0.5)
    assert 0.5 * beta * MEAN * 10 / (1 + beta) ** 0.5 == pytest.approx(BEND, rel=0.1) and pilots > 1


def test_a_utility_that_is_twice_as_steep_in_x_gets_half_the_beta():
    steep, _ = find_beta(lambda x: torch.sigmoid(2 * x), lambda beta: NORMAL)
    usual, _ = find_beta(torch.sigmoid, lambda beta: NORMAL)
    assert steep == pytest.approx(usual / 2, rel=0.05)


def test_a_straight_line_keeps_beta_1_and_a_kinked_one_gets_a_spread_of_a_tenth():
    assert find_beta(UTILITIES["linear"], lambda beta: NORMAL) == (1.0, 1)
    beta, _ = find_beta(lambda x: torch.where(x > 0, x, 2 * x), lambda beta: 5 * NORMAL)
    assert beta * (5 * NORMAL).std().item() == pytest.approx(0.1, rel=0.01)


@pytest.mark.parametrize("gain", [0.0, math.inf, math.nan])
def test_a_pilot_that_broke_or_learned_nothing_is_refused(gain):
    with pytest.raises(InputError, match="no beta found: a pilot at beta 1 broke, or learned nothing"):
        find_beta(torch.sigmoid, lambda beta: torch.full((8,), gain))


def test_the_gains_are_those_of_liked_examples_in_the_last_quarter():
    def batch(k):
        errors = torch.tensor([1.0, 2.0, 3.0])
        liked = torch.tensor([True, False, True])
        return LossInputs(errors, 2 * errors + k, liked, errors, errors, torch.tensor(0.5))

    gains = liked_gains([batch(k) for k in range(8)])
    assert gains.tolist() == [1 + 6 - 0.5, 3 + 6 - 0.5, 1 + 7 - 0.5, 3 + 7 - 0.5]


def test_pilots_of_training_bend_the_weights_as_far_as_they_should(pretrained, points):
    beta, _ = auto_beta(Run(), pretrained, points)
    pilot = list(islice(align(pretrained, points, [Run(beta=beta)]), PILOT))
    assert bend(torch.sigmoid, beta * liked_gains([s.inputs() for s in pilot])) == pytest.approx(
        BEND, rel=0.25
    )
    averse, _ = auto_beta(Run(utility=UTILITIES["loss_averse"]), pretrained, points)
    assert averse < beta  # its slope changes from the start, the sigmoid's only further out


def test_the_committed_study_says_how_good_the_rule_is():
    figure = json.loads((study.FIGURES / "beta.json").read_text())
    assert [e["ratio"] for e in study.summarise(figure["rows"])] == pytest.approx(
        [e["ratio"] for e in figure["summary"]], abs=1e-5
    )
    ratios = [e["ratio"] for e in figure["summary"]]
    assert len(ratios) == 56 and {e["seeds"] for e in figure["summary"]} == {5}
    assert min(ratios) > 0.8 and sum(ratios) / 56 > 0.97 and sum(r >= 0.95 for r in ratios) >= 45
    assert sum(e["pilots"] for e in figure["summary"]) / 56 < 2
