"""Quality against how far a policy has moved. Pushed gently, nearly every loss works; pushed, some break.

`paths` measures in the plane. The other functions ask of a row no more than name, seed, step, moved and a
score, so they serve images too. Step 0 is the reference, where moved is 0.
"""

import math
from collections import defaultdict
from itertools import chain

import numpy as np
import torch
from tqdm import tqdm

from toy import plots
from toy.data import World
from toy.diffusion import add_noise, target
from toy.files import output_folder
from toy.metrics import compare, judge
from toy.model import Denoiser, stack
from toy.report import seeds_text
from toy.seeds import generator
from toy.statistics import interval
from toy.study import Named, ensembles, prepared, settings_of
from toy.train import State, align, captions, draw

STEPS, POINTS, SAMPLES, PROBE = 500, 10, 1000, 500


def paths(
    world: World,
    runs: Named,
    seeds: int,
    cache: str,
    process: str = "diffusion",
    steps: int = STEPS,
    flipped: float = 0.0,
) -> list[dict]:
    """Align each run for every seed and judge it on its way: a row for each name, seed and step.

    `moved`: root mean square difference between the predictions of policy and reference on noisy points of the
    pretraining data. `reward_desirable`, `reward_undesirable`: 1 - mean error / the reference's, on fresh
    points of the class. `spread`: beta * std(g), nan without a beta. The learning rate rises for half of the
    steps, so that a path starts gently and goes far.
    """
    folder, rows, calls = output_folder(cache, "--cache"), [], ensembles(runs, seeds)
    marks = {0} | {round(steps * 80 ** (k / (POINTS - 1) - 1)) for k in range(POINTS)}  # even in log(step)
    title = f"paths of {len(runs)} runs x {seeds_text(seeds)}, {world.name}"
    with tqdm(total=len(calls) * steps, desc=title, unit="step") as bar:
        for seeded in calls:
            models, feedback = prepared(world, seeded, folder, flipped, process)
            plain, before = [run for _, run in seeded], {}
            probes = {seed: _probe(world, model, seed) for seed, model in models.items()}
            xt, t, goal = (torch.stack(v) for v in zip(*(probes[run.seed] for run in plain), strict=True))
            start = State(0, torch.zeros(len(plain)), stack([models[run.seed] for run in plain]))
            reference, condition = start.policy(xt, t).detach(), captions(plain)
            reference_error = (reference - goal).square().mean(-1).unflatten(1, (3, PROBE)).mean(-1)
            for state in chain([start], align(models, feedback, plain, steps=steps, warmup=steps // 2)):
                bar.update(state.step > 0)
                if state.step not in marks:
                    continue
                with torch.no_grad():
                    prediction = state.policy(xt, t, condition)
                moved = (prediction - reference)[:, :PROBE].square().mean((1, 2)).sqrt()
                error = (prediction - goal).square().mean(-1).unflatten(1, (3, PROBE)).mean(-1)
                _, liked, disliked = (1 - error / reference_error).T
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


def breaks(rows: list[dict], score: str) -> list[dict]:
    """For each name and seed its best and last score, where the best is (`at`), and how far it goes before it
    breaks.

    It is broken from where on the score stays below half of what had been gained: (start + best) / 2. That
    distance, `breaks_at`, lies on the line between two points. A path that keeps more than half has
    broke=False, and as breaks_at the farthest it went; one that never gains is broken at its first point.
    """
    by_path = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["step"]):
        by_path[row["name"], row["seed"]].append(row)
    found = []
    for (name, seed), path in by_path.items():
        values, moved = [row[score] for row in path], [row["moved"] for row in path]
        top, half = int(np.argmax(values)), (values[0] + max(values)) / 2
        kept = max((k for k, value in enumerate(values) if value > half), default=None)
        broke = kept != len(path) - 1
        if kept is None:
            end = moved[1]
        elif broke:
            share = (values[kept] - half) / (values[kept] - values[kept + 1])
            end = moved[kept] + share * (moved[kept + 1] - moved[kept])
        else:
            end = max(moved)
        entry = {"name": name, "seed": seed, "best": values[top], "last": values[-1], "at": moved[top]}
        found.append(entry | {"breaks_at": end, "broke": broke})
    return found


def best(rows: list[dict], score: str) -> list[dict]:
    """For each name, over its seeds: mean best score with the half width of its 95% interval, the median of
    where it is, the mean last score, and the geometric mean of how far it goes, with its interval from low to
    high. `broke` counts the seeds that broke."""
    by_name = defaultdict(list)
    for entry in breaks(rows, score):
        by_name[entry["name"]].append(entry)
    summary = []
    for name, entries in by_name.items():
        mean, half_width = interval([e["best"] for e in entries])
        far, doubt = interval([math.log(e["breaks_at"]) for e in entries])
        where = {"at": float(np.median([e["at"] for e in entries])), "last": interval([e["last"] for e in entries])[0]}
        where |= {"breaks_at": math.exp(far), "low": math.exp(far - doubt), "high": math.exp(far + doubt)}
        counts = {"broke": sum(e["broke"] for e in entries), "seeds": len(entries)}
        summary.append({"name": name, "best": mean, "half_width": half_width, **where, **counts})
    return summary
