"""The policy, its reference, and the loss between them: the losses of toy/ on denoising errors of images."""

import math
from contextlib import nullcontext
from functools import partial

import torch
from accelerate import Accelerator
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from sd import models
from sd.batches import Batch
from sd.config import Config
from toy.diffusion import add_noise, eps_between, invert, velocity
from toy.losses import reference_point
from toy.runs import call_loss


class Aligner:
    """What one step computes. `policy` is trained; `unet` is the same without wrappers."""

    def __init__(self, pipeline: DiffusionPipeline, config: Config, accelerator: Accelerator):
        self.pipeline, self.config, self.accelerator = pipeline, config, accelerator
        self.abar = pipeline.scheduler.alphas_cumprod.float().to(accelerator.device)
        self.velocity = models.predicts_velocity(pipeline)
        self.compares = config.objective not in ("sft", "csft")
        self.unet, self.reference = models.policy_and_reference(pipeline.unet, config, self.compares)
        memory = torch.channels_last if accelerator.device.type == "cuda" else torch.contiguous_format
        for model in filter(None, (self.unet, self.reference)):
            model.to(accelerator.device, memory_format=memory)
            if config.compile:
                model.compile()
        self.policy = accelerator.prepare_model(self.unet)

    def measure(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss of this process's batch, with its gradient; and what all processes saw, (1, n, 5) or for
        pairs (2, n, 5), winners and losers: policy and reference error, desirable, score, reference point."""
        run, desirable, score = self.config.run, batch["desirable"], batch["score"]
        policy_error, reference_error = self.errors(batch)
        mine = torch.stack([policy_error.detach(), reference_error, desirable, score], -1)
        sides = 2 if self.config.paired else 1
        everyone = self.accelerator.gather(mine[None]).unflatten(1, (sides, -1)).transpose(0, 1).flatten(1, 2)
        z0 = reference_point(*everyone[..., :2].flatten(0, 1).unbind(-1))
        loss, _ = call_loss(run, run.beta, policy_error, reference_error, desirable, score, z0, watch=False)
        return loss, torch.cat([everyone, z0.expand(*everyone.shape[:2], 1)], -1)

    def errors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Denoising errors (B,) of policy and reference, at the same noisy images, in float32."""
        x0, t, eps = batch["x0"], batch["t"], batch["eps"]
        condition = {k: batch[k] for k in ("text", "pooled", "sizes") if k in batch}
        if self.config.objective == "smpo":
            seen = partial(models.predict_eps, condition=condition, abar=self.abar, velocity=self.velocity)
            with self.accelerator.autocast():
                xt = invert(partial(seen, self.unet), x0, t, self.abar, self.config.inversion_steps)
            eps = eps_between(xt, t, x0, self.abar)
        else:
            xt = add_noise(x0, t, eps, self.abar)
        target = velocity(x0, t, eps, self.abar) if self.velocity else eps
        weight = self.abar[t] if self.config.eps_weighting and self.velocity else 1.0

        def error(unet: nn.Module) -> Tensor:
            # an autocast of its own: weights rounded without gradient must not serve a pass with gradient
            with self.accelerator.autocast():
                out = models.predict(unet, xt, t, condition)
            return weight * (out - target).square().mean((1, 2, 3))

        policy_error = error(self.policy)
        if not self.compares:
            return policy_error, policy_error.detach()
        off = nullcontext() if self.reference is not None else models.without_adapters(self.unet)
        with torch.no_grad(), off:
            return policy_error, error(self.reference if self.reference is not None else self.unet)

    def receive(self, batch: Batch) -> Batch:
        """A batch on this device, encoded if the cache did not."""
        move = {"device": self.accelerator.device, "non_blocking": True}
        batch = {k: v.to(**move) if isinstance(v, Tensor) else v for k, v in batch.items()}
        if "pixels" in batch:
            mean, deviation = models.encode_images(self.pipeline, batch.pop("pixels")).chunk(2, 1)
            batch["x0"] = mean + deviation * batch.pop("noise")
            batch |= models.encode_text(self.pipeline, batch.pop("captions"))
        return batch


def watch(config: Config, seen: list[Tensor]) -> dict[str, float]:
    """The metrics of toy.losses over all that was seen, and the standard deviation of the rewards."""
    policy_error, reference_error, desirable, score, z0 = torch.cat(seen, 1).flatten(0, 1).unbind(-1)
    run = config.run
    loss, metrics = call_loss(run, run.beta, policy_error, reference_error, desirable > 0, score, z0)
    metrics = {"loss": loss} | {k: v.float().mean() for k, v in metrics.items()}
    metrics["std_g"] = (reference_error - policy_error).std(correction=0)
    return dict(zip(metrics, torch.stack(list(metrics.values())).tolist(), strict=True))


def advice(config: Config, metrics: dict[str, float]) -> str:
    """What to change when rewards are too strong or too weak to learn from, in words; else nothing."""
    spread = metrics.get("spread", 0.0)
    if not 0 < spread < math.inf or 0.1 <= spread <= 10:
        return ""
    better = 3 * config.beta / spread
    if spread > 10:
        weak = f"{metrics['saturated']:.0%} of examples hardly pull any more"
        return f"beta * std(g) is {spread:.0f}: {weak}; try --beta {better:.2g}"
    straight = "where a utility is a straight line"
    return f"beta * std(g) is {spread:.1g}, {straight}; try --beta {better:.2g} or more steps"
