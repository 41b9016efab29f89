"""The settings of a training run: a recipe in a TOML file, and options that override it."""

import argparse
import math
import tomllib
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path

from toy.cli import Parser, is_main_process
from toy.errors import InputError

RECIPES = Path(__file__).parent / "configs"
RECIPE_NAMES = ", ".join(sorted(path.stem for path in RECIPES.glob("*.toml")))
MOST = 99_999_999  # steps: the names of checkpoints have 8 digits
PRECISIONS = ("fp32", "bf16", "fp16")
CHOICES = {
    "reference_point": ("batch", "mismatched", "none"),
    "sizes": ("own", "fixed"),
    "error_space": ("own", "eps", "x0"),
    "timesteps": ("uniform", "logit_normal"),
    "device": ("auto", "cpu"),
    "intersections": ("liked", "disliked", "left_out"),
    "crop": ("center", "random"),
    "tune": ("full", "lora"),
    "optimizer": ("adamw", "adafactor"),
    "precision": PRECISIONS,
}


def setting(default, about: str, group: str = "", low: float = 0, high: float = MOST):
    """A field with its line of help and, for a number, its lowest and highest value. In --help, `group` is
    the heading above this setting and those that follow it."""
    return field(default=default, metadata={"help": about, "group": group, "low": low, "high": high})


@dataclass(frozen=True)
class Config:
    """One training run. Raises InputError naming a setting that is missing or has an impossible value."""

    model: str = setting(
        "", "folder of a diffusers pipeline (SD v1, v2, XL, 3 or 3.5)", "model, data, result"
    )
    data: str = setting("", "folder with feedback.csv (pairs.csv for objectives on pairs), or a CSV file")
    out: str = setting("", "folder for checkpoints, logs and the final weights")
    cache: str = setting("", "folder for encoded images and captions ('cache' in the data folder)")

    objective: str = setting(
        "diffusion_kto", "sft, csft, diffusion_kto, pairwise, diffusion_dpo or smpo", "objective"
    )
    utility: str = setting("kahneman_tversky", "for diffusion_kto, pairwise: a built-in name or file.py:name")
    beta: float = setting(
        5000.0, "strength of the reward, which should give a logged spread of about 1; auto: from pilots"
    )
    gamma: float = setting(0.8, "probability that an example is drawn from the desirable ones", high=1)
    reference_point: str = setting(
        "batch",
        "batch: the mean reward of all processes' images; mismatched: of these with other captions; none: 0",
    )
    weight_desirable: float = setting(1.0, "weight of desirable examples (lambda_d)")
    weight_undesirable: float = setting(1.0, "weight of undesirable examples (lambda_u)")
    inversion_steps: int = setting(
        9, "for smpo: strides of an inversion over all of t, two model calls each", low=1, high=1000
    )
    error_space: str = setting(
        "own",
        "what errors are measured in: own (what the model predicts: eps, v, a flow's velocity), eps or x0",
    )
    timesteps: str = setting(
        "uniform", "how timesteps are drawn: uniform, or logit_normal (more often in the middle)"
    )

    intersections: str = setting("liked", "images that won and lost: liked, disliked or left_out", "examples")
    threshold: str = setting("median", "images with a rating from here on are liked: median, or a number")
    rating_weight: float = setting(0.0, "for ratings: c in an image's weight 1 + c * abs(rating - threshold)")
    resolution: int = setting(0, "side of an image in pixels (0: the model's own)", high=16384)
    crop: str = setting("center", "center, or random (needs --no-cached)")
    sizes: str = setting(
        "own", "for SDXL, the size it is told: own, of each image with its crop; or fixed, the resolution"
    )
    flip: bool = setting(False, "mirror half of the images")
    cached: bool = setting(True, "encode images and captions once, before training")
    skip_unreadable: bool = setting(False, "leave out unreadable images and their pairs instead of stopping")
    prompt_dropout: float = setting(0.2, "probability that a caption is replaced by the empty one", high=1)
    workers: int = setting(2, "processes that prepare examples (0: none)", high=256)
    seed: int = setting(0, "seed of examples, noise, timesteps, dropout and adapters", high=2**32 - 1)

    tune: str = setting(
        "full", "full: all weights of the UNet or transformer; lora: adapters on its attention", "training"
    )
    lora_rank: int = setting(8, "rank of the adapters", low=1, high=4096)
    steps: int = setting(10_000, "optimizer steps", low=1)
    total_batch: int = setting(
        0, "examples (images, or pairs) of a step, over all processes; batch and accumulate follow from it"
    )
    batch: int = setting(
        0, "examples in a batch of one process (0: follows from --total-batch; without it, 2)", high=4096
    )
    accumulate: int = setting(0, "batches a step, each with a reference point of its own (0: follows, or 1)")
    lr: float = setting(1e-7, "learning rate", low=1e-12, high=10)
    warmup: int = setting(1000, "steps over which the learning rate rises from 0; then it stays")
    weight_decay: float = setting(0.01, "weight decay", high=100)
    clip: float = setting(1.0, "largest norm of the gradient", low=1e-9)
    ema: float = setting(0.0, "decay of the average of the weights that is saved (0: none)", high=0.999999)
    optimizer: str = setting("adamw", "adamw, or adafactor, which needs less memory")
    precision: str = setting(
        "bf16", "precision of the arithmetic: fp32, bf16 or fp16; trained weights are fp32"
    )
    device: str = setting("auto", "auto: a GPU where there is one; or cpu, for a large model too")
    gradient_checkpointing: bool = setting(False, "less memory for a quarter more work")
    compile: bool = setting(False, "slow start, then faster steps; policy and reference differ by rounding")
    shard: bool = setting(False, "split weights, gradients and optimizer state over the processes (FSDP)")

    log_every: int = setting(10, "steps between logged metrics", "log, checkpoints, pictures", low=1)
    save_every: int = setting(500, "steps between checkpoints", low=1)
    keep: int = setting(2, "number of checkpoints that are kept", low=1)
    tracker: str = setting("", "an accelerate tracker, such as tensorboard, beside log.jsonl")
    validate_every: int = setting(0, "steps between pictures of the validation prompts (0: never)")
    validation_prompts: tuple[str, ...] = setting((), "prompts, drawn from the same noise each time")

    def __post_init__(self):
        for f in fields(self):
            value, choices = getattr(self, f.name), CHOICES.get(f.name)
            low, high = f.metadata["low"], f.metadata["high"]  # of a number
            if choices and value not in choices:
                raise InputError(f"{option(f.name)}: unknown '{value}', use one of {', '.join(choices)}")
            if f.type in (int, float) and not low <= value <= high:
                raise InputError(f"{option(f.name)} must be between {low} and {high}, not {value}")
            if f.type is str and "\0" in value:
                raise InputError(f"{option(f.name)} has a zero byte in '{value}'")
            if f.name in ("model", "data", "out") and not value:
                about = f.metadata["help"]
                raise InputError(f"{option(f.name)} is missing: {about} (or name a recipe that sets it)")
        if self.cached and self.crop == "random":
            raise InputError("random crops cannot be encoded in advance: use --no-cached or --crop center")
        if self.shard and self.optimizer != "adamw":
            raise InputError(f"--shard works with --optimizer adamw only, not {self.optimizer}")
        try:
            if self.threshold != "median" and not math.isfinite(float(self.threshold)):
                raise ValueError("not finite")
        except ValueError as error:
            raise InputError(f"--threshold must be median or a number, not '{self.threshold}'") from error
        if self.validate_every and not self.validation_prompts:
            raise InputError("--validate-every needs --validation-prompts")
        needs = self.run.needs  # making the Run checks its settings
        if not self.beta and needs.pairs:
            raise InputError(f"--beta auto learns from likes; {self.objective} needs a number")
        if self.utility != "kahneman_tversky" and not needs.utility:
            raise InputError(f"--utility is for objectives that have one; {self.objective} has none")

    def __getstate__(self) -> dict:
        """For other processes: the settings only. They load the utility themselves, since a function from a
        file cannot be pickled."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @cached_property
    def run(self):
        """The settings that toy/ has too, as its Run."""
        from toy.objectives import OBJECTIVES, Run  # here, so that --help does not wait for torch
        from toy.utilities import load_utility

        settings = {f.name: getattr(self, f.name) for f in fields(Run)}
        settings["utility"] = load_utility(self.utility)
        settings["beta"] = self.beta or 1.0  # auto is 0, and sd.pilot puts a number in its place
        if self.objective in OBJECTIVES and not OBJECTIVES[self.objective].undesirable:
            settings["gamma"] = 1.0  # it draws desirable examples only
        return Run(**settings)

    def shared_by(self, processes: int) -> "Config":
        """These settings with the batch and accumulate that so many processes need for the total batch.
        Raises InputError if there are none."""
        total, batch, accumulate = self.total_batch, self.batch, self.accumulate
        if total and batch:
            accumulate = accumulate or total // (batch * processes)
        elif total:
            accumulate = accumulate or 1
            batch = total // (accumulate * processes)
        else:
            batch, accumulate = batch or 2, accumulate or 1
        product = batch * accumulate * processes
        if total and product != total:
            parts = f"--batch {batch or 1} x --accumulate {accumulate or 1} x {processes} (processes)"
            raise InputError(f"--total-batch {total} is not {parts}: change one of them")
        return replace(self, total_batch=product, batch=batch, accumulate=accumulate)

    @property
    def pairs(self) -> bool:
        return self.run.needs.pairs


def add_arguments(parser: Parser) -> None:
    """Add an optional recipe, and an option for every setting, in groups."""
    parser.add_argument("recipe", nargs="?", help=f"TOML file with settings, or one of {RECIPE_NAMES}")
    for f in fields(Config):
        if f.metadata["group"]:
            group = parser.add_argument_group(f.metadata["group"])
        text = f"{f.metadata['help']} ({f.default})" if f.default not in ("", ()) else f.metadata["help"]
        if f.type is bool:
            options = {"action": argparse.BooleanOptionalAction}
        elif f.type in (str, int, float):
            options = {"type": _beta if f.name == "beta" else f.type, "metavar": f.type.__name__.upper()}
        else:
            options = {"nargs": "+", "metavar": "TEXT"}
        group.add_argument(option(f.name), help=text, **options)


def configure(recipe: str | None = None, **options) -> Config:
    """The settings of a recipe (a TOML file, or a name in sd/configs), overridden by options. Prints which
    options the objective does not read; recipes are often shared by several objectives."""
    settings = (read_recipe(recipe) if recipe else {}) | options
    config = Config(**{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()})
    needs = config.run.needs
    reads = {"beta": needs.reference, "gamma": needs.undesirable and not needs.pairs}
    reads |= {"inversion_steps": needs.inversion, "reference_point": needs.reference_point}
    reads["rating_weight"] = needs.reference_point  # of the same objective
    for name, value in options.items() if is_main_process() else ():
        if not reads.get(name, True) and value != getattr(Config, name):  # its default
            print(f"note: {option(name)} changes nothing, since {config.objective} does not read it")
    return config


def read_recipe(name: str) -> dict:
    """The settings of a recipe. Raises InputError naming the file, and a setting that is unknown or of the
    wrong type."""
    path = Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
    try:
        if path.stat().st_size > 2**20:
            raise ValueError("larger than a megabyte")
        values = tomllib.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError as error:
        raise InputError(f"no recipe '{name}': name a .toml file, or one of {RECIPE_NAMES}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: {error}") from error
    types = {f.name: f.type for f in fields(Config)}
    for key, value in values.items():
        if key not in types:
            raise InputError(f"{path}: unknown setting '{key}'; python -m sd train --help lists them")
        if key == "beta" and value == "auto":
            values[key] = 0.0
        elif types[key] is float and type(value) is int and abs(value) < 2**63:
            values[key] = float(value)
        elif types[key] in (str, int, float, bool):
            if type(value) is not types[key]:
                raise InputError(f"{path}: {key} must be {types[key].__name__}, not {type(value).__name__}")
        elif not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise InputError(f"{path}: {key} must be a list of texts")
    return values


def _beta(text: str) -> float:
    """A number above 0; auto is 0."""
    value = 0.0 if text == "auto" else float(text)
    if value == 0 and text != "auto":
        raise argparse.ArgumentTypeError("0 is no strength: give a number above 0, or auto")
    return value


_beta.__name__ = "number or auto"  # as argparse names it in an error


def option(name: str) -> str:
    return "--" + name.replace("_", "-")
