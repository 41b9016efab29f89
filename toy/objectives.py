"""What can be optimised: one table of objectives, what each of them needs, and the settings of a run.

Everything else asks this table. To add an objective, write its loss in toy/losses.py, add a function
here that calls it, and give it a row in OBJECTIVES; toy/ and sd/ then train with it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from toy import losses
from toy.errors import InputError
from toy.utilities import Utility, kahneman_tversky

REFERENCE_POINTS = ("batch", "mismatched", "none")  # see toy.losses.reference_point


class LossInputs(NamedTuple):
    """What a loss is computed from, each (..., B). For an objective on pairs, the first half of B are
    winners and the second half, in the same order, their losers."""

    policy_error: Tensor
    reference_error: Tensor
    desirable: Tensor  # bool
    score: Tensor  # a reward model's, in [0, 1]; only SmPO reads it
    weight: Tensor  # of each example; only Diffusion-KTO reads it
    z0: Tensor  # the reference point: one number, or one for each run or example

    def pairs(self) -> tuple[Tensor, ...]:
        """Winner's and loser's policy error, then winner's and loser's reference error, (..., B / 2) each."""
        return (*self.policy_error.chunk(2, -1), *self.reference_error.chunk(2, -1))


@dataclass(frozen=True)
class Run:
    """The settings of one alignment. Raises InputError if one is out of range.

    Where runs share one call of their loss, beta, gamma and seed are columns (runs, 1).
    """

    objective: str = "diffusion_kto"  # one of OBJECTIVES
    utility: Utility = kahneman_tversky  # used by diffusion_kto and pairwise
    beta: float | Tensor = 4.0  # strength of the reward; unused by sft and csft
    gamma: float | Tensor = 0.8  # probability that an example is drawn from the desirable ones
    seed: int | Tensor = 0
    reference_point: str = "batch"  # what z0 is the mean reward of: one of REFERENCE_POINTS
    weight_desirable: float = 1.0
    weight_undesirable: float = 1.0

    def __post_init__(self):
        if self.objective not in OBJECTIVES:
            raise InputError(f"unknown objective '{self.objective}': use one of {', '.join(OBJECTIVES)}")
        if self.reference_point not in REFERENCE_POINTS:
            names = ", ".join(REFERENCE_POINTS)
            raise InputError(f"unknown reference point '{self.reference_point}': use one of {names}")
        beta, gamma = torch.as_tensor(self.beta), torch.as_tensor(self.gamma)
        if not ((beta > 0) & (beta < math.inf)).all():
            raise InputError(f"beta must be positive and finite, not {self.beta:g}")
        if not ((gamma >= 0) & (gamma <= 1)).all():
            raise InputError(f"gamma is a probability: it must be in [0, 1], not {self.gamma:g}")
        for name in ("weight_desirable", "weight_undesirable"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} must be at least 0 and finite, not {getattr(self, name):g}")
        if self.needs.pairs and self.needs.utility and getattr(self.utility, "sign_outside", False):
            raise InputError(
                f"{self.utility_name} is for likes and dislikes: pairs have no sign to put outside"
            )

    @property
    def needs(self) -> "Objective":
        """The row of its objective."""
        return OBJECTIVES[self.objective]

    @property
    def utility_name(self) -> str | None:
        """The utility's name, None for objectives that have none."""
        return getattr(self.utility, "__name__", type(self.utility).__name__) if self.needs.utility else None

    def loss(self, inputs: LossInputs, with_metrics: bool = True) -> tuple[Tensor, losses.Metrics]:
        """(loss, metrics) of the objective with these settings."""
        return self.needs.loss(self, inputs, with_metrics=with_metrics)

    def __str__(self) -> str:
        utility = f" with {self.utility_name}" if self.utility_name else ""
        return f"{self.objective}{utility}, beta {self.beta:g}, seed {self.seed}"


def _sft(run: Run, inputs: LossInputs, **options):
    return losses.sft(inputs.policy_error, inputs.desirable)


def _csft(run: Run, inputs: LossInputs, **options):
    return losses.csft(inputs.policy_error)


def _diffusion_kto(run: Run, inputs: LossInputs, **options):
    options["z0"] = 0.0 if run.reference_point == "none" else inputs.z0
    options |= {"weight_desirable": run.weight_desirable, "weight_undesirable": run.weight_undesirable}
    options["weight"] = inputs.weight
    errors = inputs.policy_error, inputs.reference_error
    return losses.diffusion_kto(*errors, inputs.desirable, utility=run.utility, beta=run.beta, **options)


def _pairwise(run: Run, inputs: LossInputs, **options):
    return losses.pairwise(*inputs.pairs(), utility=run.utility, beta=run.beta, **options)


def _diffusion_dpo(run: Run, inputs: LossInputs, **options):
    return losses.diffusion_dpo(*inputs.pairs(), beta=run.beta, **options)


def _smpo(run: Run, inputs: LossInputs, **options):
    winner, loser = inputs.score.chunk(2, -1)
    probability = torch.sigmoid(winner - loser)  # the softmax over two scores
    return losses.smpo(*inputs.pairs(), probability, beta=run.beta, **options)


@dataclass(frozen=True)
class Objective:
    """A row of the table: the loss, and what training must provide for it."""

    loss: Callable[..., tuple[Tensor, losses.Metrics]]  # (run, inputs, with_metrics=...)
    pairs: bool = False  # learns from pairs, not from likes and dislikes one by one
    undesirable: bool = True  # learns from undesirable examples too
    reference: bool = True  # compares the policy with its frozen reference
    reference_point: bool = False  # counts gains from a reference point z0
    utility: bool = False  # has a utility to choose
    scores: bool = False  # needs a reward model's scores
    inversion: bool = False  # takes its noise from inversion
    captions: tuple[str, ...] = ()  # what it writes before captions: (undesirable, desirable)


OBJECTIVES = {
    "sft": Objective(_sft, undesirable=False, reference=False),
    "csft": Objective(_csft, reference=False, captions=("bad image, ", "good image, ")),
    "diffusion_kto": Objective(_diffusion_kto, reference_point=True, utility=True),
    "pairwise": Objective(_pairwise, pairs=True, utility=True),
    "diffusion_dpo": Objective(_diffusion_dpo, pairs=True),
    "smpo": Objective(_smpo, pairs=True, scores=True, inversion=True),
}
