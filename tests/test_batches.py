"""What the runs of an ensemble see."""

from itertools import pairwise

import pytest
import torch

from toy.batches import Stream, batches, denoising_error, stream_of
from toy.data import feedback, figure6
from toy.diffusion import add_noise
from toy.model import DIFFUSION, Denoiser, stack
from toy.objectives import Run

POINTS = feedback(figure6(), 400, desirable_share=0.25)


def first(streams, size=64, n=3, references=None, feedbacks=None):
    """The first n batches of streams (seed, gamma), each with the next one; gamma None stands for pairs."""
    count = len({seed for seed, _ in streams})
    streams = [Stream(seed, gamma is None, 0.5 if gamma is None else gamma) for seed, gamma in streams]
    references = references or stack([Denoiser()] * count)
    endless = pairwise(batches(references, feedbacks or [POINTS] * count, streams, size))
    return [next(endless) for _ in range(n)]


def test_every_field_fits_every_run():
    now, _ = first([(0, 0.8), (0, None), (1, 0.5)])[0]
    for name, shape in (("x0", (3, 64, 2)), ("xt", (3, 64, 2)), ("eps", (3, 64, 2)), ("t", (3, 64))):
        assert getattr(now, name).shape == shape
    torch.testing.assert_close(now.xt, add_noise(now.x0, now.t, now.eps, DIFFUSION))
    assert now.t.min() >= 0 and now.t.max() < 1000


def test_examples_carry_their_own_label_and_score():
    now, _ = first([(0, 0.5), (0, None)])[0]
    known = {tuple(x): (bool(d), s) for x, d, s in zip(POINTS.x0.tolist(), *POINTS[1:], strict=True)}
    for run in range(2):
        for x, label, score in zip(now.x0[run].tolist(), now.desirable[run], now.score[run], strict=True):
            assert known[tuple(x)] == (bool(label), score)


@pytest.mark.parametrize("gamma", [0.0, 0.2, 0.8, 1.0])
def test_gamma_is_the_share_of_desirable_examples_whatever_the_data_holds(gamma):
    seen = torch.cat([now.desirable for now, _ in first([(0, gamma)], size=256, n=40)], 1)
    assert seen.float().mean().item() == pytest.approx(gamma, abs=0.02)


def test_examples_are_uniform_within_their_class():
    seen = torch.cat([now.x0[0] for now, _ in first([(0, 0.5)], size=256, n=100)])
    _, counts = seen.unique(dim=0, return_counts=True)
    assert len(counts) == 400
    assert counts.sort().values[:300].float().mean() == pytest.approx(12800 / 300, rel=0.15)


def test_pairs_are_a_liked_and_a_disliked_point_with_time_and_noise_in_common():
    now, _ = first([(0, 0.8), (0, None)])[0]
    winner, loser = slice(0, 32), slice(32, 64)
    assert now.desirable[1, winner].all() and not now.desirable[1, loser].any()
    assert torch.equal(now.t[1, winner], now.t[1, loser])
    assert torch.equal(now.eps[1, winner], now.eps[1, loser])
    assert not torch.equal(now.t[0, winner], now.t[0, loser])


def test_the_same_seed_sees_the_same_numbers_whoever_else_is_there():
    alone = first([(5, 0.8)], n=40)
    among = first([(1, 0.8), (5, None), (5, 0.8), (5, 0.3)], n=40)
    for (a, unrelated), (b, theirs) in zip(alone, among, strict=True):
        assert (
            torch.equal(a.x0[0], b.x0[2]) and torch.equal(a.eps[0], b.eps[2]) and torch.equal(a.t[0], b.t[2])
        )
        assert torch.equal(unrelated.x0[0], theirs.x0[2])
        torch.testing.assert_close(a.reference_error[0], b.reference_error[2])
        assert torch.equal(b.t[2], b.t[3])
    assert not torch.equal(among[0][0].t[0], among[0][0].t[2])


def test_each_seed_has_its_own_reference_and_feedback():
    references = stack([Denoiser([0]), Denoiser([1])])
    other = feedback(figure6(), 300, seed=9)
    now, _ = first([(0, 0.8), (1, 0.8)], references=references, feedbacks=[POINTS, other])[0]
    expected = denoising_error(references, now.x0, now.t, now.eps, now.xt)
    torch.testing.assert_close(now.reference_error, expected)
    assert {tuple(x) for x in now.x0[1].tolist()} <= {tuple(x) for x in other.x0.tolist()}


def test_the_unrelated_batch_is_another_one():
    for now, unrelated in first([(0, 0.8)], size=4096, n=6):
        assert not torch.equal(now.x0, unrelated.x0)


@pytest.mark.parametrize("size", [1, 3])
def test_small_and_odd_batches(size):
    assert first([(0, 0.8)], size=size)[0][0].x0.shape == (1, size, 2)


def test_runs_that_differ_in_their_loss_only_share_a_stream():
    assert stream_of(Run("sft", seed=3)) == stream_of(Run(beta=9.0, seed=3)) == Stream(3, False, 0.8)
    assert stream_of(Run("smpo", gamma=0.1)) == stream_of(Run("diffusion_dpo")) == Stream(0, True, 0.5)
