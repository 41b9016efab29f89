"""Quality against how far a policy has moved: early on utilities are alike, and later some break.

This measures it in the plane; toy/breaks.py says where a path breaks. At step 0, the reference, moved is 0.
"""

import math
from itertools import chain

import torch
from torch import Tensor
from tqdm import tqdm

from toy.data import World
from toy.diffusion import add_noise, target
from toy.files import output_folder
from toy.metrics import compare, judge
from toy.model import Denoiser, stack
from toy.seeds import generator
from toy.study import Named, ensembles, prepared, settings_of
from toy.train import State, align, captions, draw

STEPS, POINTS, SAMPLES, PROBE = 500, 10, 1000, 500


def paths(
    world: World,
    runs: Named,
    seeds: range,
    cache: str,
    process: str = "diffusion",
    steps: int = STEPS,
    flipped: float = 0.0,
) -> list[dict]:
    """Align each run for every seed and judge it on its way: a row for each name, seed and step.

    `moved`: root mean square difference between the predictions of policy and reference, on noisy points of
    the pretraining data. `reward_desirable`, `reward_undesirable`: 1 - mean error / the reference's, on fresh
    points of the class. `spread`: beta * std(g), nan without a beta. The learning rate rises for half of the
    steps, so that a path starts gently and goes far, and then falls, which settles what is unsettled there.
    """
    folder, rows, calls = output_folder(cache, "--cache"), [], ensembles(runs, seeds)
    marks = {0} | {round(steps * 80 ** (k / (POINTS - 1) - 1)) for k in range(POINTS)}  # even in log(step)
    with tqdm(total=len(calls) * steps, desc=f"paths, {world.name}", unit="step") as bar:
        for seeded in calls:
            models, feedback = prepared(world, seeded, folder, flipped, process)
            plain, before = [run for _, run in seeded], {}
            probes = {seed: _probe(world, model, seed) for seed, model in models.items()}
            xt, t, goal = (torch.stack(v) for v in zip(*(probes[run.seed] for run in plain), strict=True))
            start = State(0, torch.zeros(len(plain)), stack([models[run.seed] for run in plain]))
            reference, condition = start.policy(xt, t).detach(), captions(plain)
            for state in chain([start], align(models, feedback, plain, steps=steps, warmup=steps // 2)):
                bar.update(state.step > 0)
                if state.step not in marks:
                    continue
                with torch.no_grad():
                    prediction = state.policy(xt, t, condition)
                moved = (prediction - reference)[:, :PROBE].square().mean((1, 2)).sqrt()
                _, liked, disliked = (1 - _errors(prediction, goal) / _errors(reference, goal)).T
                points = draw(state.policy, SAMPLES, condition=condition)
                for i, (name, run) in enumerate(seeded):
                    judged = judge(points[i], world, run.seed)
                    row = {"name": name, **settings_of(run), "flipped": flipped, "step": state.step}
                    row |= {"moved": moved[i].item(), **compare(judged, before.setdefault(run.seed, judged))}
                    row |= {"reward_desirable": liked[i].item(), "reward_undesirable": disliked[i].item()}
                    row["spread"] = state.metrics(i).get("spread", math.nan) if state.calls else 0.0
                    rows.append(row | {"stopped": state.stopped.get(i)})
    return rows


def _probe(world: World, model: Denoiser, seed: int) -> tuple:
    """Noisy points of what was pretrained on, of what is liked, of what is disliked: (xt, t, target)."""
    g = generator("probe", seed)
    x0 = torch.cat([some(PROBE, g) for some in (world.base, world.desirable, world.undesirable)])
    x0, eps = model.encode(x0)[0], torch.randn(3 * PROBE, 2, generator=g)
    t = torch.randint(len(model.process), (3 * PROBE,), generator=g)
    return add_noise(x0, t, eps, model.process), t, target(x0, t, eps, model.process)


def _errors(prediction: Tensor, goal: Tensor) -> Tensor:
    """(runs, 3): the mean error on each part of the probe."""
    return (prediction - goal).square().mean(-1).unflatten(1, (3, PROBE)).mean(-1)
