"""The tiny pipeline, judged along its training on votes: how good it is, and how far it has moved.

The votes are those of sd.tiny.votes. The learning rate rises for all LAST steps, so that a path starts gently
and goes far. (In toy.paths it falls again in the second half.)
"""

from functools import cache
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import Tensor
from tqdm import tqdm

from sd import models
from sd.config import Config
from sd.draw import draw
from sd.judging import score_pairs
from sd.pilot import settle
from sd.tiny import shapes, votes
from sd.tiny.runs import GUIDANCE, OBJECTIVES, load_result, save_result, shared_settings
from sd.trainer import digest, train
from toy.diffusion import add_noise
from toy.files import output_folder
from toy.objectives import OBJECTIVES as NEEDS
from toy.seeds import generator
from toy.utilities import load_utility

STEPS = (10, 20, 40, 60, 90, 120)  # at which a run is judged
LAST = STEPS[-1]
PUSH = {"lr": 4e-4, "warmup": LAST}
TUNING_SEED = 1000  # settings are chosen on this seed, which no run to judge has, and by other prompts
_order = torch.randperm(len(shapes.OPEN_SIZE), generator=generator("prompts", 0)).tolist()
TUNING, JUDGING = ([shapes.OPEN_SIZE[i].caption for i in part] * 2 for part in (_order[:20], _order[20:]))


class Judge:
    """Judges a policy by some prompts, beside the pipeline that it started from."""

    def __init__(self, model: str | Path, prompts: list[str], seed: int):
        pipeline, g = models.load(model), generator("probe", seed)
        self.prompts, self.seed, process = prompts, seed, models.process(pipeline)
        self.before = draw(pipeline, prompts, guidance=GUIDANCE, seed=seed, batch=40)
        x0, _ = models.encode_images(pipeline, self.before).chunk(2, 1)
        t = torch.randint(len(process), (len(x0),), generator=g)
        xt = add_noise(x0, t, torch.randn(x0.shape, generator=g), process)
        self.probe = xt, t, models.encode_text(pipeline, prompts)
        self.reference = self.predict(pipeline)

    @torch.no_grad()
    def predict(self, pipeline: DiffusionPipeline) -> Tensor:
        return models.predict(pipeline, *self.probe)

    def draw(self, pipeline: DiffusionPipeline, prefix: str) -> Tensor:
        prompts = [prefix + prompt for prompt in self.prompts]
        return draw(pipeline, prompts, guidance=GUIDANCE, seed=self.seed, batch=40)

    def measure(self, images: Tensor, prediction: Tensor) -> dict:
        """moved: root mean square difference between predictions of policy and reference, on noisy images.
        wins, wins_minority: mean probability that a judge of either kind prefers an image to the one before
        training from the same noise; 0 for an image that does not show what its prompt says. following: the
        share of images that do. left, large: what either kind of judge sees. flaw: see sd.tiny.shapes."""
        follows = shapes.follows(images, self.prompts).float()
        likes, before = votes.taste(images), votes.taste(self.before)
        wins = (votes.CERTAINTY * (likes - before)).sigmoid() * follows[:, None]
        moved = (prediction - self.reference).square().mean().sqrt()
        columns = {"moved": moved, "wins": wins[:, 0], "wins_minority": wins[:, 1], "following": follows}
        columns |= {"left": likes[:, 0], "large": likes[:, 1] / 2, "flaw": shapes.flaw(images)}
        return {name: column.mean().item() for name, column in columns.items()}


def walk(name: str, choice: dict, seed: int, model: str | Path, runs: Path, steps: int = LAST) -> list[dict]:
    """The path of an objective, or of a utility, with the settings that were chosen: a row for step 0 and for
    each of STEPS. A path that was walked before is not walked again."""
    config = configure(name, choice, seed, model, runs, steps)
    if load_result(config) is None:
        save_result(config, _measured(config, _judge(model, seed)))
    return [{"name": name, "seed": seed, **choice} | row for row in load_result(config)]


def auto(name: str, gamma: float, model: str | Path, runs: Path) -> dict:
    """The settings of a utility with this gamma and the beta that pilots find, on the tuning seed."""
    config = configure(name, {"beta": 0.0, "gamma": gamma}, TUNING_SEED, model, runs, LAST)
    beta = settle(config, lambda line: tqdm.write(f"{Path(name).name}, {line}")).beta
    return {"beta": beta, "gamma": gamma}


@cache
def _judge(model: str | Path, seed: int) -> Judge:
    return Judge(model, TUNING if seed == TUNING_SEED else JUDGING, seed)


def _measured(config: Config, judge: Judge) -> list[dict]:
    captions = config.run.needs.captions
    prefix, rows = captions[True] if captions else "", []
    for state in train(config):
        if state.step and state.step not in STEPS:
            continue
        with state.trainer.final() as pipeline:
            images = judge.draw(pipeline, prefix) if state.step else judge.before
            prediction = judge.predict(pipeline)
        rows.append({"step": state.step} | judge.measure(images, prediction) | watched(state.metrics or {}))
    return rows


def configure(name: str, choice: dict, seed: int, model: str | Path, runs: Path, steps: int) -> Config:
    """The settings of a run, with those that were chosen."""
    folder = "".join([Path(name).name.replace(":", "-"), *(f"-{k}-{v:g}" for k, v in choice.items())])
    if name not in OBJECTIVES:  # a file may change under its name
        folder += f"-{digest(load_utility(name))}"
    out = runs / f"{folder}-{seed}"
    scored = NEEDS[options(name)["objective"]].scores
    file = "pairs-left.csv" if scored else ""
    places = {"model": str(model), "data": str(feedback(model, runs) / file), "out": str(out)}
    often = {"steps": steps, "save_every": steps, "log_every": 10, "workers": 0}
    return Config(seed=seed, **shared_settings(model) | PUSH | options(name) | choice | places | often)


def options(name: str) -> dict:
    """The settings of an objective of the table, or those of Diffusion-KTO with another utility."""
    return OBJECTIVES.get(name) or {"objective": "diffusion_kto", "utility": name, "batch": 64}


def feedback(model: str | Path, runs: Path) -> Path:
    """The folder of the votes, which are drawn once. SmPO's scores are what the majority sees."""
    folder = output_folder(runs / "votes")
    if not (folder / "pairs-left.csv").exists():
        votes.write_votes(models.load(model), folder, GUIDANCE)
        score_pairs.main(str(folder), "left", None)
    return folder


def watched(metrics: dict[str, float]) -> dict[str, float]:
    """What training itself sees: the spread, and both rewards as shares of the reference's error."""
    if "spread" not in metrics:
        return {}
    error = metrics["reference_error"]
    rewards = {key: metrics[key] / error for key in ("reward_desirable", "reward_undesirable")}
    return {"spread": metrics["spread"]} | rewards
