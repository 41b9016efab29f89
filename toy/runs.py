"""What can be run: the settings of one alignment, and the loss they call."""

from collections import defaultdict
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from toy import losses
from toy.errors import InputError
from toy.utilities import Utility, kahneman_tversky

OBJECTIVES = ("sft", "csft", "diffusion_kto", "diffusion_dpo", "smpo")
REFERENCE_POINTS = ("batch", "mismatched", "none")  # see toy.losses.reference_point


@dataclass(frozen=True)
class Run:
    """The settings of one alignment. Raises InputError if one is out of range."""

    objective: str = "diffusion_kto"  # one of OBJECTIVES
    utility: Utility = kahneman_tversky  # used by diffusion_kto
    beta: float = 4.0  # how much a reward counts; unused by sft and csft
    gamma: float = 0.8  # probability that an example is drawn from the desirable ones
    seed: int = 0
    reference_point_from: str = "batch"  # what z0 is the mean reward of: one of REFERENCE_POINTS
    weight_desirable: float = 1.0
    weight_undesirable: float = 1.0

    def __post_init__(self):
        if self.objective not in OBJECTIVES:
            raise InputError(f"unknown objective '{self.objective}': one of {', '.join(OBJECTIVES)}")
        if self.reference_point_from not in REFERENCE_POINTS:
            names = ", ".join(REFERENCE_POINTS)
            raise InputError(f"unknown reference point '{self.reference_point_from}': one of {names}")
        if not 0 < self.beta < float("inf"):
            raise InputError(f"beta must be positive and finite, not {self.beta:g}")
        if not 0 <= self.gamma <= 1:
            raise InputError(f"gamma is a probability: it must be in [0, 1], not {self.gamma:g}")

    @property
    def mix(self) -> float | None:
        """What its batches hold: gamma of desirable examples, or None for pairs."""
        return None if self.objective in ("diffusion_dpo", "smpo") else self.gamma

    @property
    def utility_name(self) -> str | None:
        """The utility's name, None for objectives that have none."""
        if self.objective != "diffusion_kto":
            return None
        return getattr(self.utility, "__name__", type(self.utility).__name__)

    def __str__(self) -> str:
        utility = f" with {self.utility_name}" if self.utility_name else ""
        return f"{self.objective}{utility}, beta {self.beta:g}, seed {self.seed}"


def captions(runs: list[Run]) -> Tensor:
    """(runs, 1): 1 where a run is trained with captions "good" and "bad", 0 elsewhere. As it is,
    it is also what to sample with: the good caption."""
    return torch.tensor([[1.0 if run.objective == "csft" else 0.0] for run in runs])


def groups(runs: list[Run]) -> list[tuple[Tensor, Run, Tensor]]:
    """Runs that differ in beta, gamma and seed only share a call of their loss: (members, run, beta)."""
    members = defaultdict(list)
    for i, run in enumerate(runs):
        members[replace(run, beta=1.0, seed=0, gamma=0.5)].append(i)
    return [(torch.tensor(m), run, torch.tensor([[runs[i].beta] for i in m])) for run, m in members.items()]


def call_loss(
    run: Run,
    beta: float | Tensor,
    policy_error: Tensor,
    reference_error: Tensor,
    desirable: Tensor,
    score: Tensor,
    z0: Tensor,
    watch: bool = True,
) -> tuple[Tensor, losses.Metrics]:
    """The loss that a run's settings name, on (..., B) errors: (loss, metrics).

    For the losses on pairs the first half of B are winners and, in the same order, the second half
    losers; score is then what a reward model gives each (used by smpo), else it is not read.
    """
    if run.objective == "sft":
        return losses.sft(policy_error, desirable)
    if run.objective == "csft":
        return losses.csft(policy_error)
    if run.objective == "diffusion_kto":
        return losses.diffusion_kto(
            policy_error,
            reference_error,
            desirable,
            utility=run.utility,
            beta=beta,
            reference_point=0.0 if run.reference_point_from == "none" else z0,
            weight_desirable=run.weight_desirable,
            weight_undesirable=run.weight_undesirable,
            watch=watch,
        )
    pairs = (*policy_error.chunk(2, -1), *reference_error.chunk(2, -1))
    if run.objective == "diffusion_dpo":
        return losses.diffusion_dpo(*pairs, beta=beta, watch=watch)
    winner, loser = score.chunk(2, -1)
    probability = torch.sigmoid(winner - loser)  # the softmax over two scores
    return losses.smpo(*pairs, probability, beta=beta, watch=watch)
