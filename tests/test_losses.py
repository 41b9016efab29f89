"""The losses against the authors' published values, and the mistakes that these values catch."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sd.config import configure
from toy import losses
from toy.data import graded
from toy.objectives import LossInputs
from toy.utilities import UTILITIES, kahneman_tversky, loss_averse, slope

CASES = json.loads((Path(__file__).parent / "golden" / "losses.json").read_text())["cases"]
KTO = [case for case in CASES if case["objective"] == "diffusion_kto"]
PAIRS = [case for case in CASES if case["objective"] != "diffusion_kto"]
BOUNDED = "risk_seeking (sign outside, official risk_seeking_1)"


def tensor(values, **options):
    return torch.tensor(values, dtype=torch.float64, **options)


def golden_reference_point(case):
    if "mismatched_policy_error" in case:
        errors = tensor(case["mismatched_policy_error"]), tensor(case["mismatched_reference_error"])
        return losses.reference_point(*errors, clamp=False)
    return losses.reference_point(tensor(case["policy_error"]), tensor(case["reference_error"]))


def check_kto(case, loss_function=losses.diffusion_kto):
    """Value and gradient agree with the published script to 1e-6 relative, in float64."""
    name = "risk_seeking_bounded" if case["utility"] == BOUNDED else case["utility"]
    policy_error = tensor(case["policy_error"], requires_grad=True)
    loss, _ = loss_function(
        policy_error,
        tensor(case["reference_error"]),
        torch.tensor(case["desirable"]),
        utility=UTILITIES[name],
        beta=case["beta"],
        z0=golden_reference_point(case),
        weight_desirable=case["weight_desirable"],
        weight_undesirable=case["weight_undesirable"],
    )
    loss.backward()
    torch.testing.assert_close(loss.detach(), tensor(case["loss"]), rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(policy_error.grad, tensor(case["grad_policy_error"]), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("case", KTO)
def test_diffusion_kto_is_the_published_loss(case):
    assert golden_reference_point(case).item() == pytest.approx(case["reference_point_value"], rel=1e-9)
    check_kto(case)


@pytest.mark.parametrize("case", PAIRS)
def test_dpo_and_smpo_are_the_published_losses(case):
    policy_error = tensor(case["policy_error"], requires_grad=True)
    errors = (*policy_error.chunk(2), *tensor(case["reference_error"]).chunk(2))
    if case["objective"] == "diffusion_dpo":
        loss, _ = losses.diffusion_dpo(*errors, beta=case["beta"])
    else:
        p = tensor(case["winner_probability"])
        loss, _ = losses.smpo(*errors, p, beta=case["beta"], smpo_gamma=case["gamma"])
    loss.backward()
    torch.testing.assert_close(loss.detach(), tensor(case["loss"]), rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(policy_error.grad, tensor(case["grad_policy_error"]), rtol=1e-6, atol=1e-9)


def kto(policy_error, reference_error, desirable, *, mistake, **options):
    """diffusion_kto as people get it wrong."""
    g = reference_error - policy_error
    s = torch.where(desirable, 1.0, -1.0)
    utility, beta, z0 = options["utility"], options["beta"], options["z0"]
    weight = torch.where(desirable, options["weight_desirable"], options["weight_undesirable"]).to(g)
    if mistake == "mean inside U":
        return (weight * (1 - utility((s * beta * (g - z0)).mean()))).mean(), {}
    if mistake == "sign of the labels":
        s = -s
    if mistake == "sign of the reward":
        g = -g
    if mistake == "no reference point":
        z0 = 0.0
    if mistake == "gradient through the reference point":
        z0 = g.mean().clamp(min=0)
    if mistake == "weights swapped":
        weight = torch.where(desirable, options["weight_undesirable"], options["weight_desirable"]).to(g)
    if mistake == "weights ignored":
        weight = 1.0
    if mistake == "beta outside":
        return (weight * (1 - beta * utility(s * (g - z0)))).mean(), {}
    if mistake == "sum over the batch":
        return (weight * (1 - utility(s * beta * (g - z0)))).sum(), {}
    if mistake == "sign always inside":
        return (weight * (1 - utility(s * beta * (g - z0)))).mean(), {}
    x = beta * (g - z0)
    outside = getattr(utility, "sign_outside", False)
    return (weight * (1 - (s * utility(x) if outside else utility(s * x)))).mean(), {}


MISTAKES = [
    "mean inside U",
    "sign of the labels",
    "sign of the reward",
    "no reference point",
    "gradient through the reference point",
    "weights swapped",
    "weights ignored",
    "beta outside",
    "sum over the batch",
    "sign always inside",
]


def test_the_comparison_accepts_a_transcription_without_a_mistake():
    for case in KTO:
        check_kto(case, lambda *a, **k: kto(*a, mistake=None, **k))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_golden_values_catch(mistake):
    with pytest.raises(AssertionError):
        for case in KTO:
            check_kto(case, lambda *a, **k: kto(*a, mistake=mistake, **k))


def batch(n=8, seed=0):
    g = torch.Generator().manual_seed(seed)
    policy, reference = torch.rand(2, n, generator=g)
    return policy.requires_grad_(), reference, torch.rand(n, generator=g) < 0.5


@pytest.mark.parametrize("name", UTILITIES)
def test_training_raises_what_is_liked_and_lowers_what_is_not(name):
    policy, reference, desirable = batch()
    loss, _ = losses.diffusion_kto(policy, reference, desirable, utility=UTILITIES[name], beta=2.0, z0=0.0)
    loss.backward()
    assert (policy.grad[desirable] > 0).all()  # descent lowers the error of liked examples
    assert (policy.grad[~desirable] < 0).all()


def test_the_sigmoid_loss_is_one_half_where_policy_and_reference_agree():
    errors = torch.rand(8)
    z0 = losses.reference_point(errors, errors)
    loss, metrics = losses.diffusion_kto(errors, errors, torch.rand(8) < 0.5, beta=5000.0, z0=z0)
    assert loss.item() == 0.5 and z0.item() == 0.0
    assert metrics["slope"].item() == 0.25


def test_the_slope_weighs_each_examples_gradient():
    policy, reference, desirable = batch()
    loss, metrics = losses.diffusion_kto(policy, reference, desirable, beta=3.0, z0=0.1)
    loss.backward()
    s = np.where(desirable.numpy(), 1, -1)
    x = s * 3.0 * (reference.numpy() - policy.detach().numpy() - 0.1)
    u = 1 / (1 + np.exp(-x))
    np.testing.assert_allclose(policy.grad.numpy(), s * 3.0 * u * (1 - u) / 8, rtol=1e-5)
    assert metrics["slope"].item() == pytest.approx((u * (1 - u)).mean(), rel=1e-5)


def test_the_reference_point_is_the_mean_gain_clamped_and_without_gradient():
    policy, reference = torch.tensor([0.1, 0.4], requires_grad=True), torch.tensor([0.5, 0.2])
    z0 = losses.reference_point(policy, reference)
    assert z0.item() == pytest.approx(0.1) and not z0.requires_grad
    assert losses.reference_point(reference, policy).item() == 0.0
    assert losses.reference_point(reference, policy, clamp=False).item() == pytest.approx(-0.1)


def test_weights_reach_the_loss():
    policy, reference, desirable = batch()
    policy.retain_grad()

    def gradient(**weights):
        options = dict(beta=1.0, z0=0.0, **weights)
        loss, _ = losses.diffusion_kto(policy, reference, desirable, **options)
        return torch.autograd.grad(loss, policy)[0]

    plain, weighted = gradient(), gradient(weight_desirable=2.0, weight_undesirable=0.5)
    torch.testing.assert_close(weighted[desirable], 2 * plain[desirable])
    torch.testing.assert_close(weighted[~desirable], 0.5 * plain[~desirable])


def test_an_examples_weight_multiplies_its_part_of_the_loss():
    policy, reference, desirable = (v.detach().numpy() for v in batch())
    weight = np.linspace(0.5, 4.0, 8, dtype=np.float32)
    s = np.where(desirable, 1, -1)
    u = 1 / (1 + np.exp(-s * 3.0 * (reference - policy - 0.1)))
    expected = np.mean(weight * np.where(desirable, 2.0, 0.5) * (1 - u))
    classes = {"weight_desirable": 2.0, "weight_undesirable": 0.5}
    options = {"beta": 3.0, "z0": 0.1, **classes, "weight": torch.tensor(weight)}
    loss, metrics = losses.diffusion_kto(*batch(), **options)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert metrics == losses.diffusion_kto(*batch(), **options | {"weight": 1.0})[1]


def test_weights_of_one_change_no_bit():
    for dtype in (torch.float32, torch.float64):
        policy, reference, desirable = (v.to(dtype) if v.is_floating_point() else v for v in batch(64))
        results = []
        for weight in ({}, {"weight": torch.ones(64)}):
            loss, _ = losses.diffusion_kto(policy, reference, desirable, beta=3.0, z0=0.1, **weight)
            results.append((loss, torch.autograd.grad(loss, policy)[0]))
        assert all(torch.equal(*both) and both[0].dtype == dtype for both in zip(*results, strict=True))


def test_with_ratings_and_the_recipes_settings_it_is_tgo():
    """Lei et al. 2026: (1 + c |s - tau|) times -log sigmoid of beta g, with the sign of s - tau."""
    recipe = configure("tgo-sd15", model="-", data="-", out="-")
    policy, reference, _ = batch()
    rating = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 9.0])
    terms = []
    for p, r, score in zip(policy.tolist(), reference.tolist(), rating.tolist(), strict=True):
        h = recipe.beta * (r - p) * (1 if score >= 4.5 else -1)
        terms.append((1 + 5 * abs(score - 4.5)) * np.logaddexp(0, -h))
    desirable, weight = graded(rating, c=recipe.rating_weight)
    errors = policy.detach(), reference
    loss, _ = recipe.run.loss(LossInputs(*errors, desirable, rating, weight, z0=torch.tensor(0.3)))
    # U(x) = log sigmoid(x), so 1 - U has a constant more, whose weight has no gradient
    assert loss.item() - weight.mean().item() == pytest.approx(np.mean(terms), rel=1e-5)


@pytest.mark.parametrize("label", [True, False])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_a_batch_of_one_class_or_of_one_or_odd_is_fine(label, n):
    policy, reference, _ = batch(n)
    desirable = torch.full((n,), label)
    z0 = losses.reference_point(policy, reference)
    loss, metrics = losses.diffusion_kto(policy, reference, desirable, beta=4.0, z0=z0)
    loss.backward()
    assert loss.isfinite() and policy.grad.isfinite().all()
    assert all(torch.as_tensor(value).isfinite() for value in metrics.values())
    assert metrics["reward_undesirable" if label else "reward_desirable"].item() == 0.0
    assert metrics["desirable"].item() == (n if label else 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_raised_before_arithmetic(dtype):
    policy, reference, desirable = batch()
    half, half_reference = policy.detach().to(dtype).requires_grad_(), reference.to(dtype)
    z0 = losses.reference_point(half, half_reference)
    loss, _ = losses.diffusion_kto(half, half_reference, desirable, beta=5000.0, z0=z0)
    exact, _ = losses.diffusion_kto(
        half.double(), half_reference.double(), desirable, beta=5000.0, z0=z0.double()
    )
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)
    loss.backward()
    assert half.grad.dtype == dtype


def test_leading_axes_are_independent_runs():
    g = torch.Generator().manual_seed(0)
    policy, reference = torch.rand(2, 3, 8, generator=g)
    desirable, beta = torch.rand(3, 8, generator=g) < 0.5, torch.tensor([[1.0], [4.0], [16.0]])
    z0 = losses.reference_point(policy, reference)
    loss, metrics = losses.diffusion_kto(policy, reference, desirable, beta=beta, z0=z0[:, None])
    for i in range(3):
        alone, watched = losses.diffusion_kto(
            policy[i], reference[i], desirable[i], beta=beta[i].item(), z0=z0[i]
        )
        assert loss[i].item() == pytest.approx(alone.item())
        assert metrics["slope"][i].item() == pytest.approx(watched["slope"].item())


def test_sft_looks_at_desirable_examples_only():
    errors = torch.tensor([1.0, 2.0, float("inf")], requires_grad=True)
    loss, _ = losses.sft(errors, torch.tensor([True, True, False]))
    loss.backward()
    assert loss.item() == 1.5
    assert errors.grad.tolist() == [0.5, 0.5, 0.0]
    assert losses.sft(torch.ones(2), torch.tensor([False, False]))[0].item() == 0.0


def test_csft_looks_at_all_examples():
    assert losses.csft(torch.tensor([1.0, 2.0, 6.0]))[0].item() == 3.0


def dpo_errors(n=4):
    g = torch.Generator().manual_seed(1)
    return torch.rand(4, n, generator=g, dtype=torch.float64).unbind()


def test_dpo_is_log_two_at_the_start_and_uses_the_loss_averse_utility():
    winner, loser, winner_ref, loser_ref = dpo_errors()
    start, _ = losses.diffusion_dpo(winner, loser, winner, loser, beta=2000.0)
    assert start.item() == pytest.approx(np.log(2))
    loss, _ = losses.diffusion_dpo(winner, loser, winner_ref, loser_ref, beta=3.0)
    expected = -loss_averse(0.5 * 3.0 * ((winner_ref - winner) - (loser_ref - loser))).mean()
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("name", UTILITIES)
def test_pairwise_maximises_any_utility_of_half_the_difference_of_rewards(name):
    """Its slope at each pair is the weight of that pair, with the opposite sign for winner and loser."""
    errors = [e.requires_grad_() for e in dpo_errors()]
    winner, loser, winner_ref, loser_ref = errors
    x = 0.5 * 3.0 * ((winner_ref - winner) - (loser_ref - loser)).detach()
    loss, metrics = losses.pairwise(*errors, utility=UTILITIES[name], beta=3.0)
    torch.testing.assert_close(loss, -UTILITIES[name](x).mean())
    loss.backward()
    weight = 0.5 * 3.0 * slope(UTILITIES[name], x) / len(x)
    torch.testing.assert_close(winner.grad, weight)
    torch.testing.assert_close(loser.grad, -weight)
    assert metrics["slope"].item() == pytest.approx(slope(UTILITIES[name], x).mean().item())
    assert metrics["spread"].item() == pytest.approx(x.std(correction=0).item())


def test_pairwise_with_the_loss_averse_utility_is_diffusion_dpo():
    errors = dpo_errors()
    dpo, watched = losses.diffusion_dpo(*errors, beta=3.0)
    pairs, metrics = losses.pairwise(*errors, utility=loss_averse, beta=3.0)
    assert torch.equal(dpo, pairs) and watched == metrics


def test_smpo_with_certain_labels_and_gamma_one_is_dpo():
    errors = dpo_errors()
    dpo, _ = losses.diffusion_dpo(*errors, beta=3.0)
    smooth, _ = losses.smpo(*errors, torch.ones(4, dtype=torch.float64), beta=3.0, smpo_gamma=1.0)
    torch.testing.assert_close(dpo, smooth)


def test_smpo_learns_nothing_from_a_tie():
    errors = [e.requires_grad_() for e in dpo_errors()]
    loss, _ = losses.smpo(*errors, torch.full((4,), 0.5, dtype=torch.float64), beta=2000.0)
    loss.backward()
    assert errors[0].grad.abs().max().item() == 0.0


def test_leaving_metrics_out_changes_nothing_else():
    policy, reference, desirable = batch()
    options = {"beta": 2.0, "z0": 0.1}
    watched, metrics = losses.diffusion_kto(policy, reference, desirable, **options)
    blind, nothing = losses.diffusion_kto(policy, reference, desirable, **options, with_metrics=False)
    assert watched.item() == blind.item() and metrics and nothing == {}


def test_metrics_are_detached():
    policy, reference, desirable = batch()
    for _, metrics in (
        losses.diffusion_kto(policy, reference, desirable, utility=kahneman_tversky, beta=1.0, z0=0.0),
        losses.diffusion_dpo(policy, policy, reference, reference, beta=1.0),
        losses.sft(policy, desirable),
        losses.csft(policy),
    ):
        assert not any(torch.as_tensor(value).requires_grad for value in metrics.values())
