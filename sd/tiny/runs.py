"""Runs that teach the tiny pipeline a preference with an objective; a finished run is not done again."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from sd.config import Config, read_recipe
from sd.tiny import shapes
from toy.files import output_folder, save_json

PIPELINE = Path(__file__).parent / "pipeline"  # the committed one
PIPELINE_SD3 = Path(__file__).parent / "pipeline-sd3"  # and the committed Stable Diffusion 3
PIPELINES = {"unet": PIPELINE, "sd3": PIPELINE_SD3}
GUIDANCE = 3.0  # at which it follows prompts best
OBJECTIVES = {
    "kahneman_tversky": {"objective": "diffusion_kto", "utility": "kahneman_tversky", "batch": 64},
    "loss_averse": {"objective": "diffusion_kto", "utility": "loss_averse", "batch": 64},
    "risk_seeking_bounded": {"objective": "diffusion_kto", "utility": "risk_seeking_bounded", "batch": 64},
    "sft": {"objective": "sft", "batch": 64},
    "csft": {"objective": "csft", "batch": 64},
    "diffusion_dpo": {"objective": "diffusion_dpo", "batch": 32},  # pairs, so 64 images too
    "smpo": {"objective": "smpo", "batch": 32},
}
SHARED = ("beta", "gamma", "timesteps", "lr", "warmup", "precision")  # by all objectives of a recipe
STEPS = {"red": 90, "large": 40}


def shared_settings(model: str | Path) -> dict:
    """What the runs of all objectives have in common, from the recipe for this tiny pipeline."""
    recipe = read_recipe("tiny-sd3" if (Path(model) / "transformer").exists() else "tiny")
    return {key: recipe[key] for key in SHARED if key in recipe}


def configure(name: str, preference: str, seed: int, model: str | Path, runs: Path) -> Config:
    """The settings of a run. Its folder is in `runs`; the likes and dislikes, too, are written there once."""
    data = output_folder(runs / f"{preference}-data")
    if not (data / "prompts.txt").exists():
        shapes.write_feedback(data, preference)
    out, steps = runs / f"{preference}-{name}-{seed}", STEPS[preference]
    places = {"model": str(model), "data": str(data), "out": str(out)}
    often = {"steps": steps, "save_every": steps, "log_every": max(1, steps // 5), "workers": 0}
    return Config(seed=seed, **shared_settings(model), **OBJECTIVES[name], **places, **often)


def load_result(config: Config) -> list[dict] | None:
    """The rows of a finished run with the same settings. If there is none, the run's folder is removed."""
    file = Path(config.out) / "result.json"
    if file.exists():
        content = json.loads(file.read_text())
        if content["settings"] == json.loads(json.dumps(asdict(config))):
            return content["rows"]
    shutil.rmtree(config.out, ignore_errors=True)
    return None


def save_result(config: Config, rows: list[dict]) -> None:
    """Save the rows of a finished run, and remove its checkpoints."""
    shutil.rmtree(Path(config.out) / "checkpoints")
    save_json(Path(config.out) / "result.json", {"settings": asdict(config), "rows": rows})
