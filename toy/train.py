"""Training in 2-D, as generators: they yield after every step, and the caller draws, logs, stops.

Every model is an ensemble of `runs` independent networks, so that many alignments (objectives,
betas, seeds) cost little more than their matrix products. A single run is an ensemble of one.
"""

import collections
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from toy import losses
from toy.batches import Batch, batches, denoising_error
from toy.data import Feedback, generator
from toy.diffusion import add_noise, eps_between, invert, linear_schedule, sample
from toy.errors import InputError
from toy.model import Denoiser, stack
from toy.optimizer import Adam
from toy.utilities import Utility, kahneman_tversky

ABAR = linear_schedule()
OBJECTIVES = ("sft", "csft", "diffusion_kto", "diffusion_dpo", "smpo")
REFERENCE_POINTS = ("batch", "mismatched", "none")
ALIGN_STEPS = 250
INVERSION_STEPS = 4  # enough in 2-D; published SmPO takes 9


@dataclass(frozen=True)
class Run:
    """The settings of one alignment. Raises InputError if one is out of range."""

    objective: str = "diffusion_kto"  # one of OBJECTIVES
    utility: Utility = kahneman_tversky  # used by diffusion_kto
    beta: float = 4.0  # how much a reward counts; unused by sft and csft
    gamma: float = 0.8  # probability that an example is drawn from the desirable ones
    seed: int = 0
    reference_point: str = "batch"  # where z0 comes from: one of REFERENCE_POINTS
    weight_desirable: float = 1.0
    weight_undesirable: float = 1.0

    def __post_init__(self):
        if self.objective not in OBJECTIVES:
            raise InputError(f"unknown objective '{self.objective}': one of {', '.join(OBJECTIVES)}")
        if self.reference_point not in REFERENCE_POINTS:
            names = ", ".join(REFERENCE_POINTS)
            raise InputError(f"unknown reference point '{self.reference_point}': one of {names}")
        if not 0 < self.beta < float("inf"):
            raise InputError(f"beta must be positive and finite, not {self.beta:g}")
        if not 0 <= self.gamma <= 1:
            raise InputError(f"gamma is a probability: it must be in [0, 1], not {self.gamma:g}")

    @property
    def paired(self) -> bool:
        return self.objective in ("diffusion_dpo", "smpo")

    def __str__(self) -> str:
        utility = f" with {self.utility.__name__}" if self.objective == "diffusion_kto" else ""
        return f"{self.objective}{utility}, beta {self.beta:g}, seed {self.seed}"


@dataclass
class State:
    """What happened in a step. `policy` is the live model: it changes when the generator goes on."""

    step: int  # steps done
    loss: Tensor  # (runs,)
    policy: Denoiser
    stopped: dict[int, str] = field(default_factory=dict)  # run -> why it was stopped
    parts: list[tuple[list[int], losses.Metrics]] = field(default_factory=list)

    def metrics(self, run: int = 0) -> dict[str, float]:
        """The loss's metrics for one run."""
        return {
            name: value.reshape(-1).expand(len(runs))[runs.index(run)].item()
            for runs, metrics in self.parts
            if run in runs
            for name, value in metrics.items()
        }


def last(states: Iterator):
    """Run a generator of states (or of samples) to its end; the last one."""
    return collections.deque(states, maxlen=1).pop()


def pretrain(
    points: Tensor, *, steps: int = 1000, batch: int = 256, lr: float = 2e-3, seed: int = 0
) -> Iterator[State]:
    """Train a denoiser from nothing on points (n, 2): mean squared error of eps, Adam, learning
    rate falling linearly to 0."""
    model = Denoiser([seed], timesteps=len(ABAR))
    model.center.copy_(points.mean(0))
    model.scale.copy_((points - model.center).square().mean().sqrt())
    x0 = model.encode(points)[0]
    optimizer = Adam(model.parameters())
    g = generator("pretrain", seed)
    for step in range(steps):
        index = torch.randint(len(x0), (1, batch), generator=g)
        t = torch.randint(len(ABAR), (1, batch), generator=g)
        eps = torch.randn(1, batch, 2, generator=g)
        loss = denoising_error(model, add_noise(x0[index], t, eps, ABAR), t, eps).mean(-1)
        loss.sum().backward()
        optimizer.step(lr * (1 - step / steps))
        yield State(step + 1, loss.detach(), model)


def align(
    pretrained: Denoiser | dict[int, Denoiser],
    feedback: Feedback | dict[int, Feedback],
    runs: list[Run],
    *,
    steps: int = ALIGN_STEPS,
    batch: int = 128,
    lr: float = 1e-3,
) -> Iterator[State]:
    """Align a pretrained model to feedback, once for every entry of `runs`, all at once.

    Model and feedback may be the same for all, or one for each seed, {seed: ...}. Adam, learning
    rate falling linearly to 0. Numerically the same as one run after the other. A run whose loss
    or gradient is not finite is stopped where it was, said in State.stopped, and the others go on.
    Raises InputError for a batch that cannot be.
    """
    seeds = list(dict.fromkeys(run.seed for run in runs))
    models = [pretrained[s] for s in seeds] if isinstance(pretrained, dict) else [pretrained]
    feedbacks = [feedback[s] for s in seeds] if isinstance(feedback, dict) else [feedback] * len(models)
    if len(models) == 1:
        models = models * len(feedbacks)
    _check(models, feedbacks, runs, batch)
    start_of = [seeds.index(run.seed) if len(models) > 1 else 0 for run in runs]
    references = stack(models)
    policy = references.select(start_of)
    optimizer = Adam(policy.parameters())
    condition = captions(runs)
    groups = _groups(runs)
    inverted = [i for i, run in enumerate(runs) if run.objective == "smpo"]
    mismatched = [i for i, run in enumerate(runs) if run.reference_point == "mismatched"]
    streams = [
        (start, run.seed, None if run.paired else run.gamma) for start, run in zip(start_of, runs, strict=True)
    ]
    stopped: dict[int, str] = {}
    for step, (now, unrelated) in zip(
        range(steps), batches(references, feedbacks, streams, batch, ABAR), strict=False
    ):
        if inverted:
            _invert(now, inverted, policy, references.select([start_of[i] for i in inverted]))
        caption = condition * (2.0 * now.desirable - 1)
        error = denoising_error(policy, now.xt, now.t, now.eps, caption)
        z0 = losses.reference_point(error, now.reference_error)
        if mismatched:
            z0[mismatched] = _mismatched(unrelated, mismatched, policy)
        loss, total, parts = torch.zeros(len(runs)), 0.0, []
        for members, run, beta in groups:
            group_loss, metrics = _loss(run, beta, error, z0, now, members)
            loss[members] = group_loss.detach()
            total = total + group_loss.sum()  # runs share no weights: the sum trains each alone
            parts.append((members, metrics))
        total.backward()
        _find_broken(loss, policy, runs, step, stopped)
        if stopped:
            optimizer.hold(list(stopped))
        optimizer.step(lr * (1 - step / steps))
        yield State(step + 1, loss, policy, stopped, parts)


def captions(runs: list[Run]) -> Tensor:
    """(runs, 1): 1 where a run is trained with captions "good" and "bad", 0 elsewhere. As it is,
    it is also what to sample with: the good caption."""
    return torch.tensor([[1.0 if run.objective == "csft" else 0.0] for run in runs])


def draw(
    model: Denoiser, n: int = 3500, *, condition: Tensor | float = 0.0, steps: int = 20, seed: int = 0
) -> Tensor:
    """Samples of every run, (runs, n, 2) in the data's units, by DDIM from the same noise."""
    noise = torch.randn(1, n, 2, generator=generator("draw", seed)).expand(model.runs, -1, -1)
    blocks = noise.split(max(64, 4096 // model.runs), dim=1)  # that stay in the processor's cache
    samples = [last(sample(lambda x, t: model(x, t, condition), xt, ABAR, steps)) for xt in blocks]
    return model.decode(torch.cat(samples, 1))


def _groups(runs: list[Run]) -> list[tuple[list[int], Run, Tensor]]:
    """Runs that differ in beta and seed only share a call of their loss: (members, run, beta)."""
    members = collections.defaultdict(list)
    for i, run in enumerate(runs):
        members[replace(run, beta=1.0, seed=0, gamma=0.5)].append(i)
    return [(m, run, torch.tensor([[runs[i].beta] for i in m])) for run, m in members.items()]


def _loss(
    run: Run, beta: Tensor, policy_error: Tensor, z0: Tensor, now: Batch, members: list[int]
) -> tuple[Tensor, losses.Metrics]:
    """Call the loss of a group of runs: (loss (members,), metrics)."""
    policy_error, reference_error = policy_error[members], now.reference_error[members]
    desirable = now.desirable[members]
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
            reference_point=0.0 if run.reference_point == "none" else z0[members][:, None],
            weight_desirable=run.weight_desirable,
            weight_undesirable=run.weight_undesirable,
        )
    pairs = (*policy_error.chunk(2, -1), *reference_error.chunk(2, -1))
    if run.objective == "diffusion_dpo":
        return losses.diffusion_dpo(*pairs, beta=beta)
    winner, loser = now.score[members].chunk(2, -1)
    return losses.smpo(*pairs, torch.sigmoid(winner - loser), beta=beta)  # softmax over the two


def _invert(now: Batch, runs: list[int], policy: Denoiser, reference: Denoiser) -> None:
    """SmPO: replace random noise by the noise that leads the current policy back to x0."""
    x0, t = now.x0[runs], now.t[runs]
    xt = invert(policy.select(runs), x0, t, ABAR, INVERSION_STEPS)
    eps = eps_between(xt, t, x0, ABAR)
    now.xt[runs], now.eps[runs] = xt, eps
    with torch.no_grad():
        now.reference_error[runs] = denoising_error(reference, xt, t, eps)


def _mismatched(unrelated: Batch, runs: list[int], policy: Denoiser) -> Tensor:
    """The reference point of examples that have nothing to do with the batch. Images have captions
    to roll; points have none, so their unrelated pairs are another step's batch."""
    with torch.no_grad():
        error = denoising_error(
            policy.select(runs), unrelated.xt[runs], unrelated.t[runs], unrelated.eps[runs]
        )
    return losses.reference_point(error, unrelated.reference_error[runs], clamp=False)


def _find_broken(loss: Tensor, policy: Denoiser, runs: list[Run], step: int, stopped: dict[int, str]) -> None:
    """Note the runs whose loss or gradient is not finite, before the step that would spoil them."""
    # a broken gradient of any example shows in the bias of the last layer
    health = loss + policy.bias3.grad.sum((1, 2))
    if not health.sum().isfinite():
        for i in (~health.isfinite()).nonzero().flatten().tolist():
            stopped.setdefault(i, f"{runs[i]}: the loss is not finite at step {step + 1}; this run stops here")


def _check(models: list[Denoiser], feedbacks: list[Feedback], runs: list[Run], batch: int) -> None:
    for model in models:
        if model.runs != 1:
            raise InputError(f"align starts from single models, this is an ensemble of {model.runs}: select([i])")
    for feedback in feedbacks:
        liked, n = int(feedback.desirable.sum()), len(feedback.desirable)
        if not 0 < liked < n:
            raise InputError(f"feedback needs liked and disliked points: {liked} of {n} are liked")
    if batch < 1 or (batch % 2 and any(run.paired for run in runs)):
        raise InputError(f"batch {batch}: it must be positive, and even for pairs")
