"""The settings of a training run: a recipe in a TOML file, any setting overridden on the command line."""

import argparse
import tomllib
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path

from toy.__main__ import Parser
from toy.errors import InputError
from toy.runs import Run
from toy.utilities import load_utility

# settings that may be 0; counts must be at least 1
ZERO = (
    "seed",
    "warmup",
    "workers",
    "validate_every",
    "weight_decay",
    "weight_desirable",
    "weight_undesirable",
)
RECIPES = Path(__file__).parent / "configs"


def setting(default, about: str):
    return field(default=default, metadata={"help": about})


@dataclass(frozen=True)
class Config:
    """One training run. Raises InputError for a setting that cannot be."""

    model: str = setting("", "folder of a Stable Diffusion pipeline (v1, v2 or XL), as diffusers saves it")
    data: str = setting("", "folder with feedback.csv (pairs.csv for objectives on pairs), or the CSV file")
    out: str = setting("", "folder for checkpoints, logs and the final weights")
    cache: str = setting("", "folder for encoded images and captions (the data folder's own 'cache')")

    objective: str = setting("diffusion_kto", "sft, csft, diffusion_kto, diffusion_dpo or smpo")
    utility: str = setting(
        "kahneman_tversky", "what diffusion_kto maximises: a built-in name or file.py:name"
    )
    beta: float = setting(5000.0, "how much a reward counts; choose it so that beta * std(g) is about 2 to 4")
    gamma: float = setting(0.8, "probability that an example is drawn from the desirable ones")
    reference_point: str = setting("batch", "batch: mean reward of the batch over all processes; or none")
    weight_desirable: float = setting(1.0, "weight of desirable examples (lambda_d)")
    weight_undesirable: float = setting(1.0, "weight of undesirable examples (lambda_u)")
    inversion_steps: int = setting(9, "smpo: strides of the inversion, two model calls each")
    eps_weighting: bool = setting(
        False, "v-prediction: count errors in eps, so that a beta for eps carries over"
    )
    intersections: str = setting("liked", "images sometimes preferred count as: liked, disliked, left_out")
    seed: int = setting(0, "of examples, noise, timesteps, dropout and adapters")

    resolution: int = setting(0, "pixels of an image's side (0: the model's own)")
    crop: str = setting("center", "center, or random (needs --no-cached)")
    flip: bool = setting(False, "mirror half of the images")
    cached: bool = setting(True, "encode images and captions once, before training")
    skip_unreadable: bool = setting(
        False, "leave out unreadable images (pairs as a whole) instead of stopping"
    )
    prompt_dropout: float = setting(0.2, "probability that a caption is replaced by the empty one")

    tune: str = setting("full", "full: all of the UNet's weights; lora: adapters on its attention")
    lora_rank: int = setting(8, "rank of the adapters")
    steps: int = setting(10_000, "optimizer steps")
    batch: int = setting(2, "examples (images, or pairs) per step and process")
    accumulate: int = setting(1, "batches per optimizer step; each has a reference point of its own")
    lr: float = setting(1e-7, "learning rate")
    warmup: int = setting(1000, "steps over which it rises from 0; then it stays")
    weight_decay: float = setting(0.01, "AdamW's weight decay")
    clip: float = setting(1.0, "largest norm of the gradient")
    ema: float = setting(0.0, "decay of the weights' running average, which is then what is saved (0: none)")
    optimizer: str = setting("adamw", "adamw, or adamw8bit (needs bitsandbytes)")
    precision: str = setting("bf16", "of the model's arithmetic: fp32, bf16 or fp16; weights stay in fp32")
    gradient_checkpointing: bool = setting(False, "less memory, a quarter more work")
    compile: bool = setting(
        False, "torch.compile: slow start, faster steps; policy and reference then differ by rounding"
    )
    workers: int = setting(2, "processes that prepare examples (0: none)")

    log_every: int = setting(10, "steps between logged metrics")
    save_every: int = setting(500, "steps between checkpoints")
    keep: int = setting(2, "how many checkpoints are kept")
    tracker: str = setting("", "an accelerate tracker, as tensorboard, beside log.jsonl")
    validate_every: int = setting(0, "steps between pictures of the validation prompts (0: never)")
    validation_prompts: tuple[str, ...] = setting((), "prompts, drawn from the same noise each time")

    def __post_init__(self):
        choices = {
            "reference_point": ("batch", "none"),
            "intersections": ("liked", "disliked", "left_out"),
            "crop": ("center", "random"),
            "tune": ("full", "lora"),
            "optimizer": ("adamw", "adamw8bit"),
            "precision": ("fp32", "bf16", "fp16"),
        }
        for name, values in choices.items():
            if getattr(self, name) not in values:
                raise InputError(
                    f"{option(name)}: unknown '{getattr(self, name)}', use one of {', '.join(values)}"
                )
        counts = (
            "lora_rank",
            "steps",
            "batch",
            "accumulate",
            "inversion_steps",
            "log_every",
            "save_every",
            "keep",
        )
        lowest = dict.fromkeys(counts, 1)
        lowest |= dict.fromkeys(ZERO, 0)
        for name, low in lowest.items():
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
        if self.utility != "kahneman_tversky" and self.objective != "diffusion_kto":
            raise InputError(f"--utility is for diffusion_kto; {self.objective} has none")
        for name in ("model", "data", "out"):
            if not getattr(self, name):
                raise InputError(f"--{name} is missing: {_about(name)} (or name a recipe that has it)")
        _ = self.run

    def __getstate__(self) -> dict:
        """For other processes, which load the utility for themselves: functions of a file do not travel."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @cached_property
    def run(self) -> Run:
        """The part that the toy knows too."""
        return Run(
            objective=self.objective,
            utility=load_utility(self.utility),
            beta=self.beta,
            gamma=1.0 if self.objective == "sft" else self.gamma,  # sft learns from desirable examples only
            seed=self.seed,
            reference_point_from=self.reference_point,
            weight_desirable=self.weight_desirable,
            weight_undesirable=self.weight_undesirable,
        )

    @property
    def paired(self) -> bool:
        return self.run.mix is None


def read(argv: list[str] | None = None, program: str = "python -m sd.train", about: str = "") -> Config:
    """The settings of a command line: an optional recipe (a TOML file, or a name in sd/configs), then
    options. Raises InputError naming what is unknown or of the wrong kind."""
    parser = Parser(program, description=about, argument_default=argparse.SUPPRESS, allow_abbrev=False)
    names = ", ".join(sorted(path.stem for path in RECIPES.glob("*.toml")))
    parser.add_argument("recipe", nargs="?", help=f"TOML file with settings, or one of {names}")
    for f in fields(Config):
        text = f"{f.metadata['help']} ({f.default})" if f.default != "" else f.metadata["help"]
        if f.type is bool:
            parser.add_argument(option(f.name), action=argparse.BooleanOptionalAction, help=text)
        elif f.type in (str, int, float):
            parser.add_argument(option(f.name), type=f.type, metavar=f.type.__name__.upper(), help=text)
        else:
            parser.add_argument(option(f.name), nargs="+", metavar="TEXT", help=text)
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in vars(parser.parse_args(argv)).items()}
    return Config(**(_recipe(given.pop("recipe")) if "recipe" in given else {}) | given)


def option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _about(name: str) -> str:
    return next(f.metadata["help"] for f in fields(Config) if f.name == name)


def _recipe(name: str) -> dict:
    path = Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        known = ", ".join(sorted(recipe.stem for recipe in RECIPES.glob("*.toml")))
        raise InputError(f"no recipe '{name}': name a file that ends in .toml, or one of {known}") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: {error}") from error
    kinds = {f.name: f.type for f in fields(Config)}
    for key, value in values.items():
        if key not in kinds:
            raise InputError(f"{path}: unknown setting '{key}'; python -m sd.train --help lists them")
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
