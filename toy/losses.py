"""The losses, on nothing but denoising errors: the same functions for 2-D points and for images.

An error is err = mean over the example's own dimensions of (prediction - target)^2, one number per
example; policy and reference see the same noisy input. The implicit reward of an example is
g = err_reference - err_policy: how much better the policy denoises it than the reference does.
`desirable` is the paper's word for liked, `undesirable` for disliked.

All inputs are (B,) float tensors of any dtype and device. They may have leading axes, (..., B):
independent runs side by side. Half precision is raised to float32 before any arithmetic.
Each loss returns (loss, metrics): a scalar per run, and detached scalars worth watching; the mean
over a class that is absent from the batch is 0. Metrics cost as much as the loss itself when
batches are small: with_metrics=False leaves them out.
"""

import torch
from torch import Tensor

from toy.utilities import Utility, kahneman_tversky, loss_averse, slope

Metrics = dict[str, Tensor]


def sft(policy_error: Tensor, desirable: Tensor) -> tuple[Tensor, Metrics]:
    """Supervised fine-tuning: the mean error of the desirable examples (0 if there are none)."""
    loss = _mean_where(_precise(policy_error), desirable)
    return loss, {"error_desirable": loss.detach()}


def csft(policy_error: Tensor) -> tuple[Tensor, Metrics]:
    """Conditional SFT: the mean error of all examples. Their captions say which are good and which
    are bad; afterwards one samples with the good caption."""
    loss = _precise(policy_error).mean(-1)
    return loss, {"error": loss.detach()}


def reference_point(policy_error: Tensor, reference_error: Tensor, clamp: bool = True) -> Tensor:
    """The reference point z0 = max(0, mean g), from which gains and losses are counted. It has no
    gradient: a policy that could move z0 would lower it instead of doing better.

    Published default: the errors of the training batch, clamped at 0. The paper's text has
    *unrelated* pairs instead: pass errors measured with rolled captions, and clamp=False as in the
    published script. To do without a reference point, pass z0=0.0 to the loss. Li et al. 2024.
    """
    z0 = _reward(policy_error, reference_error).mean(-1).detach()
    return z0.clamp(min=0) if clamp else z0


def diffusion_kto(
    policy_error: Tensor,
    reference_error: Tensor,
    desirable: Tensor,
    *,
    utility: Utility = kahneman_tversky,
    beta: float | Tensor,
    z0: float | Tensor,
    weight_desirable: float = 1.0,
    weight_undesirable: float = 1.0,
    weight: float | Tensor = 1.0,
    with_metrics: bool = True,
) -> tuple[Tensor, Metrics]:
    """Diffusion-KTO: mean of w * (1 - U(x)), x = s * beta * (g - z0), s = +1 desirable, -1 undesirable.

    w is the weight of an example's class times the example's own, `weight` (toy.data.graded has one).
    z0 is the value of reference_point(). A utility with the attribute sign_outside = True has the
    value s * U(s * x) instead of U(x). With U = sigmoid the loss is 0.5 at the start, where policy
    and reference agree. Li et al. 2024.
    """
    g = _reward(policy_error, reference_error)
    s = torch.where(desirable, 1.0, -1.0).to(g)
    weight = weight * torch.where(desirable, weight_desirable, weight_undesirable).to(g)
    gain = g - z0
    if getattr(utility, "sign_outside", False):
        x = beta * gain
        value = s * utility(x)
    else:
        x = s * beta * gain
        value = utility(x)
    # the mean over an example's dimensions is inside U, the mean over examples outside
    loss = (weight * (1 - value)).mean(-1)
    if not with_metrics:
        return loss, {}
    with torch.no_grad():
        metrics = {
            "reward_desirable": _mean_where(g, desirable),
            "reward_undesirable": _mean_where(g, ~desirable),
            "desirable": desirable.sum(-1),
            "satisfied": (s * gain > 0).to(g).mean(-1),
            "reference_point": torch.as_tensor(z0, device=g.device),
            "slope": slope(utility, x).mean(-1),
        } | _spread(beta * gain)
    return loss, metrics


def pairwise(
    winner_policy_error: Tensor,
    loser_policy_error: Tensor,
    winner_reference_error: Tensor,
    loser_reference_error: Tensor,
    *,
    utility: Utility = kahneman_tversky,
    beta: float | Tensor,
    with_metrics: bool = True,
) -> tuple[Tensor, Metrics]:
    """Any utility on pairs: mean of -U(x), x = 0.5 * beta * (g_w - g_l), over pairs of a winner and a loser.

    U = log sigmoid is Diffusion-DPO. A pair shares t and eps, and has no sign: sign_outside changes nothing.
    """
    g_w = _reward(winner_policy_error, winner_reference_error)
    g_l = _reward(loser_policy_error, loser_reference_error)
    x = 0.5 * beta * (g_w - g_l)
    loss = -utility(x).mean(-1)
    if not with_metrics:
        return loss, {}
    with torch.no_grad():
        metrics = {
            "reward_desirable": g_w.mean(-1),
            "reward_undesirable": g_l.mean(-1),
            "satisfied": (g_w > g_l).to(g_w).mean(-1),
            "slope": slope(utility, x).mean(-1),
        } | _spread(x)
    return loss, metrics


def diffusion_dpo(
    winner_policy_error: Tensor,
    loser_policy_error: Tensor,
    winner_reference_error: Tensor,
    loser_reference_error: Tensor,
    *,
    beta: float | Tensor,
    with_metrics: bool = True,
) -> tuple[Tensor, Metrics]:
    """Diffusion-DPO: mean of -log sigmoid(0.5 * beta * (g_w - g_l)) over pairs. Wallace et al. 2023,
    eq. 14, as published code scales it."""
    errors = (winner_policy_error, loser_policy_error, winner_reference_error, loser_reference_error)
    return pairwise(*errors, utility=loss_averse, beta=beta, with_metrics=with_metrics)


def smpo(
    winner_policy_error: Tensor,
    loser_policy_error: Tensor,
    winner_reference_error: Tensor,
    loser_reference_error: Tensor,
    winner_probability: Tensor,
    *,
    beta: float | Tensor,
    smpo_gamma: float = 10.0,
    with_metrics: bool = True,
) -> tuple[Tensor, Metrics]:
    """SmPO: Diffusion-DPO in which each pair has its own beta * (2 alpha - gamma), alpha = gamma * p.

    smpo_gamma is the paper's gamma, not the share of desirable examples. winner_probability p is the
    softmax of the pair's reward-model scores: p = 0.5 gives no gradient, p = 1 and smpo_gamma = 1 give
    Diffusion-DPO. The errors belong to points from inversion (toy.diffusion.invert), not from random
    noise. Lu et al. 2025.
    """
    pair_beta = (2 * smpo_gamma * _precise(winner_probability) - smpo_gamma) * beta
    errors = (winner_policy_error, loser_policy_error, winner_reference_error, loser_reference_error)
    return diffusion_dpo(*errors, beta=pair_beta, with_metrics=with_metrics)


def _precise(error: Tensor) -> Tensor:
    """float32 or better: one rounding step of float16 is 0.15 in the sigmoid at beta 5000."""
    return error.to(torch.promote_types(error.dtype, torch.float32))


def _reward(policy_error: Tensor, reference_error: Tensor) -> Tensor:
    """g = err_reference - err_policy."""
    return _precise(reference_error) - _precise(policy_error)


def _spread(x: Tensor) -> Metrics:
    """How far the input of the utility spreads. Too little, and any smooth utility is a straight line; too
    much, and many examples are saturated: they lie where a sigmoid is flat."""
    return {"spread": x.std(-1, correction=0), "saturated": (x.abs() > 4).to(x).mean(-1)}


def _mean_where(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the values under the mask, over the last axis; 0 where the mask is empty."""
    return torch.where(mask, values, 0).sum(-1) / mask.sum(-1).clamp(min=1)
