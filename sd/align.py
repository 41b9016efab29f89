"""The policy, its reference, and their loss: a loss of toy/, computed from the denoising errors of images."""

import copy
from dataclasses import replace

import torch
from accelerate import Accelerator
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from sd import models, sharding
from sd.config import Config
from sd.families import CONDITION, Condition, family
from sd.feedback.batches import Batch
from sd.feedback.images import to_unit
from toy.diffusion import add_noise, eps_between, error_weight, move_up, split, stride, target
from toy.losses import reference_point
from toy.objectives import LossInputs


class Aligner:
    """What one step computes. `denoiser` is trained; `policy` is the same, inside DDP if that is used."""

    def __init__(self, pipeline: DiffusionPipeline, config: Config, accelerator: Accelerator):
        self.pipeline, self.config, self.accelerator = pipeline, config, accelerator
        self.process = models.process(pipeline).to(accelerator.device)
        self.denoiser, self.reference = models.policy_and_reference(models.denoiser(pipeline), config)
        self.family = family(self.denoiser)
        memory = torch.channels_last if accelerator.device.type == "cuda" else torch.contiguous_format
        # see sharding.whole_denoiser
        self.frame = copy.deepcopy(self.denoiser).to("meta") if config.shard else None
        for model in filter(None, (self.denoiser, self.reference)):
            if config.shard:  # which refuses channels_last
                sharding.split(model, accelerator)
            else:
                model.to(accelerator.device, memory_format=memory)
            if config.compile:
                model.compile()
        self.policy = self.denoiser if config.shard else accelerator.prepare_model(self.denoiser)

    def loss(self, batch: Batch) -> tuple[Tensor, LossInputs]:
        """The loss of this process's batch, with gradient, and the inputs of all processes, (n,) each,
        without. The reference point is the mean reward over all processes."""
        policy_error, reference_error = self.errors(batch)
        z0 = torch.zeros_like(reference_error)  # the real one needs the errors of all processes
        given = (batch[name] for name in ("desirable", "score", "weight"))
        inputs = LossInputs(policy_error, reference_error, *given, z0)
        everyone = self.gather(inputs)
        z0 = reference_point(everyone.policy_error, everyone.reference_error)
        if self.config.reference_point == "mismatched" and self.config.run.needs.reference_point:
            z0 = self.mismatched(batch)
        loss, _ = self.config.run.loss(inputs._replace(z0=z0), with_metrics=False)
        return loss, everyone._replace(z0=z0.expand_as(everyone.z0))

    @torch.no_grad()
    def mismatched(self, batch: Batch) -> Tensor:
        """The mean reward of the images of all processes, each with the caption of the one before."""
        rolled, rank = dict(batch), self.accelerator.process_index
        for name in batch.keys() & {"text", "pooled", "t5"}:
            everyone = self.accelerator.gather(batch[name])
            rolled[name] = everyone.roll(1, 0).chunk(self.accelerator.num_processes)[rank]
        errors = self.accelerator.gather(torch.stack(self.errors(rolled), -1))
        return reference_point(*errors.unbind(-1), clamp=False)

    def gather(self, inputs: LossInputs) -> LossInputs:
        """The inputs of all processes, without gradient."""
        rows = torch.stack([column.detach().float() for column in inputs], -1)  # one message instead of six
        parts = self.accelerator.gather(rows).chunk(self.accelerator.num_processes)
        everyone = join([LossInputs(*part.unbind(-1)) for part in parts], self.config.pairs)
        return everyone._replace(desirable=everyone.desirable > 0)

    def errors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Denoising errors (B,) of policy and reference, at the same noisy images, in float32."""
        x0, t, eps, process = batch["x0"], batch["t"], batch["eps"], self.process
        condition = {name: batch[name] for name in CONDITION if name in batch}
        if self.config.run.needs.inversion:
            xt = self.noise_by_inversion(x0, t, condition)
            eps = eps_between(xt, t, x0, process)
        else:
            xt = add_noise(x0, t, eps, process)
        goal, space = target(x0, t, eps, process), self.config.error_space
        weight = 1.0 if space == "own" else error_weight(space, t, process)

        def error(model: nn.Module) -> Tensor:
            # one autocast per pass: weights that it cached without gradient would get none in the next pass
            with self.accelerator.autocast():
                prediction = self.family.predict(model, xt, t, condition, process)
            return weight * (prediction - goal).square().mean((1, 2, 3))

        policy_error = error(self.policy)
        if not self.config.run.needs.reference:
            return policy_error, policy_error.detach()
        with torch.no_grad():
            if self.reference is not None:
                return policy_error, error(self.reference)
            with models.without_adapters(self.denoiser):
                return policy_error, error(self.denoiser)

    @torch.no_grad()
    def noise_by_inversion(self, x0: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The noisy images at t that lead back to x0, by strides whose number is in proportion to t: an
        example with fewer of them leaves the batch earlier."""
        steps, end = self.config.inversion_steps, len(self.process)
        strides = ((t + 1) * steps + end - 1) // end  # rounded up
        xt = x0.clone()
        # a model of v is asked for eps, since the inversion takes means of predictions at two timesteps
        turns = self.process.predicts == "v"
        process = replace(self.process, predicts="eps") if turns else self.process
        # what is sharded must be asked by all processes equally often; strides after the last stay at t
        most = steps if self.config.shard else int(strides.max())
        for k in range(most):
            rows = (strides > k).nonzero()[:, 0] if (strides > k).any() else strides.argmax()[None]
            theirs = {name: value[rows] for name, value in condition.items()}

            def ask(xt: Tensor, t: Tensor, theirs: Condition = theirs) -> Tensor:
                out = self.family.predict(self.denoiser, xt, t, theirs, process)
                return split(out, xt, t, self.process)[1] if turns else out

            ends = (stride(t[rows], strides[rows].clamp(max=i), strides[rows]) for i in (k, k + 1))
            with self.accelerator.autocast():
                xt[rows] = move_up(ask, xt[rows], *ends, process)
        return xt

    def receive(self, batch: Batch) -> Batch:
        """The batch on this device; without a cache, its images and captions are encoded here."""
        device = self.accelerator.device
        batch = {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}
        if "pixels" in batch:
            mean, deviation = models.encode_images(self.pipeline, to_unit(batch.pop("pixels"))).chunk(2, 1)
            batch["x0"] = mean + deviation * batch.pop("noise")
            batch |= models.encode_text(self.pipeline, batch.pop("captions"))
        return batch


def join(parts: list[LossInputs], pairs: bool) -> LossInputs:
    """Several batches as one. With pairs, winners come first in each batch, and so they do in the result."""
    sides = 2 if pairs else 1
    columns = zip(*parts, strict=True)
    return LossInputs(*(torch.cat([v.view(sides, -1) for v in column], 1).flatten() for column in columns))


def summarise(config: Config, batches: list[LossInputs]) -> dict[str, float]:
    """The metrics of toy.losses over several batches together, and the standard deviation of the rewards."""
    inputs = join(batches, config.pairs)
    loss, metrics = config.run.loss(inputs)
    metrics = {"loss": loss} | {k: v.float().mean() for k, v in metrics.items()}
    metrics["reference_error"] = inputs.reference_error.mean()
    metrics["std_g"] = (inputs.reference_error - inputs.policy_error).std(correction=0)
    return dict(zip(metrics, torch.stack(list(metrics.values())).tolist(), strict=True))
