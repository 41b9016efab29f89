"""A training run, as a generator: it yields after every step, so that its caller can draw, log or stop."""

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors import SafetensorError
from torch.nn.utils import get_total_norm
from torch.utils.data import DataLoader
from transformers import Adafactor

from sd import checkpoints, models, sharding
from sd.align import Aligner, summarise
from sd.config import Config
from sd.draw import draw
from sd.feedback import cache, check
from sd.feedback.batches import Batches
from sd.machine import refuse_slow
from sd.start import announce, open_run, result_folder
from toy.errors import InputError
from toy.files import output_folder, save_atomically, save_folder
from toy.objectives import LossInputs
from toy.utilities import Utility

# settings that may differ when a run resumes: they do not change its numbers (compile: only by rounding)
MAY_CHANGE_ON_RESUME = (
    "model", "data", "out", "cache", "steps", "total_batch", "batch", "workers", "device", "shard",
    "compile", "gradient_checkpointing", "log_every", "save_every", "keep", "tracker", "validate_every",
    "validation_prompts"
)  # fmt: skip


@dataclass
class State:
    """The run after a step. `trainer` is the running one: its weights change when the generator goes on."""

    step: int  # number of steps so far
    metrics: dict[str, float] | None  # every log_every steps, over the steps since the last metrics
    trainer: "Trainer"
    inputs: list[LossInputs]  # of this step's batches, of all processes


class Trainer:
    """The models, optimizer and checkpoints of a run. It resumes only from a checkpoint with the same
    `settings`."""

    def __init__(
        self,
        config: Config,
        accelerator: Accelerator,
        pipeline: DiffusionPipeline,
        examples: cache.Cache,
        settings: dict,
    ):
        self.config, self.accelerator, self.pipeline = config, accelerator, pipeline
        self.cache, self.settings = examples, settings
        self.out = output_folder(config.out)
        self.checkpoints = self.out / "checkpoints"
        self.aligner = Aligner(pipeline, config, accelerator)
        weights = [(n, p) for n, p in self.aligner.denoiser.named_parameters() if p.requires_grad]
        self.names, self.weights = zip(*weights, strict=True)
        self.optimizer = accelerator.prepare_optimizer(make_optimizer(config, self.weights))
        self.ema = [w.detach().clone() for w in self.weights] if config.ema else []
        self.step = 0
        self.writer = ThreadPoolExecutor(1)  # writes checkpoints beside training
        self.writing: Future | None = None

    def batches(self) -> Iterator[dict]:
        """The batches of the remaining steps, prepared in advance by worker processes."""
        examples = Batches(self.cache, self.config, len(self.aligner.process), self.accelerator.process_index)
        rest = range(self.step * self.config.accumulate, len(examples))
        pin = self.accelerator.device.type == "cuda"
        return iter(DataLoader(examples, None, sampler=rest, num_workers=self.config.workers, pin_memory=pin))

    def steps(self) -> Iterator[State]:
        """Train to the end, one step at a time. Raises InputError if the loss or a gradient is not finite, at
        most log_every steps later and before such weights are saved."""
        config, accelerator, aligner = self.config, self.accelerator, self.aligner
        batches = self.batches()
        window: list[LossInputs] = []  # of all batches since the last metrics
        failure, since = torch.tensor(0, device=accelerator.device), time.perf_counter()
        while self.step < config.steps:
            lr = config.lr * min(1.0, (self.step + 1) / max(config.warmup, 1))
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            inputs: list[LossInputs] = []
            for k in range(config.accumulate):
                last = k == config.accumulate - 1
                with nullcontext() if last else accelerator.no_sync(aligner.policy):
                    loss, everyone = aligner.loss(aligner.receive(next(batches)))
                    accelerator.backward(loss / config.accumulate)
                inputs.append(everyone)
            window += inputs
            norm = sharding.whole(accelerator.clip_grad_norm_(self.weights, config.clip))
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.ema:
                decay = min(config.ema, (1 + self.step) / (10 + self.step))
                with torch.no_grad():
                    torch._foreach_lerp_(self.ema, list(self.weights), 1 - decay)
            self.step += 1
            if self.writing and self.writing.done():
                self.finish_writing()
            # `failure`, the first step that is not finite, is read only to log or save, because reading makes
            # the device wait; in fp16, infinite gradients are usual, and the scaler skips them
            health = sum(batch.policy_error.sum() for batch in inputs)
            health = health + (0 if accelerator.scaler else norm)
            failure = torch.where((failure == 0) & ~health.isfinite(), self.step, failure)
            log_due = self.step % config.log_every == 0
            save_due = self.step % config.save_every == 0 or self.step == config.steps
            if (log_due or save_due) and failure:
                raise self.not_finite(int(failure))
            metrics = None
            if log_due:
                metrics = summarise(config, window) | {"gradient_norm": float(norm), "lr": lr}
                if not math.isfinite(metrics["loss"]):
                    raise self.not_finite(self.step)
                images = sum(batch.policy_error.numel() for batch in window)
                metrics["images_per_second"] = images / (time.perf_counter() - since)
                window, since = [], time.perf_counter()
            yield State(self.step, metrics, self, inputs)
            if save_due:  # after the caller has logged the step, so that a resumed log lacks no row
                self.save()
        self.finish_writing()

    def not_finite(self, step: int) -> InputError:
        last = checkpoints.latest(self.checkpoints) or "none"
        advice = "try a smaller --lr, another --beta or --precision fp32, with another --out"
        return InputError(f"the loss is not finite at step {step}: {advice}; last checkpoint: {last}")

    def save(self) -> None:
        """Write a checkpoint with everything that the next step depends on, beside the next steps."""
        self.finish_writing()
        if not sharding.whole(get_total_norm(self.weights)).isfinite():
            raise self.not_finite(self.step)
        tensors = {f"policy.{n}": w for n, w in zip(self.names, self.weights, strict=True)}
        tensors |= {f"ema.{n}": w for n, w in zip(self.names, self.ema, strict=False)}
        tensors |= checkpoints.optimizer_tensors(self.optimizer.optimizer)
        tensors = sharding.gather(tensors, self.accelerator)
        state = {"settings": self.settings}
        if self.accelerator.scaler:
            state["scaler"] = self.accelerator.scaler.state_dict()
        if self.accelerator.is_main_process:
            arguments = self.checkpoints, self.step, tensors, state, self.config.keep
            self.writing = self.writer.submit(checkpoints.save, *arguments)

    def finish_writing(self) -> None:
        """Wait for the last checkpoint. Raises InputError if it could not be written."""
        if self.writing:
            self.writing.result()
            self.writing = None

    @torch.no_grad()
    def resume(self) -> None:
        """Load the last complete checkpoint, if any. Raises InputError if it belongs to another run."""
        path = checkpoints.latest(self.checkpoints)
        if not path:
            return
        shapes = {f"policy.{n}": w.shape for n, w in zip(self.names, self.weights, strict=True)}
        shapes |= {f"ema.{n}": w.shape for n, w in zip(self.names, self.ema, strict=False)}
        tensors, state = checkpoints.load(path, self.settings, shapes)
        if state["step"] > self.config.steps:
            raise InputError(f"{path} is beyond --steps {self.config.steps}; choose another --out")
        for i, name in enumerate(self.names):
            self.weights[i].copy_(sharding.part(tensors[f"policy.{name}"], self.weights[i]))
            if self.ema:
                self.ema[i].copy_(sharding.part(tensors[f"ema.{name}"], self.weights[i]))
        checkpoints.restore_optimizer(self.optimizer.optimizer, tensors)
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]

    @contextmanager
    def final(self, to_draw: bool = True) -> Iterator[DiffusionPipeline]:
        """A context with the pipeline as it would be saved: with the averaged weights, if --ema is on. To
        draw, all of it is moved to the device."""
        live = [w.detach().clone() for w in self.weights] if self.ema else []
        with torch.no_grad():
            for weight, average in zip(self.weights, self.ema, strict=False):
                weight.copy_(average)
            self.aligner.denoiser.eval()
            try:
                yield self.pipeline.to(self.accelerator.device) if to_draw else self.pipeline
            finally:
                for weight, value in zip(self.weights, live, strict=False):
                    weight.copy_(value)
                self.aligner.denoiser.train()
                if self.config.cached:
                    models.move_encoders(self.pipeline, "cpu")

    def picture(self, prompts: list[str]) -> Path:
        """Save a row of images, one per prompt. Each starts from the same noise every time."""
        # DDP's forward comes with autocast; that of a sharded model does not
        autocast = self.accelerator.autocast() if self.config.shard else nullcontext()
        with self.final() as pipeline, autocast:
            images = draw(pipeline, prompts, batch=2)  # the optimizer leaves little memory
        row = (255 * torch.cat(list(images), -1).permute(1, 2, 0)).round().byte().numpy()
        path = output_folder(self.out / "validation") / f"step-{self.step:08d}.png"
        if self.accelerator.is_main_process:
            save_atomically(path, Image.fromarray(row).save)
        return path

    def export(self) -> Path:
        """Write the final weights in the form that diffusers loads. Returns their folder."""
        folder, last = result_folder(self.config), checkpoints.latest(self.checkpoints)
        with (
            self.final(to_draw=False) as pipeline,
            sharding.whole_denoiser(pipeline, self.aligner.frame, self.accelerator),
        ):
            try:
                if self.accelerator.is_main_process:
                    save_folder(folder, partial(models.save_weights, pipeline, self.config))
                return folder
            except (OSError, SafetensorError) as error:
                text = f"make room and run the same command again, to resume from {last}"
                raise InputError(f"cannot write {folder}: {error}; {text}") from error


def make_optimizer(config: Config, weights: tuple) -> torch.optim.Optimizer:
    options = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.optimizer == "adamw":
        return torch.optim.AdamW(weights, fused=True, **options)
    # with the given rate, as in the published scripts
    return Adafactor(weights, scale_parameter=False, relative_step=False, **options)


def settings(config: Config, processes: int) -> dict:
    """What the numbers of a run depend on. A run resumes only if these are the same."""
    values = {k: v for k, v in asdict(config).items() if k not in MAY_CHANGE_ON_RESUME}
    values["digest of what the utility does"] = digest(config.run.utility)
    return values | {"batch of all processes": config.batch * processes}


def digest(utility: Utility) -> str:
    """Utilities that do the same have the same."""
    values = [round(u, 5) for u in utility(torch.linspace(-8, 8, 33)).tolist()]
    return hashlib.sha256(str(values).encode()).hexdigest()[:8]


def train(config: Config, tell: Callable[[str], None] = lambda line: None) -> Iterator[State]:
    """A whole run, from its last checkpoint if there is one. The last state's trainer has the result. What a
    person should know, the main process tells line by line."""
    config, accelerator, pipeline, examples = open_run(config)
    refuse_slow(config, accelerator, models.denoiser(pipeline))
    lines = announce(config, accelerator, examples)
    for line in lines if accelerator.is_main_process else ():
        tell(line)
    examples.encode(pipeline, accelerator)
    if config.cached:  # from here on, only pictures need the encoders
        models.move_encoders(pipeline, "cpu")
    identity = settings(config, accelerator.num_processes)
    identity |= {
        "digest of the data": examples.index.digest[:8],
        "digest of the model": models.digest(models.denoiser(pipeline)),
    }
    trainer = Trainer(config, accelerator, pipeline, examples, identity)
    for line in check.report(examples, pipeline) if accelerator.is_main_process else ():
        tell(f"data: {line}")
    trainer.resume()
    yield State(trainer.step, None, trainer, [])
    yield from trainer.steps()
