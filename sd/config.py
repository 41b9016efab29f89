"""The settings of a training run: a recipe in a TOML file, any setting overridden on the command line."""

import argparse
import tomllib
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path

from toy.cli import Parser
from toy.errors import InputError

RECIPES = Path(__file__).parent / "configs"
PRECISIONS = ("fp32", "bf16", "fp16")
CHOICES = {
    "reference_point": ("batch", "none"),
    "intersections": ("liked", "disliked", "left_out"),
    "crop": ("center", "random"),
    "tune": ("full", "lora"),
    "optimizer": ("adamw", "adamw8bit"),
    "precision": PRECISIONS,
}
# the smallest value of settings that are counts, and of those that may be 0
LOWEST = dict.fromkeys(
    ("lora_rank", "steps", "batch", "accumulate", "inversion_steps", "log_every", "save_every", "keep"), 1
) | dict.fromkeys(
    ("seed", "warmup", "workers", "validate_every", "weight_decay", "weight_desirable", "weight_undesirable"),
    0,
)


def setting(default, about: str, group: str = ""):
    """A field with its line of help; `group` is the heading under which this and the next ones stand."""
    return field(default=default, metadata={"help": about, "group": group})


@dataclass(frozen=True)
class Config:
    """One training run. Raises InputError for a setting that cannot be."""

    model: str = setting("", "folder of a Stable Diffusion pipeline (v1, v2 or XL), as diffusers saves it",
                         "model, data, result")  # fmt: skip
    data: str = setting("", "folder with feedback.csv (pairs.csv for objectives on pairs), or the CSV file")
    out: str = setting("", "folder for checkpoints, logs and the final weights")
    cache: str = setting("", "folder for encoded images and captions (the data folder's own 'cache')")

    objective: str = setting("diffusion_kto", "sft, csft, diffusion_kto, pairwise, diffusion_dpo or smpo",
                             "objective")  # fmt: skip
    utility: str = setting(
        "kahneman_tversky", "what diffusion_kto and pairwise maximise: a built-in name or file.py:name"
    )
    beta: float = setting(5000.0, "strength of the reward; choose it by the logged spread, beta * std(g)")
    gamma: float = setting(0.8, "probability that an example is drawn from the desirable ones")
    reference_point: str = setting("batch", "batch: the mean reward of the batch over all processes; or none")
    weight_desirable: float = setting(1.0, "weight of desirable examples (lambda_d)")
    weight_undesirable: float = setting(1.0, "weight of undesirable examples (lambda_u)")
    inversion_steps: int = setting(9, "for smpo: strides of the inversion, two model calls each")
    eps_weighting: bool = setting(
        False, "for models that predict v: measure errors in eps, so that a beta made for eps fits"
    )

    intersections: str = setting("liked", "what an image sometimes preferred is: liked, disliked or left_out",
                                 "examples")  # fmt: skip
    resolution: int = setting(0, "pixels of an image's side (0: the model's own)")
    crop: str = setting("center", "center, or random (needs --no-cached)")
    flip: bool = setting(False, "mirror half of the images")
    cached: bool = setting(True, "encode images and captions once, before training")
    skip_unreadable: bool = setting(
        False, "leave out images that cannot be read (or their pairs) instead of stopping"
    )
    prompt_dropout: float = setting(0.2, "probability that a caption is replaced by the empty one")
    workers: int = setting(2, "processes that prepare examples (0: none)")
    seed: int = setting(0, "seed of examples, noise, timesteps, dropout and adapters")

    tune: str = setting("full", "full: all weights of the UNet; lora: adapters on its attention", "training")
    lora_rank: int = setting(8, "rank of the adapters")
    steps: int = setting(10_000, "optimizer steps")
    batch: int = setting(2, "examples (images, or pairs) per step and process")
    accumulate: int = setting(1, "batches per optimizer step; each has a reference point of its own")
    lr: float = setting(1e-7, "learning rate")
    warmup: int = setting(1000, "steps over which the learning rate rises from 0; then it stays")
    weight_decay: float = setting(0.01, "weight decay of AdamW")
    clip: float = setting(1.0, "largest norm of the gradient")
    ema: float = setting(0.0, "decay of a running average of the weights, which is then saved (0: none)")
    optimizer: str = setting("adamw", "adamw, or adamw8bit (needs bitsandbytes)")
    precision: str = setting("bf16", "precision of the arithmetic: fp32, bf16 or fp16; weights stay in fp32")
    gradient_checkpointing: bool = setting(False, "less memory for a quarter more work")
    compile: bool = setting(
        False, "torch.compile: a slow start, then faster steps; policy and reference then differ by rounding"
    )

    log_every: int = setting(10, "steps between logged metrics", "log, checkpoints, pictures")
    save_every: int = setting(500, "steps between checkpoints")
    keep: int = setting(2, "number of checkpoints that are kept")
    tracker: str = setting("", "an accelerate tracker, such as tensorboard, beside log.jsonl")
    validate_every: int = setting(0, "steps between pictures of the validation prompts (0: never)")
    validation_prompts: tuple[str, ...] = setting((), "prompts, drawn from the same noise each time")

    def __post_init__(self):
        for name, values in CHOICES.items():
            if getattr(self, name) not in values:
                raise InputError(
                    f"{option(name)}: unknown '{getattr(self, name)}', use one of {', '.join(values)}"
                )
        for name, low in LOWEST.items():
            if not getattr(self, name) >= low:
                raise InputError(f"{option(name)} must be at least {low}, not {getattr(self, name):g}")
        if not 0 <= self.prompt_dropout <= 1:
            raise InputError(f"--prompt-dropout must be in [0, 1], not {self.prompt_dropout:g}")
        if not 0 <= self.ema < 1:
            raise InputError(f"--ema must be at least 0 and below 1, not {self.ema:g}")
        for name in ("lr", "clip"):
            if not getattr(self, name) > 0:
                raise InputError(f"{option(name)} must be above 0, not {getattr(self, name):g}")
        if self.cached and self.crop == "random":
            raise InputError(
                "random crops cannot be encoded in advance: add --no-cached, or use --crop center"
            )
        if self.validate_every and not self.validation_prompts:
            raise InputError("--validate-every needs --validation-prompts")
        for name in ("model", "data", "out"):
            if not getattr(self, name):
                raise InputError(f"--{name} is missing: {_about(name)} (or name a recipe that has it)")
        needs = self.run.needs  # reading it checks what toy.objectives.Run checks
        if self.utility != "kahneman_tversky" and not needs.utility:
            raise InputError(f"--utility is for objectives that have one; {self.objective} has none")

    def __getstate__(self) -> dict:
        """For other processes, which load the utility for themselves: functions of a file do not travel."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @cached_property
    def run(self):
        """The part that toy/ knows too: a toy.objectives.Run."""
        from toy.objectives import OBJECTIVES, Run  # here, so that --help does not wait for torch
        from toy.utilities import load_utility

        objective = OBJECTIVES.get(self.objective)
        return Run(
            objective=self.objective,
            utility=load_utility(self.utility),
            beta=self.beta,
            gamma=self.gamma if objective is None or objective.undesirable else 1.0,
            seed=self.seed,
            reference_point=self.reference_point,
            weight_desirable=self.weight_desirable,
            weight_undesirable=self.weight_undesirable,
        )

    @property
    def pairs(self) -> bool:
        return self.run.needs.pairs


def add_arguments(parser: Parser) -> None:
    """An optional recipe, and an option for every setting, in groups."""
    names = ", ".join(sorted(path.stem for path in RECIPES.glob("*.toml")))
    parser.add_argument("recipe", nargs="?", help=f"TOML file with settings, or one of {names}")
    for f in fields(Config):
        if f.metadata["group"]:
            group = parser.add_argument_group(f.metadata["group"])
        text = f"{f.metadata['help']} ({f.default})" if f.default not in ("", ()) else f.metadata["help"]
        if f.type is bool:
            group.add_argument(option(f.name), action=argparse.BooleanOptionalAction, help=text)
        elif f.type in (str, int, float):
            group.add_argument(option(f.name), type=f.type, metavar=f.type.__name__.upper(), help=text)
        else:
            group.add_argument(option(f.name), nargs="+", metavar="TEXT", help=text)


def configure(recipe: str | None = None, **options) -> Config:
    """The settings of a recipe (a TOML file, or a name in sd/configs), overridden by options. Raises
    InputError naming what is unknown or of the wrong kind."""
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    return Config(**(read_recipe(recipe) if recipe else {}) | options)


def read_recipe(name: str) -> dict:
    """The settings of a recipe. Raises InputError naming the file and the setting."""
    path = Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        names = ", ".join(sorted(recipe.stem for recipe in RECIPES.glob("*.toml")))
        raise InputError(f"no recipe '{name}': name a file that ends in .toml, or one of {names}") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: {error}") from error
    kinds = {f.name: f.type for f in fields(Config)}
    for key, value in values.items():
        if key not in kinds:
            raise InputError(f"{path}: unknown setting '{key}'; python -m sd train --help lists them")
        kind = kinds[key]
        if kind is float and type(value) is int:
            values[key] = float(value)
        elif kind not in (str, int, float, bool):
            if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
                raise InputError(f"{path}: {key} must be a list of texts, not {value!r}")
            values[key] = tuple(value)
        elif type(value) is not kind:
            raise InputError(f"{path}: {key} must be {kind.__name__}, not {value!r}")
    return values


def option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _about(name: str) -> str:
    return next(f.metadata["help"] for f in fields(Config) if f.name == name)
