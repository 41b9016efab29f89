"""toy.alarms: a run that fails is called out, a run that works is not; the same on points and on images."""

import pytest

from toy import data
from toy.alarms import alarms, one_class
from toy.model import Denoiser
from toy.objectives import Run
from toy.study import mean_of
from toy.train import align, last, pretrain
from toy.utilities import linear


@pytest.fixture(scope="module")
def histories():
    """What runs in Figure 6's world log: the means of their metrics over ten steps, by name."""
    world = data.figure6()
    points = world.base(10_000, data.generator("points", 0))
    model: Denoiser = last(pretrain(points, steps=500)).policy
    runs = {
        "works": Run(),
        "pairs": Run("diffusion_dpo"),
        "half disliked": Run(gamma=0.5),
        "a straight line": Run(utility=linear),
        "a small beta": Run(beta=0.02),
        "a large beta": Run(beta=1000.0),
    }
    logs, window = {name: [] for name in runs}, []
    for state in align(model, data.feedback(world), list(runs.values())):
        window.append([state.metrics(i) for i in range(len(runs))])
        if state.step % 10 == 0:
            for history, rows in zip(logs.values(), zip(*window, strict=True), strict=True):
                history.append(mean_of(list(rows)))
            window = []
    return {name: (logs[name], runs[name].beta) for name in runs}


def told(history, beta):
    """The topics of all alarms of a run."""
    return {topic for n in range(1, len(history) + 1) for topic in alarms(history[:n], beta)}


def test_a_run_that_works_is_silent(histories):
    assert told(*histories["works"]) == set()


@pytest.mark.parametrize("name", ("pairs", "half disliked", "a straight line"))
def test_samples_that_leave_the_data_are_told_of(histories, name):
    history, beta = histories[name]
    assert "lost" in told(history, beta)
    assert "worse than before training" in alarms(history, beta)["lost"]


def test_a_liked_reward_that_falls_is_told_of_before_it_is_lost(histories):
    history, beta = histories["a straight line"]
    first = {topic: n for n in range(len(history), 0, -1) for topic in alarms(history[:n], beta)}
    assert first["falling"] < first["lost"]


def test_a_beta_without_effect_or_with_too_much_is_told_with_a_better_one(histories):
    history, beta = histories["a small beta"]
    assert "beta is too small" in alarms(history[:1], beta)["beta"]
    history, beta = histories["a large beta"]
    text = alarms(history, beta)["beta"]
    assert "saturated" in text and 0 < float(text.rpartition("--beta ")[2]) < 1000


def test_numbers_in_the_advice_are_plain():
    text = alarms([{"spread": 0.01}], beta=30.0)["beta"]
    assert text.endswith("try --beta 3000 or more steps")
    assert alarms([{"loss": 1.0}], 30.0) == alarms([{"spread": float("nan")}], 30.0) == {}


def test_batches_without_one_class_are_told_of():
    assert "41% of the batches of 4" in one_class(0.8, 4)  # 0.8^4 + 0.2^4
    assert one_class(0.8, 64) == one_class(1.0, 4) == ""
