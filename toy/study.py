"""Many alignments over many seeds: pretrain once, align, sample, judge, and say what came out."""

import math
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

from toy import data, plots
from toy.data import World
from toy.files import output_folder, save_atomically
from toy.metrics import SAMPLES, compare, judge
from toy.model import WIDTH, Denoiser
from toy.runs import Run, captions
from toy.statistics import interval
from toy.train import ALIGN_STEPS, PRETRAIN_STEPS, align, draw, last, pretrain

ENSEMBLE = 64  # runs trained at once: more would leave the processor's cache
POINTS = 10_000  # pretraining points
PRETRAIN_SETTINGS = dict(pretrain.__kwdefaults__)  # a cached model must have been made with these
Named = list[tuple[str, Run]]  # what to align with, under the name by which plots know it


def study(
    world: World, runs: Named, seeds: int, cache: str, flipped: float = 0.0
) -> tuple[list[dict], list[dict], dict[str, Tensor]]:
    """Align each run for every seed, with its own data and pretrained model: (a row for each run and
    seed, the pretrained models' metrics by seed, seed 0's samples by name). `seconds` is a run's
    share of its ensemble's training and sampling time."""
    folder = output_folder(cache, "--cache")
    rows, before, samples, broken = [], [], {}, defaultdict(list)
    title = f"{len(runs)} runs x {seeds_text(seeds)}" + (f", {flipped:.0%} flipped" if flipped else "")
    together = max(1, ENSEMBLE // len(runs))  # seeds in one ensemble
    calls = [list(range(seeds))[i : i + together] for i in range(0, seeds, together)]
    with tqdm(total=len(calls) * ALIGN_STEPS, desc=title, unit="step") as bar:
        for call in calls:
            models = {seed: pretrained(world, seed, folder) for seed in call}
            feedback = {seed: data.feedback(world, flipped=flipped, seed=seed) for seed in call}
            seeded = [(name, replace(run, seed=seed)) for seed in call for name, run in runs]
            start = time.perf_counter()
            for state in align(models, feedback, [run for _, run in seeded]):
                bar.update()
            points = draw(state.policy, SAMPLES, condition=captions([run for _, run in seeded]))
            seconds = (time.perf_counter() - start) / len(seeded)
            for seed in call:
                start_points = draw(models[seed], SAMPLES)[0]
                before.append(judge(start_points, world, seed))
                if seed == 0:
                    samples["pretrained"] = start_points
            for i, (name, run) in enumerate(seeded):
                stopped = state.stopped.get(i)
                if stopped:
                    broken[name].append(stopped)
                if run.seed == 0:
                    samples[name] = points[i]
                rows.append(
                    {
                        "name": name,
                        "objective": run.objective,
                        "utility": run.utility_name,
                        "beta": run.beta,
                        "gamma": run.gamma,
                        "flipped": flipped,
                        "seed": run.seed,
                        **compare(judge(points[i], world, run.seed), before[run.seed]),
                        "seconds": seconds,
                        "stopped": stopped,
                    }
                )
    for messages in broken.values():
        more = f" (so were {len(messages) - 1} more of its seeds)" if len(messages) > 1 else ""
        print(messages[0] + more)
    return rows, before, samples


def pretrained(world: World, seed: int, cache: Path) -> Denoiser:
    """The model pretrained on a world with a seed: from the cache, or trained now and put there."""
    path = cache / f"{world.name}-{seed}.safetensors"
    points = world.base(POINTS, data.generator("pretraining points", seed))
    config = PRETRAIN_SETTINGS | {"seed": seed, "points": points.double().sum().item(), "width": WIDTH}
    config = {key: str(value) for key, value in config.items()}
    model = Denoiser()
    if path.exists():
        try:
            with safe_open(path, "pt") as file:
                found = file.metadata()
            if found == config:
                model.load_state_dict(safetensors.torch.load_file(path))
                return model
            tqdm.write(f"{path} belongs to another configuration: training it anew")
        except (SafetensorError, RuntimeError, OSError) as error:
            tqdm.write(f"{path} is damaged ({str(error).splitlines()[0]}): training it anew")
    states = tqdm(pretrain(points, seed=seed), f"pretraining, seed {seed}", PRETRAIN_STEPS, leave=False)
    model = last(states).policy
    state = model.state_dict()
    save_atomically(path, lambda temporary: safetensors.torch.save_file(state, temporary, metadata=config))
    return model


def copy_balance(world: World, before: list[dict]) -> float:
    """The balance of fresh liked points themselves. It is no upper bound: where the classes overlap, a
    perfect copy has its share among the disliked, and a sample that gives way to avoid them scores more."""
    scores = []
    for seed, pretrained_metrics in enumerate(before):
        copy = world.desirable(SAMPLES, data.generator("copy", seed))
        scores.append(compare(judge(copy, world, seed), pretrained_metrics)["balance"])
    return math.fsum(scores) / len(scores)


def summarize(rows: list[dict]) -> list[dict]:
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


def verdict(rows: list[dict]) -> str:
    """One sentence on how "yours" differs from Kahneman-Tversky, seed by seed."""
    by_seed = defaultdict(dict)
    for row in rows:
        by_seed[row["seed"]][row["name"]] = row

    def difference(metric: str) -> tuple[float, float]:
        return interval([r["yours"][metric] - r["kahneman_tversky"][metric] for r in by_seed.values()])

    gap, spread = difference("balance")
    if math.isnan(spread):
        return f"Yours differs from Kahneman-Tversky by {gap:+.3f} in balance on one seed: try --seeds 3."
    word = "does better than" if gap > spread else "does worse than" if gap < -spread else None
    how = []
    for metric, more, less in (
        ("alignment", "closer to the liked ones", "farther from the liked ones"),
        ("avoidance", "less often among the disliked ones", "more often among the disliked ones"),
    ):
        change, doubt = difference(metric)
        if abs(change) > doubt:
            how.append(f"{more if change > 0 else less} ({metric} {change:+.2f} ± {doubt:.2f})")
    sure = f"balance {gap:+.3f} ± {spread:.3f} (95%, {len(by_seed)} seeds)"
    where = " and ".join(how) or "no nearer to either class, as far as these seeds tell"
    if math.fsum(r["yours"]["alignment"] for r in by_seed.values()) < 0:
        where = "farther from the liked ones than before alignment: they have left the data"
    broke = sum(r["yours"]["stopped"] is not None for r in by_seed.values())
    where += f"; its loss broke on {broke} of {len(by_seed)} seeds" if broke else ""
    return f"Yours {word or 'cannot be told apart from'} Kahneman-Tversky, {sure}; its samples lie {where}."


def print_table(summary: list[dict]) -> None:
    """The summary as a table, best balance first."""
    print(
        f"\n{'':26}{'liked':>8}{'disliked':>10}{'distance':>10}{'alignment':>11}{'avoidance':>11}   balance"
    )
    for e in sorted(summary, key=lambda e: -e["balance"]):
        far = (
            f"{e['distance']:10.3f}{e['alignment']:11.2f}"
            if e["distance"] < 100
            else f"{'far away':>10}{'':11}"
        )
        print(
            f"{plots.style(e['name'])[0]:26}{e['desirable_rate']:8.1%}{e['undesirable_rate']:10.1%}"
            f"{far}{e['avoidance']:11.2f}   {plus_minus(e)}"
        )
    print()


MEANS = ("desirable_rate", "undesirable_rate", "distance", "alignment", "avoidance", "seconds")


def mean_of(rows: list[dict]) -> dict:
    return {key: math.fsum(row[key] for row in rows) / len(rows) for key in rows[0]}


def plus_minus(e: dict) -> str:
    half = "" if math.isnan(e["half_width"]) else f" ± {e['half_width']:.3f}"
    return f"{e['balance']:.3f}{half}"


def seeds_text(n: int) -> str:
    return f"{n} seed{'s' if n > 1 else ''}"
