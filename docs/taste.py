"""Whose taste counts? Two groups who like different things answer, and a model learns from all their answers
at once: python docs/taste.py

The majority likes the left third of a world and the minority the right third; nobody likes the middle. The
script measures the share of samples that each group would like. It takes about 5 minutes of CPU time, and
writes figures/taste.json.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from toy import data
from toy.__main__ import CACHE
from toy.files import output_folder, save_json
from toy.objectives import Run
from toy.pretrained import pretrained
from toy.seeds import generator
from toy.train import align, draw, last
from toy.utilities import UTILITIES

FIGURES = Path(__file__).parent.parent / "figures"
SEEDS, SAMPLES, SHARES = range(10), 1000, (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
EDGES = {"grid": (-0.4, 0.4), "figure6": (0.41, 0.58)}  # of the thirds, from left to right
NAMES = ("kahneman_tversky", "loss_averse", "risk_seeking_bounded")
RUNS = [("sft", Run("sft")), *((name, Run(utility=UTILITIES[name])) for name in NAMES)]
# Kahneman-Tversky with about the spread of beta * g that loss-averse has at beta 4, and the other way round
OTHER_BETAS = {"kahneman_tversky": 1.0, "loss_averse": 16.0}
OTHERS = [(name, Run(utility=UTILITIES[name], beta=beta)) for name, beta in OTHER_BETAS.items()]


def answers(world: data.World, minority: float, seed: int) -> data.Feedback:
    """4000 points, each judged by one person, who is of the minority with this probability."""
    g = generator("taste", seed)
    x0 = world.base(4000, g)
    theirs = torch.rand(4000, generator=g) < minority
    liked = torch.where(theirs, x0[:, 0] > EDGES[world.name][1], x0[:, 0] < EDGES[world.name][0])
    return data.Feedback(x0, liked, score=liked.float())


def measure(name: str) -> Iterator[dict]:
    """A row for each run, share of the minority and seed: the share of samples that each group would like."""
    world, edges = data.WORLDS[name](), EDGES[name]
    everything = world.base(10_000, generator("share", 0))
    low, high = everything.min(0).values, everything.max(0).values  # what has left the data pleases nobody
    models = {seed: pretrained(world, seed, output_folder(CACHE)) for seed in SEEDS}

    def row(points: torch.Tensor, **about) -> dict:
        points = points[((points >= low) & (points <= high)).all(1)]
        liked = {"majority": points[:, 0] < edges[0], "minority": points[:, 0] > edges[1]}
        return {"world": name, **about, **{k: v.sum().item() / SAMPLES for k, v in liked.items()}}

    for seed, model in models.items():
        yield row(draw(model, SAMPLES)[0], name="pretrained", beta=None, share=None, seed=seed)
    for share in tqdm(SHARES, name):
        feedback = {seed: answers(world, share, seed) for seed in SEEDS}
        named = [*RUNS, *(OTHERS if share == 0.2 else [])]
        seeded = [(n, replace(run, seed=seed)) for n, run in named for seed in SEEDS]
        policy = last(align(models, feedback, [run for _, run in seeded])).policy
        for (n, run), points in zip(seeded, draw(policy, SAMPLES), strict=True):
            yield row(points, name=n, beta=run.beta, share=share, seed=run.seed)


if __name__ == "__main__":
    save_json(FIGURES / "taste.json", {"rows": [row for name in EDGES for row in measure(name)]})
