"""A training run, as a generator: it yields after every step, and the caller draws, logs, stops."""

import hashlib
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import InitProcessGroupKwargs
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors import SafetensorError
from torch.utils.data import DataLoader

from sd import checkpoints, models
from sd.align import Aligner, summarise
from sd.config import Config
from sd.draw import draw
from sd.feedback import cache, check
from sd.feedback.batches import Batches
from sd.feedback.index import find_csv, open_index
from toy.errors import InputError
from toy.files import output_folder, save_atomically, save_folder
from toy.objectives import LossInputs

# settings that do not change a run's numbers (compile: but for rounding)
MAY_CHANGE_ON_RESUME = (
    "model", "data", "out", "cache", "steps", "batch", "workers", "gradient_checkpointing", "compile",
    "log_every", "save_every", "keep", "tracker", "validate_every", "validation_prompts"
)  # fmt: skip


@dataclass
class State:
    """What happened in a step. `trainer` is live: it changes when the generator goes on."""

    step: int  # steps done
    metrics: dict[str, float] | None  # of the steps since the last ones, every log_every steps
    trainer: "Trainer"


class Trainer:
    """The models and the optimizer of a run, and its checkpoints. A run resumes from a checkpoint only if
    `settings` are the same."""

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
        trained = [(n, p) for n, p in self.aligner.unet.named_parameters() if p.requires_grad]
        self.names, self.weights = zip(*trained, strict=True)
        self.optimizer = accelerator.prepare_optimizer(make_optimizer(config, self.weights))
        self.ema = [w.detach().clone() for w in self.weights] if config.ema else None
        self.step = 0
        self.notes: list[str] = []  # what a person should know of utility and data

    def batches(self) -> Iterator[dict]:
        """The batches of the remaining steps, prepared ahead by other processes."""
        examples = Batches(self.cache, self.config, len(self.aligner.abar), self.accelerator.process_index)
        rest = range(self.step * self.config.accumulate, len(examples))
        pin = self.accelerator.device.type == "cuda"
        return iter(DataLoader(examples, None, sampler=rest, num_workers=self.config.workers, pin_memory=pin))

    def steps(self) -> Iterator[State]:
        """Train to the end, one step at a time. Raises InputError when loss or gradient is not finite: at
        most log_every steps later, and before such weights are saved."""
        config, accelerator, aligner = self.config, self.accelerator, self.aligner
        batches = self.batches()
        window: list[LossInputs] = []  # since the last log
        broken, since = torch.tensor(0, device=accelerator.device), time.perf_counter()
        while self.step < config.steps:
            lr = config.lr * min(1.0, (self.step + 1) / max(config.warmup, 1))
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            for k in range(config.accumulate):
                last = k == config.accumulate - 1
                with nullcontext() if last else accelerator.no_sync(aligner.policy):
                    loss, everyone = aligner.loss(aligner.receive(next(batches)))
                    accelerator.backward(loss / config.accumulate)
                window.append(everyone)
            norm = accelerator.clip_grad_norm_(self.weights, config.clip)
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.ema:
                decay = min(config.ema, (1 + self.step) / (10 + self.step))
                with torch.no_grad():
                    torch._foreach_lerp_(self.ema, list(self.weights), 1 - decay)
            self.step += 1
            # read only when logging or saving, because reading makes the device wait; in fp16 infinite
            # gradients are usual, and skipped
            health = sum(inputs.policy_error.sum() for inputs in window[-config.accumulate :])
            health = health + (0 if accelerator.scaler else norm)
            broken = torch.where((broken == 0) & ~health.isfinite(), self.step, broken)
            logging = self.step % config.log_every == 0
            saving = self.step % config.save_every == 0 or self.step == config.steps
            if (logging or saving) and broken:
                raise self.not_finite(int(broken))
            metrics = None
            if logging:
                metrics = summarise(config, window) | {"gradient_norm": float(norm), "lr": lr}
                if not math.isfinite(metrics["loss"]):
                    raise self.not_finite(self.step)
                images, seconds = (
                    sum(inputs.policy_error.numel() for inputs in window),
                    time.perf_counter() - since,
                )
                metrics["images_per_second"] = images / seconds
                window, since = [], time.perf_counter()
            if saving:
                self.save()
            yield State(self.step, metrics, self)

    def not_finite(self, step: int) -> InputError:
        last = checkpoints.latest(self.checkpoints)
        return InputError(
            f"the loss is not finite at step {step}: try a smaller --lr, another --beta or --precision fp32, "
            f"with another --out; nothing of that step is saved"
            + (f", the last checkpoint is {last}" if last else "")
        )

    def save(self) -> None:
        """Write a checkpoint of all that the next step depends on."""
        tensors = {f"policy.{n}": w for n, w in zip(self.names, self.weights, strict=True)}
        tensors |= {f"ema.{n}": w for n, w in zip(self.names, self.ema or (), strict=False)}
        tensors |= checkpoints.optimizer_tensors(self.optimizer.optimizer)
        state = {"settings": self.settings}
        if self.accelerator.scaler:
            state["scaler"] = self.accelerator.scaler.state_dict()
        if self.accelerator.is_main_process:
            checkpoints.save(self.checkpoints, self.step, tensors, state, self.config.keep)
        self.accelerator.wait_for_everyone()

    @torch.no_grad()
    def resume(self) -> None:
        """Go back to the last complete checkpoint, if any. Raises InputError if it belongs to another run."""
        path = checkpoints.latest(self.checkpoints)
        if not path:
            return
        tensors, state = checkpoints.load(path, self.settings)
        if state["step"] > self.config.steps:
            raise InputError(f"{path} is beyond --steps {self.config.steps}; choose another --out")
        for i, name in enumerate(self.names):
            self.weights[i].copy_(tensors[f"policy.{name}"])
            if self.ema:
                self.ema[i].copy_(tensors[f"ema.{name}"])
        checkpoints.restore_optimizer(self.optimizer.optimizer, tensors)
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]

    @contextmanager
    def final(self) -> Iterator[DiffusionPipeline]:
        """A context with the pipeline as it would be saved now: with the averaged weights, if any."""
        live = [w.detach().clone() for w in self.weights] if self.ema else []
        with torch.no_grad():
            for weight, average in zip(self.weights, self.ema or (), strict=False):
                weight.copy_(average)
            self.aligner.unet.eval()
            try:
                yield self.pipeline.to(self.accelerator.device)
            finally:
                for weight, value in zip(self.weights, live, strict=False):
                    weight.copy_(value)
                self.aligner.unet.train()
                if self.config.cached:
                    models.move_encoders(self.pipeline, "cpu")

    def picture(self, prompts: list[str]) -> Path:
        """Save a row of images of prompts, each from the same noise every time."""
        with self.final() as pipeline:
            images = draw(pipeline, prompts, batch=2)  # there is little memory beside the optimizer
        row = (255 * torch.cat(list(images), -1).permute(1, 2, 0)).round().byte().numpy()
        path = output_folder(self.out / "validation") / f"step-{self.step:08d}.png"
        return save_atomically(path, Image.fromarray(row).save)

    def export(self) -> Path:
        """Write the final weights as a plain diffusers pipeline loads them; the folder."""
        with self.final() as pipeline:
            try:
                return save_folder(
                    result_folder(self.config),
                    lambda path: models.save_weights(pipeline, self.aligner.unet, self.config, path),
                )
            except (OSError, SafetensorError) as error:
                last = checkpoints.latest(self.checkpoints)
                raise InputError(
                    f"cannot write {result_folder(self.config)}: {error}; {last} is kept: "
                    "make room and run the same command again"
                ) from error


def result_folder(config: Config) -> Path:
    return Path(config.out) / ("model" if config.tune == "full" else "lora")


def make_optimizer(config: Config, weights: tuple) -> torch.optim.Optimizer:
    options = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.optimizer == "adamw":
        return torch.optim.AdamW(weights, fused=True, **options)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise InputError("--optimizer adamw8bit needs bitsandbytes: pip install bitsandbytes") from error
    return AdamW8bit(weights, **options)


def settings(config: Config, processes: int) -> dict:
    """What a run's numbers depend on; the same for a run that is to be resumed."""
    values = {k: v for k, v in asdict(config).items() if k not in MAY_CHANGE_ON_RESUME}
    utility = [round(u, 5) for u in config.run.utility(torch.linspace(-8, 8, 33)).tolist()]
    values["digest of what the utility does"] = hashlib.sha256(str(utility).encode()).hexdigest()[:8]
    return values | {"batch of all processes": config.batch * processes}


def make_accelerator(config: Config) -> Accelerator:
    """The accelerator of a run. Raises InputError for a precision or a tracker that is not available."""
    if config.precision == "fp16" and not torch.cuda.is_available():
        raise InputError("--precision fp16 needs a GPU; on a CPU use bf16 or fp32")
    trackers = [str(tracker) for tracker in get_available_trackers()]
    if config.tracker and config.tracker not in trackers:
        here = ", ".join(trackers) or "none"
        raise InputError(f"--tracker {config.tracker} is unknown or not installed; available: {here}")
    AcceleratorState._reset_state()  # another run of this process may have had another precision
    precision = "no" if config.precision == "fp32" else config.precision
    try:
        return Accelerator(
            mixed_precision=precision,
            log_with=config.tracker or None,
            project_dir=config.out,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=12))],  # encoding takes hours
        )
    except ValueError as error:
        raise InputError(str(error).splitlines()[0]) from error


def train(config: Config) -> Iterator[State]:
    """A whole run, from its last checkpoint if there is one; the last state's trainer has the result."""
    accelerator = make_accelerator(config)
    if result_folder(config).resolve() == Path(config.model).resolve():
        raise InputError(f"--out {config.out} would put the result where --model is; choose another --out")
    output_folder(config.out)
    csv = find_csv(config.data, config.pairs)
    pipeline = models.load(config.model)
    if config.eps_weighting and not models.predicts_velocity(pipeline):
        raise InputError("--eps-weighting is for models that predict v; this one predicts eps")
    folder = output_folder(Path(config.cache or csv.parent / "cache") / csv.stem, "--cache")
    with accelerator.main_process_first():
        index = open_index(csv, folder, config.intersections)
    check.refuse_missing(index, config, accelerator.num_processes)
    models.move_encoders(pipeline, accelerator.device)
    examples = cache.build(config, pipeline, index, folder, accelerator)
    check.refuse_unusable(examples, config)
    if config.cached:  # from here on only pictures need them
        models.move_encoders(pipeline, "cpu")
    identity = settings(config, accelerator.num_processes)
    identity |= {"digest of the data": index.digest[:8], "digest of the model": models.digest(pipeline.unet)}
    trainer = Trainer(config, accelerator, pipeline, examples, identity)
    if accelerator.is_main_process:
        trainer.notes = check.report(examples, pipeline)
    trainer.resume()
    yield State(trainer.step, None, trainer)
    yield from trainer.steps()
