"""The settings of a run, and what its loss is given."""

import pytest
import torch

from toy.errors import InputError
from toy.runs import OBJECTIVES, Run, captions, groups
from toy.utilities import linear, loss_averse


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "ppo"}, "unknown objective 'ppo': one of sft"),
        ({"reference_point_from": "median"}, "unknown reference point 'median'"),
        ({"beta": 0.0}, "beta must be positive"),
        ({"beta": float("inf")}, "beta must be positive and finite"),
        ({"beta": float("nan")}, "beta must be positive"),
        ({"gamma": 1.2}, "gamma is a probability"),
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
        Run(reference_point_from="none"),
        Run(weight_desirable=2.0),
    ]
    assert [members.tolist() for members, _, _ in groups(runs)] == [[0, 2], [1], [3], [4]]
    assert torch.equal(groups(runs)[0][2], torch.tensor([[1.0], [4.0]]))


def test_only_csft_is_captioned_and_only_pairs_have_no_mix():
    runs = [Run(objective) for objective in OBJECTIVES]
    assert captions(runs).flatten().tolist() == [0, 1, 0, 0, 0]
    assert [run.mix for run in runs] == [0.8, 0.8, 0.8, None, None]


def test_a_run_says_what_it_is():
    assert str(Run(utility=linear, beta=2.0, seed=3)) == "diffusion_kto with linear, beta 2, seed 3"
