"""Training in 2-D, as generators: they yield after every step, and the caller draws, logs, stops.

Every model is an ensemble of `runs` independent networks, so that many alignments (objectives,
betas, seeds) cost little more than their matrix products. A single run is an ensemble of one.
"""

import collections
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from toy import losses
from toy.batches import Batch, batches, denoising_error
from toy.data import Feedback, generator
from toy.diffusion import add_noise, eps_between, invert, linear_schedule, sample
from toy.errors import InputError
from toy.model import Denoiser, stack
from toy.optimizer import Adam
from toy.runs import Run, call_loss, captions, groups

ABAR = linear_schedule()
PRETRAIN_STEPS = 1000
ALIGN_STEPS = 250


@dataclass
class State:
    """What happened in a step. `policy` is the live model: it changes when the generator goes on."""

    step: int  # steps done
    loss: Tensor  # (runs,)
    policy: Denoiser
    stopped: dict[int, str] = field(default_factory=dict)  # run -> why it was stopped
    watch: list[tuple[Tensor, Callable]] = field(default_factory=list)  # runs, what computes their metrics

    def metrics(self, run: int = 0) -> dict[str, float]:
        """The metrics of one run's loss (see toy.losses), computed now, because few steps are looked at."""
        for members, call in self.watch:
            if run in members:
                _, metrics = call(watch=True)
                place = members.tolist().index(run)
                return {k: v.reshape(-1).expand(len(members))[place].item() for k, v in metrics.items()}
        raise IndexError(f"no run {run}")


def last(states: Iterator):
    """Run a generator of states (or of samples) to its end; the last one."""
    return collections.deque(states, maxlen=1).pop()


def pretrain(
    points: Tensor, *, steps: int = PRETRAIN_STEPS, batch: int = 256, lr: float = 2e-3, seed: int = 0
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
    models = [pretrained[s] if isinstance(pretrained, dict) else pretrained for s in seeds]
    feedbacks = [feedback[s] if isinstance(feedback, dict) else feedback for s in seeds]
    _check(models, feedbacks, runs, batch)
    start_of = [seeds.index(run.seed) for run in runs]
    references = stack(models)
    policy = references.select(start_of)
    optimizer = Adam(policy.parameters())
    condition, captioned = captions(runs), any(run.objective == "csft" for run in runs)
    together = groups(runs)
    inverted = [i for i, run in enumerate(runs) if run.objective == "smpo"]
    mismatched = [i for i, run in enumerate(runs) if run.reference_point_from == "mismatched"]
    endless = batches(references, feedbacks, [(run.seed, run.mix) for run in runs], batch, ABAR)
    stopped: dict[int, str] = {}
    for step, (now, unrelated) in zip(range(steps), endless, strict=False):
        if inverted:
            _invert(now, inverted, policy, references.select([start_of[i] for i in inverted]))
        caption = condition * (2.0 * now.desirable - 1) if captioned else 0.0
        error = denoising_error(policy, now.xt, now.t, now.eps, caption)
        z0 = losses.reference_point(error, now.reference_error)
        if mismatched:
            z0[mismatched] = _mismatched(unrelated, mismatched, policy)
        loss, total, watch = error.new_zeros(len(runs)), 0.0, []
        for members, run, beta in together:
            seen = [v[members] for v in (now.reference_error, now.desirable, now.score, z0[:, None])]
            group_loss, _ = call_loss(run, beta, error[members], *seen, watch=False)
            loss[members] = group_loss.detach().to(loss)
            total = total + group_loss.sum()  # runs share no weights: the sum trains each alone
            watch.append((members, partial(call_loss, run, beta, error[members].detach(), *seen)))
        total.backward()
        _find_broken(loss, policy, runs, step, stopped)
        if stopped:
            optimizer.hold(list(stopped))
        optimizer.step(lr * (1 - step / steps))
        yield State(step + 1, loss, policy, stopped, watch)


def draw(
    model: Denoiser, n: int = 3500, *, condition: Tensor | float = 0.0, ddim_steps: int = 20, seed: int = 0
) -> Tensor:
    """Samples of every run, (runs, n, 2) in the data's units, by DDIM from the same noise."""
    noise = torch.randn(1, n, 2, generator=generator("draw", seed)).expand(model.runs, -1, -1)
    blocks = noise.split(max(64, 2048 // model.runs), dim=1)  # that stay in the processor's cache
    samples = [last(sample(lambda x, t: model(x, t, condition), xt, ABAR, ddim_steps)) for xt in blocks]
    return model.decode(torch.cat(samples, 1))


def _invert(now: Batch, runs: list[int], policy: Denoiser, reference: Denoiser) -> None:
    """SmPO: replace random noise by the noise that leads the current policy back to x0."""
    x0, t = now.x0[runs], now.t[runs]
    xt = invert(policy.select(runs), x0, t, ABAR)
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
            stopped.setdefault(i, f"{runs[i]}: loss not finite at step {step + 1}, stopped there")


def _check(models: list[Denoiser], feedbacks: list[Feedback], runs: list[Run], batch: int) -> None:
    for model in models:
        if model.runs != 1:
            raise InputError(f"align starts from one model, not {model.runs} at once: use select([i])")
    for feedback in feedbacks:
        liked, n = int(feedback.desirable.sum()), len(feedback.desirable)
        if not 0 < liked < n:
            raise InputError(f"feedback needs liked and disliked points: {liked} of {n} are liked")
    if batch < 1 or (batch % 2 and any(run.mix is None for run in runs)):
        raise InputError(f"batch {batch}: it must be positive, and even for pairs")
