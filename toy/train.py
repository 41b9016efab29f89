"""Training in 2-D, as generators: they yield after every step, and the caller draws, logs, stops.

This is toy/plain.py for many runs at once: the same loss and, on the same batch, the same step
(tests/test_plain.py). Three things make it fast. The weights of all runs lie side by side, so that a
step is a few large matrix products. Runs with the same seed share their batches and the reference's
errors. Runs that differ only in beta, gamma or seed share one call of their loss.
"""

import collections
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor

from toy import losses
from toy.batches import Batch, batches, denoising_error, stream_of
from toy.data import Feedback
from toy.diffusion import Process, add_noise, eps_between, invert, sample
from toy.errors import InputError
from toy.model import DIFFUSION, Denoiser, stack
from toy.objectives import LossInputs, Run
from toy.optimizer import Adam
from toy.seeds import generator
from toy.utilities import Utility

PRETRAIN_STEPS = 1000
ALIGN_STEPS = 250


@dataclass
class State:
    """What happened in a step. `policy` is the live model: it changes when the generator goes on."""

    step: int  # steps done
    loss: Tensor  # (runs,)
    policy: Denoiser
    stopped: dict[int, str] = field(default_factory=dict)  # run -> why it was stopped
    calls: list[tuple[list[int], Run, LossInputs]] = field(default_factory=list)  # runs, what they share

    def metrics(self, run: int = 0) -> dict[str, float]:
        """The metrics of one run's loss (see toy.losses) and the reference's mean error. Computed now, as
        few steps are looked at."""
        runs, settings, inputs = self._call(run)
        _, metrics = settings.loss(inputs)
        metrics["reference_error"] = inputs.reference_error.mean(-1)
        place = runs.index(run)
        return {k: v.reshape(-1).expand(len(runs))[place].item() for k, v in metrics.items()}

    def inputs(self, run: int = 0) -> LossInputs:
        """What one run's loss was computed from, (B,) each."""
        runs, _, inputs = self._call(run)
        return LossInputs(*(v[runs.index(run)].expand(inputs.desirable.shape[-1]) for v in inputs))

    def _call(self, run: int) -> tuple[list[int], Run, LossInputs]:
        for call in self.calls:
            if run in call[0]:
                return call
        raise IndexError(f"no run {run}")


def last(states: Iterator):
    """Run a generator of states (or of samples) to its end; the last one."""
    return collections.deque(states, maxlen=1).pop()


def pretrain(
    points: Tensor,
    *,
    process: Process = DIFFUSION,
    steps: int = PRETRAIN_STEPS,
    batch: int = 256,
    lr: float = 2e-3,
    seed: int = 0,
) -> Iterator[State]:
    """Train a denoiser from nothing on points (n, 2): mean squared error of what the process predicts,
    Adam, learning rate falling linearly to 0."""
    model = Denoiser([seed], process)
    model.center.copy_(points.mean(0))
    model.scale.copy_((points - model.center).square().mean().sqrt())
    x0 = model.encode(points)[0]
    optimizer = Adam(model.parameters())
    g = generator("pretrain", seed)
    for step in range(steps):
        index = torch.randint(len(x0), (1, batch), generator=g)
        t = torch.randint(len(process), (1, batch), generator=g)
        eps = torch.randn(1, batch, 2, generator=g)
        xt = add_noise(x0[index], t, eps, process)
        loss = denoising_error(model, x0[index], t, eps, xt).mean(-1)
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
    warmup: int = 0,
) -> Iterator[State]:
    """Align a pretrained model to feedback, once for every entry of `runs`, all at once.

    Model and feedback may be the same for all, or one for each seed, {seed: ...}. Adam, learning
    rate falling linearly to 0, and for `warmup` steps first rising. Numerically the same as one run
    after the other. A run whose loss or gradient is not finite is stopped before that step, with the
    reason in State.stopped, and the others go on. Raises InputError for a batch that cannot be.
    """
    seeds = list(dict.fromkeys(run.seed for run in runs))
    models = [pretrained[s] if isinstance(pretrained, dict) else pretrained for s in seeds]
    feedbacks = [feedback[s] if isinstance(feedback, dict) else feedback for s in seeds]
    _check(models, feedbacks, runs, batch)
    start_of = [seeds.index(run.seed) for run in runs]
    references = stack(models)
    policy = references.select(start_of)
    optimizer = Adam(policy.parameters())
    condition, captioned = captions(runs), any(run.needs.captions for run in runs)
    groups = list(group(runs))
    inverted = [i for i, run in enumerate(runs) if run.needs.inversion]
    their_references = references.select([start_of[i] for i in inverted])
    mismatched = [i for i, run in enumerate(runs) if run.reference_point == "mismatched"]
    endless = pairwise(batches(references, feedbacks, [stream_of(run) for run in runs], batch))
    stopped: dict[int, str] = {}
    for step, (examples, unrelated) in zip(range(steps), endless, strict=False):
        if inverted:
            _invert(examples, inverted, policy, their_references)
        caption = condition * (2.0 * examples.desirable - 1) if captioned else 0.0
        error = denoising_error(policy, examples.x0, examples.t, examples.eps, examples.xt, caption)
        z0 = losses.reference_point(error, examples.reference_error)
        if mismatched:
            z0[mismatched] = _mismatched(unrelated, mismatched, policy)
        loss, total, calls = error.new_zeros(len(runs)), 0.0, []
        for members, settings in groups:
            inputs = LossInputs(
                policy_error=error[members],
                reference_error=examples.reference_error[members],
                desirable=examples.desirable[members],
                score=examples.score[members],
                weight=examples.weight[members],
                z0=z0[members, None],
            )
            group_loss, _ = settings.loss(inputs, with_metrics=False)
            loss[members] = group_loss.detach().to(loss)
            total = total + group_loss.sum()  # runs share no weights: the sum trains each alone
            calls.append((members, settings, inputs._replace(policy_error=inputs.policy_error.detach())))
        total.backward()
        _find_broken(loss, policy, runs, step, stopped)
        if stopped:
            optimizer.hold(list(stopped))
        rise = min(1.0, (step + 1) / max(1, warmup))
        optimizer.step(lr * (1 - step / steps) * rise)
        yield State(step + 1, loss, policy, stopped, calls)


def draw(
    model: Denoiser, n: int = 3500, *, condition: Tensor | float = 0.0, steps: int = 20, seed: int = 0
) -> Tensor:
    """Samples of every run, (runs, n, 2) in the data's units, from the same noise."""
    noise = torch.randn(1, n, 2, generator=generator("draw", seed)).expand(model.runs, -1, -1)
    blocks = noise.split(max(64, 2048 // model.runs), dim=1)  # that stay in the processor's cache

    def predict(xt: Tensor, t: Tensor) -> Tensor:
        return model(xt, t, condition)

    samples = [last(sample(predict, xt, model.process, steps)) for xt in blocks]
    return model.decode(torch.cat(samples, 1))


def captions(runs: list[Run]) -> Tensor:
    """(runs, 1): 1 where a run is trained with the captions "good" and "bad", else 0. The same numbers
    ask for good samples afterwards."""
    return torch.tensor([[1.0 if run.needs.captions else 0.0] for run in runs])


def group(runs: list[Run]) -> Iterator[tuple[list[int], Run]]:
    """Runs that differ only in beta, gamma or seed share one loss call: (their numbers, settings in
    which beta, gamma and seed are columns with a row for each of them)."""
    members = collections.defaultdict(list)
    for i, run in enumerate(runs):
        # by identity, since a utility need not be hashable
        members[replace(run, beta=1.0, gamma=0.5, seed=0, utility=id(run.utility))].append(i)
    for numbers in members.values():
        columns = {
            k: torch.tensor([[getattr(runs[i], k)] for i in numbers]) for k in ("beta", "gamma", "seed")
        }
        yield numbers, replace(runs[numbers[0]], utility=_for_many(runs[numbers[0]].utility), **columns)


def _for_many(utility: Utility) -> Utility:
    """A utility of x (B,) as one of x (runs, B)."""

    def judge(x: Tensor) -> Tensor:
        return utility(x.flatten()).view_as(x)

    judge.sign_outside = getattr(utility, "sign_outside", False)
    return judge


def _invert(examples: Batch, runs: list[int], policy: Denoiser, reference: Denoiser) -> None:
    """SmPO: replace random noise by the noise that leads the current policy back to x0."""
    x0, t = examples.x0[runs], examples.t[runs]
    xt = invert(policy.select(runs), x0, t, policy.process)
    eps = eps_between(xt, t, x0, policy.process)
    examples.xt[runs], examples.eps[runs] = xt, eps
    with torch.no_grad():
        examples.reference_error[runs] = denoising_error(reference, x0, t, eps, xt)


def _mismatched(unrelated: Batch, runs: list[int], policy: Denoiser) -> Tensor:
    """The reference point of examples that have nothing to do with the batch. Images have captions
    to roll; points have none, so their unrelated pairs are the next step's batch."""
    with torch.no_grad():
        examples = (v[runs] for v in (unrelated.x0, unrelated.t, unrelated.eps, unrelated.xt))
        error = denoising_error(policy.select(runs), *examples)
    return losses.reference_point(error, unrelated.reference_error[runs], clamp=False)


def _find_broken(loss: Tensor, policy: Denoiser, runs: list[Run], step: int, stopped: dict[int, str]) -> None:
    """Note the runs whose loss or gradient is not finite, before the step that would spoil them."""
    *_, output_bias = policy.parameters()  # a broken gradient of any example shows there
    health = loss + output_bias.grad.flatten(1).sum(1)
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
    if batch < 1 or (batch % 2 and any(run.needs.pairs for run in runs)):
        raise InputError(f"batch {batch}: it must be positive, and even for objectives on pairs")
