"""Training: that it learns, that an ensemble is its runs, and what happens when one breaks."""

import itertools
from dataclasses import replace

import pytest
import torch

from toy import data, losses, train
from toy.batches import denoising_error
from toy.diffusion import add_noise
from toy.errors import InputError
from toy.metrics import judge
from toy.objectives import Run
from toy.train import DIFFUSION, align, captions, draw, last, pretrain
from toy.utilities import linear, loss_averse, prospect_theory, risk_seeking_bounded

EVERY_KIND = [
    Run("sft"),
    Run("csft"),
    Run("diffusion_dpo", beta=2.0),
    Run("smpo", beta=0.5),
    Run("pairwise", beta=2.0, seed=1),
    Run(),
    Run(beta=1.0, gamma=0.5),
    Run(utility=loss_averse, seed=1),
    Run(utility=risk_seeking_bounded, weight_desirable=2.0),
    Run(utility=prospect_theory, reference_point="none"),
    Run(reference_point="mismatched", seed=1),
]


def weights(state, run=0):
    return torch.cat([p[run].detach().flatten() for p in state.policy.parameters()])


def test_pretraining_brings_the_loss_down_and_samples_to_the_data(world):
    x0 = world.base(5000, data.generator("test", 0))
    states = [(state.loss.item(), state.step) for state in pretrain(x0, steps=400)]
    first, final = (sum(loss for loss, _ in part) / 50 for part in (states[:50], states[-50:]))
    assert states[-1][1] == 400 and final < 0.75 * first
    model = last(pretrain(x0, steps=400)).policy
    samples = draw(model, 2000)[0]
    torch.testing.assert_close(samples.mean(0), torch.tensor([0.5, 0.8]), rtol=0, atol=0.04)
    torch.testing.assert_close(samples.std(0), torch.tensor([0.2, 0.2]), rtol=0, atol=0.04)


def test_the_same_seed_gives_the_same_model(world):
    x0 = world.base(500, data.generator("test", 0))
    one, two, other = (last(pretrain(x0, steps=5, seed=s)) for s in (3, 3, 4))
    assert torch.equal(weights(one), weights(two)) and not torch.equal(weights(one), weights(other))


def test_many_alignments_at_once_are_each_as_if_alone(pretrained, points):
    """Objectives, betas, seeds, gammas and reference points, in float64: the same to rounding."""
    model = pretrained.select([0]).double()
    points = points._replace(x0=points.x0.double(), score=points.score.double())
    together = last(align(model, points, EVERY_KIND, steps=20, batch=32))
    for i, run in enumerate(EVERY_KIND):
        alone = last(align(model, points, [run], steps=20, batch=32))
        torch.testing.assert_close(weights(together, i), weights(alone), rtol=1e-8, atol=1e-10)
        assert not torch.allclose(weights(together, i), weights_of(model), rtol=1e-3)


def weights_of(model):
    return torch.cat([p[0].detach().flatten() for p in model.parameters()])


def test_alignment_is_the_textbook_loop(pretrained, points):
    """The same steps with one model, torch's own Adam and the loss called by hand."""
    model = pretrained.select([0]).double()
    points = points._replace(x0=points.x0.double())
    ours = last(align(model, points, [Run(beta=2.0)], steps=10, batch=32, lr=1e-3))

    policy = model.select([0])
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3)
    order = points.desirable.int().argsort(descending=True, stable=True)
    x, liked = model.encode(points.x0[order])[0], int(points.desirable.sum())
    g = data.generator("align", 0)
    for step in range(10):
        t = (torch.rand(32, generator=g) * 1000).long()
        which = torch.rand(32, generator=g, dtype=torch.float64)
        desirable = torch.rand(32, generator=g) < 0.8
        eps = torch.randn(32, 2, generator=g)
        index = torch.where(desirable, which * liked, liked + which * (len(x) - liked)).long()
        xt = add_noise(x[index], t, eps, DIFFUSION)
        policy_error = (policy(xt[None], t[None])[0] - eps).square().mean(-1)
        with torch.no_grad():
            reference_error = (model(xt[None], t[None])[0] - eps).square().mean(-1)
        z0 = losses.reference_point(policy_error, reference_error)
        loss, _ = losses.diffusion_kto(policy_error, reference_error, desirable, beta=2.0, z0=z0)
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - step / 10)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(weights(ours), weights_of(policy), rtol=1e-8, atol=1e-10)


def test_the_first_step_starts_from_agreement(pretrained, points):
    state = next(align(pretrained, points, [Run(), Run("diffusion_dpo")]))
    assert state.loss[0].item() == 0.5
    assert state.loss[1].item() == pytest.approx(0.693147, abs=1e-5)
    watched = state.metrics(0)
    assert watched["reward_desirable"] == 0 and watched["reference_point"] == 0
    assert watched["slope"] == 0.25 and 0 < watched["desirable"] < 128


def test_a_warmup_makes_the_first_step_as_much_smaller_as_it_is_long(pretrained, points):
    def moved(warmup):
        [state] = itertools.islice(align(pretrained, points, [Run()], warmup=warmup), 1)
        return state.policy.bias1 - pretrained.bias1

    torch.testing.assert_close(10 * moved(10), moved(0), rtol=0.01, atol=1e-6)


def test_rewards_part_and_samples_follow(world, pretrained, points):
    runs = [Run(seed=seed) for seed in range(2)]
    state = last(align(pretrained, points, runs))
    before = judge(draw(pretrained, 2000)[0], world)
    for run, samples in enumerate(draw(state.policy, 2000)):
        watched = state.metrics(run)
        assert watched["reward_desirable"] > 0 > watched["reward_undesirable"]
        after = judge(samples, world)
        assert after["undesirable_rate"] < 0.2 * before["undesirable_rate"]
        assert after["distance"] < 0.5 * before["distance"]


def test_csft_tells_good_from_bad_by_the_caption(world, pretrained, points):
    runs = [Run("csft")]
    policy = last(align(pretrained, points, runs)).policy
    good = draw(policy, 2000, condition=captions(runs))[0]
    bad = draw(policy, 2000, condition=-captions(runs))[0]
    assert judge(good, world)["undesirable_rate"] < 0.3 < 0.7 < judge(bad, world)["undesirable_rate"]


def test_the_pretrained_model_is_left_alone(pretrained, points):
    before = weights_of(pretrained).clone()
    last(align(pretrained, points, [Run()], steps=3))
    assert torch.equal(before, weights_of(pretrained))


def test_each_seed_may_start_from_its_own_model_and_feedback(world, pretrained):
    other = last(pretrain(world.base(500, data.generator("test", 1)), steps=5, seed=1)).policy
    feedback = {seed: data.feedback(world, 200, seed=seed) for seed in (0, 1)}
    together = last(align({0: pretrained, 1: other}, feedback, [Run(), Run(seed=1)], steps=5, batch=32))
    alone = last(align(other, feedback[1], [Run(seed=1)], steps=5, batch=32))
    torch.testing.assert_close(weights(together, 1), weights(alone), rtol=1e-3, atol=1e-5)


def breaks_late(x):
    """Not finite once x has grown: what an unlucky utility does in the middle of training."""
    return torch.where(x > 0.3, float("inf"), x)


def test_a_run_that_breaks_stops_where_it_was_and_the_others_go_on(pretrained, points):
    runs = [Run(utility=linear), Run(utility=breaks_late, beta=7.0, seed=2), Run(seed=2)]
    held, messages = None, {}
    for state in align(pretrained, points, runs, steps=60):
        if 1 in state.stopped and held is None:
            held, messages = weights(state, 1).clone(), dict(state.stopped)
            assert state.step > 1
    assert list(messages) == [1]
    assert messages[1].startswith("diffusion_kto with breaks_late, beta 7, seed 2: loss not finite at step")
    assert held.isfinite().all() and torch.equal(held, weights(state, 1))
    assert state.loss[[0, 2]].isfinite().all()
    alone = last(align(pretrained, points, runs[2:], steps=60))
    torch.testing.assert_close(weights(state, 2), weights(alone), rtol=0.05, atol=0.01)


def test_a_gradient_that_is_not_finite_stops_a_run_before_it_spoils_the_weights(pretrained, points):
    def root(x):  # finite, but with an infinite slope at 0, where training starts
        return torch.sign(x) * x.abs().sqrt()

    state = last(align(pretrained, points, [Run(utility=root), Run()], steps=3))
    assert list(state.stopped) == [0]
    assert torch.equal(weights(state, 0), weights_of(pretrained))


def test_training_can_be_stopped_by_the_caller_at_any_step(pretrained, points):
    for state in align(pretrained, points, [Run()], steps=10**9):
        if state.step == 3:
            break
    assert state.step == 3


def test_draws_are_seeded_and_any_number_of_runs_sees_the_same_noise(pretrained):
    twice = draw(pretrained.select([0, 0]), 300, seed=1)
    assert torch.equal(twice[0], twice[1])
    torch.testing.assert_close(twice[0], draw(pretrained, 300, seed=1)[0])
    assert not torch.equal(twice[0], draw(pretrained, 300, seed=2)[0])


def test_what_cannot_be_aligned_is_refused(pretrained, points):
    one_class = points._replace(desirable=torch.ones_like(points.desirable))
    for arguments, message in (
        ((pretrained.select([0, 0]), points, [Run()], 8), "not 2 at once"),
        ((pretrained, one_class, [Run()], 8), "1000 of 1000 are liked"),
        ((pretrained, points, [Run("diffusion_dpo")], 7), "even for objectives on pairs"),
        ((pretrained, points, [Run()], 0), "must be positive"),
    ):
        with pytest.raises(InputError, match=message):
            next(align(*arguments[:3], batch=arguments[3]))


def test_a_utility_may_be_any_callable_and_answer_in_double(pretrained, points):
    class Tanh:
        def __call__(self, x):
            return torch.tanh(x.double())

    run = Run(utility=Tanh())
    assert next(align(pretrained, points, [run])).loss.isfinite().all() and "with Tanh" in str(run)


def test_odd_batches_are_fine_without_pairs(pretrained, points):
    assert next(align(pretrained, points, [replace(Run(), seed=3)], batch=7)).loss.isfinite().all()


def test_every_setting_reaches_training(pretrained, points):
    changes = [
        {},
        {"beta": 1.0},
        {"gamma": 0.5},
        {"seed": 1},
        {"utility": loss_averse},
        {"reference_point": "none"},
        {"reference_point": "mismatched"},
        {"weight_desirable": 2.0},
        {"weight_undesirable": 2.0},
        {"objective": "sft"},
        {"objective": "csft"},
        {"objective": "diffusion_dpo"},
        {"objective": "smpo"},
        {"objective": "pairwise"},
    ]
    state = last(align(pretrained, points, [Run(**change) for change in changes], steps=20))
    results = [weights(state, i) for i in range(len(changes))]
    for i, one in enumerate(results):
        for j in range(i):
            assert not torch.allclose(one, results[j], rtol=1e-4, atol=1e-6), (changes[i], changes[j])


def test_smpo_trains_on_the_inversion_by_its_policy_as_it_is_now(pretrained, points, monkeypatch):
    invert, asked = train.invert, []

    def spy(policy, x0, t, process):
        asked.append((weights_of(policy), invert(policy, x0, t, process)))
        return asked[-1][1]

    monkeypatch.setattr(train, "invert", spy)
    errors = []
    monkeypatch.setattr(
        train,
        "denoising_error",
        lambda model, *rest: errors.append(rest[3]) or denoising_error(model, *rest),
    )
    before = weights_of(pretrained)
    for step, state in enumerate(align(pretrained, points, [Run("smpo"), Run()], steps=3)):
        policy, xt = asked[step]
        assert torch.equal(policy, before)
        assert torch.equal(errors[-1][0], xt[0])  # what the policy was trained on
        before = weights(state, 0)
