"""Many alignments over many seeds: pretrain once, align, sample, judge."""

import math
import time
from collections import defaultdict
from dataclasses import replace
from itertools import islice
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from toy import data
from toy.beta import SHARE, find_beta, liked_gains
from toy.data import Feedback, World
from toy.files import output_folder
from toy.metrics import SAMPLES, compare, judge
from toy.model import Denoiser
from toy.objectives import Run
from toy.pretrained import pretrained
from toy.report import seeds_text
from toy.seeds import generator
from toy.statistics import interval
from toy.train import ALIGN_STEPS, align, captions, draw

ENSEMBLE = 64  # runs trained at once: more would leave the processor's cache
Named = list[tuple[str, Run]]  # what to align with, under the name by which plots know it
PILOT = round(SHARE * ALIGN_STEPS)  # steps
MIDDLE = (ALIGN_STEPS // 2 - 25, ALIGN_STEPS // 2, ALIGN_STEPS // 2 + 25)  # where the spread is looked at
MEANS = ("desirable_rate", "undesirable_rate", "distance", "alignment", "avoidance", "spread", "seconds")


def study(
    world: World, runs: Named, seeds: int, cache: str, flipped: float = 0.0, process: str = "diffusion"
) -> tuple[list[dict], list[dict], dict[str, Tensor]]:
    """Align each run for every seed, with its own data and pretrained model: (a row for each run and
    seed, the pretrained models' metrics by seed, seed 0's samples by name). `spread` is beta *
    std(g) in the middle of a run, `seconds` a run's share of its ensemble's time."""
    folder = output_folder(cache, "--cache")
    rows, before, samples, broken = [], [], {}, defaultdict(list)
    title = f"{len(runs)} runs x {seeds_text(seeds)}" + (f", {flipped:.0%} flipped" if flipped else "")
    calls = ensembles(runs, range(seeds))
    with tqdm(total=len(calls) * ALIGN_STEPS, desc=title, unit="step") as bar:
        for seeded in calls:
            models, feedback = prepared(world, seeded, folder, flipped, process)
            start, spreads = time.perf_counter(), [[] for _ in seeded]
            for state in align(models, feedback, [run for _, run in seeded]):
                bar.update()
                if state.step in MIDDLE:
                    for i, values in enumerate(spreads):
                        values.append(state.metrics(i).get("spread", math.nan))
            points = draw(state.policy, SAMPLES, condition=captions([run for _, run in seeded]))
            seconds = (time.perf_counter() - start) / len(seeded)
            for seed, model in models.items():
                start_points = draw(model, SAMPLES)[0]
                before.append(judge(start_points, world, seed))
                if seed == 0:
                    samples["pretrained"] = start_points
            for i, (name, run) in enumerate(seeded):
                stopped = state.stopped.get(i)
                if stopped:
                    broken[name].append(stopped)
                if run.seed == 0:
                    samples[name] = points[i]
                judged = compare(judge(points[i], world, run.seed), before[run.seed])
                judged |= {"spread": math.fsum(spreads[i]) / len(spreads[i]), "seconds": seconds}
                row = {"name": name, **settings_of(run), "flipped": flipped}
                rows.append({**row, **judged, "stopped": stopped})
    for messages in broken.values():
        more = f" (so were {len(messages) - 1} more of its seeds)" if len(messages) > 1 else ""
        print(messages[0] + more)
    return rows, before, samples


def auto_beta(run: Run, model: Denoiser, feedback: Feedback) -> tuple[float, int]:
    """(the beta that toy.beta finds for a run, the number of its pilots)."""

    def gains(beta: float) -> Tensor:
        pilot = islice(align(model, feedback, [replace(run, beta=beta)]), PILOT)
        return liked_gains([state.inputs() for state in pilot])

    return find_beta(run.utility, gains)


def ensembles(runs: Named, seeds: range) -> list[Named]:
    """Each run with each seed, in lists that are trained at once. A seed is in one list only."""
    together = max(1, ENSEMBLE // len(runs))
    parts = [seeds[i : i + together] for i in range(0, len(seeds), together)]
    return [[(name, replace(run, seed=seed)) for seed in part for name, run in runs] for part in parts]


def prepared(
    world: World, seeded: Named, cache: Path, flipped: float, process: str
) -> tuple[dict[int, Denoiser], dict[int, Feedback]]:
    """The pretrained model and the feedback of each seed."""
    seeds = list(dict.fromkeys(run.seed for _, run in seeded))
    models = {seed: pretrained(world, seed, cache, process) for seed in seeds}
    return models, {seed: data.feedback(world, flipped=flipped, seed=seed) for seed in seeds}


def settings_of(run: Run) -> dict:
    """What a row says about its run."""
    about = {"objective": run.objective, "utility": run.utility_name, "beta": run.beta}
    return about | {"gamma": run.gamma, "seed": run.seed}


def copy_balance(world: World, before: list[dict]) -> float:
    """The balance of fresh liked points themselves. It is no upper bound: where the classes overlap, a
    perfect copy has its share among the disliked, and samples that avoid them score more."""
    scores = []
    for seed, pretrained_metrics in enumerate(before):
        copy = world.desirable(SAMPLES, generator("copy", seed))
        scores.append(compare(judge(copy, world, seed), pretrained_metrics)["balance"])
    return math.fsum(scores) / len(scores)


def summarise(rows: list[dict]) -> list[dict]:
    """Means over seeds of everything that was run, with the 95% half width of balance."""
    groups = defaultdict(list)
    for row in rows:
        groups[row["name"], row["beta"], row["gamma"], row["flipped"]].append(row)
    summary = []
    for (name, beta, gamma, flipped), group in groups.items():
        balance, half_width = interval([row["balance"] for row in group])
        means = mean_of([{k: row[k] for k in MEANS} for row in group])
        settings = {"name": name, "beta": beta, "gamma": gamma, "flipped": flipped, "seeds": len(group)}
        summary.append({**settings, **means, "balance": balance, "half_width": half_width})
    return summary


def mean_of(rows: list[dict]) -> dict:
    return {key: math.fsum(row[key] for row in rows) / len(rows) for key in rows[0]}
