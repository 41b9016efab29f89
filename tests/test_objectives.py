"""The settings of a run, and what its loss is given."""

import pytest
import torch

from toy import losses
from toy.errors import InputError
from toy.objectives import OBJECTIVES, LossInputs, Run
from toy.train import captions, group
from toy.utilities import linear, loss_averse, risk_seeking_bounded


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "ppo"}, "unknown objective 'ppo': use one of sft"),
        ({"reference_point": "median"}, "unknown reference point 'median'"),
        ({"beta": 0.0}, "beta must be positive"),
        ({"beta": float("inf")}, "beta must be positive and finite"),
        ({"beta": float("nan")}, "beta must be positive"),
        ({"gamma": 1.2}, "gamma is a probability"),
        ({"weight_desirable": -1.0}, "weight_desirable must be at least 0 and finite, not -1"),
        ({"weight_undesirable": float("nan")}, "weight_undesirable must be at least 0 and finite"),
        ({"weight_undesirable": float("inf")}, "weight_undesirable must be at least 0 and finite"),
        ({"objective": "pairwise", "utility": risk_seeking_bounded}, "risk_seeking_bounded is for likes"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Run(**settings)


def test_runs_that_differ_in_beta_seed_and_gamma_share_a_call():
    runs = [
        Run(beta=1.0),
        Run(utility=loss_averse),
        Run(beta=4.0, seed=1, gamma=0.2),
        Run(reference_point="none"),
        Run(weight_desirable=2.0),
    ]
    assert [members for members, _ in group(runs)] == [[0, 2], [1], [3], [4]]


def test_a_shared_call_knows_every_runs_beta_gamma_and_seed():
    """A loss may read them from its settings, in a group as in a run of its own."""
    [(_, settings)] = group([Run(beta=1.0), Run(beta=4.0, seed=1, gamma=0.2)])
    assert torch.equal(settings.beta, torch.tensor([[1.0], [4.0]]))
    assert torch.equal(settings.gamma, torch.tensor([[0.8], [0.2]]))
    assert torch.equal(settings.seed, torch.tensor([[0], [1]]))


def test_the_table_says_what_every_objective_needs():
    """In the words of the papers; what is left out is False."""
    needs = {
        "sft": (),
        "csft": ("undesirable", "captions"),
        "diffusion_kto": ("undesirable", "reference", "reference_point", "utility"),
        "pairwise": ("undesirable", "reference", "pairs", "utility"),
        "diffusion_dpo": ("undesirable", "reference", "pairs"),
        "smpo": ("undesirable", "reference", "pairs", "scores", "inversion"),
    }
    for name, objective in OBJECTIVES.items():
        flags = {k for k, v in vars(objective).items() if k != "loss" and v}
        assert flags == set(needs.pop(name)), name
    assert not needs


def test_every_objective_reaches_its_own_loss():
    g = torch.Generator().manual_seed(0)
    policy, reference, score = (torch.rand(8, generator=g, dtype=torch.float64) for _ in range(3))
    desirable, z0 = torch.arange(8) < 4, losses.reference_point(policy, reference)
    weight = 1 + torch.rand(8, generator=g, dtype=torch.float64)
    inputs = LossInputs(policy, reference, desirable, score, weight, z0)
    pairs = (policy[:4], policy[4:], reference[:4], reference[4:])
    probability = torch.softmax(torch.stack([score[:4], score[4:]]), 0)[0]
    expected = {
        "sft": losses.sft(policy, desirable),
        "csft": losses.csft(policy),
        "diffusion_kto": losses.diffusion_kto(
            policy, reference, desirable, utility=linear, beta=3.0, z0=z0, weight=weight
        ),
        "pairwise": losses.pairwise(*pairs, utility=linear, beta=3.0),
        "diffusion_dpo": losses.diffusion_dpo(*pairs, beta=3.0),
        "smpo": losses.smpo(*pairs, probability, beta=3.0),
    }
    for name in OBJECTIVES:
        loss, metrics = Run(name, utility=linear, beta=3.0).loss(inputs)
        torch.testing.assert_close(loss, expected[name][0])
        assert metrics.keys() == expected[name][1].keys()


def test_a_run_without_a_reference_point_counts_gains_from_zero():
    policy, reference = torch.rand(2, 6, generator=torch.Generator().manual_seed(0))
    desirable = torch.arange(6) < 3
    inputs = LossInputs(policy, reference, desirable, policy, torch.ones(6), z0=torch.tensor(0.3))
    loss, _ = Run(beta=3.0, reference_point="none").loss(inputs)
    torch.testing.assert_close(loss, losses.diffusion_kto(policy, reference, desirable, beta=3.0, z0=0.0)[0])


def test_csft_alone_is_captioned_and_samples_with_the_good_caption():
    runs = [Run(objective) for objective in OBJECTIVES]
    assert captions(runs).flatten().tolist() == [0, 1, 0, 0, 0, 0]


def test_a_run_says_what_it_is():
    assert str(Run(utility=linear, beta=2.0, seed=3)) == "diffusion_kto with linear, beta 2, seed 3"
