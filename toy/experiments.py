"""The laboratory's experiments: pretrain once, align many ways over seeds, judge, draw, save."""

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
from toy.errors import InputError
from toy.files import output_folder, save_atomically, save_json
from toy.metrics import SAMPLES, compare, interval, judge, noise_floor
from toy.model import WIDTH, Denoiser
from toy.train import ALIGN_STEPS, Run, align, captions, draw, last, pretrain
from toy.utilities import UTILITIES, check_utility, load_utility

POINTS = 10_000  # pretraining points
ENSEMBLE = 64  # runs trained at once: more would leave the processor's cache
BETA = 4.0  # of Figure 6; `sweep` shows the others
BETAS = (1.0, 2.0, 4.0, 8.0, 16.0)
GAMMAS = (0.2, 0.5, 0.8, 1.0)
FLIPPED = (0.0, 0.1, 0.2, 0.3, 0.4)
PAPER = ("kahneman_tversky", "loss_averse", "risk_seeking_bounded")

Named = list[tuple[str, Run]]  # what to align with, under the name by which plots know it


def figure6(out: str, seeds: int, cache: str, world: str = "figure6", beta: float = BETA) -> list[Path]:
    """The paper's Figure 6: every objective at one beta, samples and numbers, drawn and saved."""
    runs = [
        ("sft", Run("sft")),
        ("csft", Run("csft")),
        ("diffusion_dpo", Run("diffusion_dpo", beta=beta)),
        ("smpo", Run("smpo", beta=beta)),
        *(_kto(name, beta) for name in ("risk_seeking", "risk_seeking_bounded", "loss_averse", "kahneman_tversky")),
    ]
    place = _world(world)
    folder = output_folder(out)
    rows, before, samples = study(place, runs, seeds, cache)
    summary = summarize(rows)
    print_table(summary)
    numbers = {"pretrained": _shares(_mean(before))}
    numbers |= {e["name"]: f"{_shares(e)}\nbalance {_plus_minus(e)}" for e in summary}
    note = f"beta {beta:g}, gamma 0.8, {_seeds(seeds)}; points of seed 0; shaded: liked (solid) and disliked (dashed)"
    fig = plots.figure6(samples, numbers, summary, place, note)
    content = {
        "world": world,
        "samples": SAMPLES,
        "noise_floor": noise_floor(place),
        "pretrained": before,
        "summary": summary,
        "rows": rows,
    }
    name = "figure6" if world == "figure6" else f"figure6-{world}"
    return [plots.save(fig, folder / f"{name}.png"), save_json(folder / f"{name}.json", content)]


def utilities(out: str, extra: list[str]) -> list[Path]:
    """The paper's Figures 3 and 9: each utility, centred, and its slope."""
    named = UTILITIES | {spec.rpartition(":")[2]: load_utility(spec) for spec in extra}
    return [plots.save(plots.utilities(named), output_folder(out) / "utilities.png")]


def try_utility(utility: str, out: str, seeds: int, cache: str, world: str, beta: float) -> list[Path]:
    """Align with the user's utility beside the paper's three, and say how it differs from
    Kahneman-Tversky."""
    mine = load_utility(utility)
    for warning in check_utility(mine, utility):
        print(f"warning: {warning}")
    runs = [("yours", Run(utility=mine, beta=beta)), *(_kto(name, beta) for name in PAPER)]
    place = _world(world)
    folder = output_folder(out)
    rows, before, samples = study(place, runs, seeds, cache)
    summary = summarize(rows)
    print_table(summary)
    sentence = verdict(rows)
    print(sentence)
    numbers = {"pretrained": _shares(_mean(before))}
    numbers |= {e["name"]: f"{_shares(e)}\nbalance {_plus_minus(e)}" for e in summary}
    fig = plots.figure6(samples, numbers, summary, place, f"{utility}, beta {beta:g}, {_seeds(seeds)}")
    content = {"utility": utility, "verdict": sentence, "summary": summary, "rows": rows}
    return [plots.save(fig, folder / "try.png"), save_json(folder / "try.json", content)]


def sweep(out: str, seeds: int, cache: str, world: str = "figure6") -> list[Path]:
    """The paper's Figure 8 in 2-D: balance over gamma, beta and label noise, and for each utility."""
    place = _world(world)
    folder = output_folder(out)
    clean = [
        *(_kto(name, BETA, gamma) for name in PAPER for gamma in GAMMAS),
        *(_kto(name, beta) for name in PAPER for beta in BETAS),
        *(("diffusion_dpo", Run("diffusion_dpo", beta=beta)) for beta in BETAS),
        *(_kto(name, BETA) for name in UTILITIES),
        ("sft", Run("sft")),
    ]
    noisy = [*(_kto(name, BETA) for name in PAPER), ("sft", Run("sft"))]
    rows = study(place, list(dict.fromkeys(clean)), seeds, cache)[0]
    for flipped in FLIPPED[1:]:
        rows += study(place, noisy, seeds, cache, flipped)[0]
    summary = summarize(rows)

    def curve(knob: str, **fixed) -> dict[str, list[tuple[float, float, float]]]:
        lines = defaultdict(list)
        for e in summary:
            if all(e[key] == value for key, value in fixed.items()) and e["name"] in (*PAPER, *extra[knob]):
                lines[e["name"]].append((e[knob], e["balance"], e["half_width"]))
        return {name: sorted(points) for name, points in lines.items()}

    extra = {"gamma": (), "beta": ("diffusion_dpo",), "flipped": ("sft",)}
    curves = {
        "gamma": curve("gamma", beta=BETA, flipped=0.0),
        "beta": curve("beta", gamma=0.8, flipped=0.0),
        "flipped": curve("flipped", beta=BETA, gamma=0.8),
    }
    default = [e for e in summary if (e["beta"], e["gamma"], e["flipped"]) == (BETA, 0.8, 0.0)]
    print_table(default)
    note = f"unless varied: beta {BETA:g}, gamma 0.8, no label noise; {_seeds(seeds)}"
    fig = plots.sweep(curves, default, note)
    content = {"world": world, "summary": summary, "rows": rows}
    return [plots.save(fig, folder / "sweep.png"), save_json(folder / "sweep.json", content)]


def study(
    world: World, runs: Named, seeds: int, cache: str, flipped: float = 0.0
) -> tuple[list[dict], list[dict], dict[str, Tensor]]:
    """Align each run for every seed, with its own data and pretrained model: (a row for each run and
    seed, the pretrained models' metrics by seed, seed 0's samples by name). `seconds` is a run's
    share of its ensemble's training and sampling time."""
    folder = output_folder(cache, "--cache")
    rows, before, samples = [], [], {}
    title = f"{len(runs)} runs x {_seeds(seeds)}" + (f", {flipped:.0%} of labels flipped" if flipped else "")
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
                if run.seed == 0:
                    samples[name] = points[i]
                    if stopped:
                        tqdm.write(stopped)
                rows.append(
                    {
                        "name": name,
                        "objective": run.objective,
                        "utility": run.utility.__name__ if run.objective == "diffusion_kto" else None,
                        "beta": run.beta,
                        "gamma": run.gamma,
                        "flipped": flipped,
                        "seed": run.seed,
                        **compare(judge(points[i], world, run.seed), before[run.seed]),
                        "seconds": seconds,
                        "stopped": stopped,
                    }
                )
    return rows, before, samples


def pretrained(world: World, seed: int, cache: Path) -> Denoiser:
    """The model pretrained on a world with a seed: from the cache, or trained now and put there."""
    path = cache / f"{world.name}-{seed}.safetensors"
    config = {"world": world.name, "seed": str(seed), "points": str(POINTS), "width": str(WIDTH)}
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
    points = world.base(POINTS, data.generator("pretraining points", seed))
    model = last(pretrain(points, seed=seed)).policy
    state = model.state_dict()
    save_atomically(path, lambda temporary: safetensors.torch.save_file(state, temporary, metadata=config))
    return model


def summarize(rows: list[dict]) -> list[dict]:
    """Means over seeds of everything that was run, with the 95% half width of balance."""
    groups = defaultdict(list)
    for row in rows:
        groups[row["name"], row["beta"], row["gamma"], row["flipped"]].append(row)
    summary = []
    for (name, beta, gamma, flipped), group in groups.items():
        balance, half_width = interval([row["balance"] for row in group])
        means = _mean([{k: row[k] for k in MEANS} for row in group])
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
    alignment, avoidance = difference("alignment")[0], difference("avoidance")[0]
    closer = "closer to" if alignment > 0 else "farther from"
    fewer = "fewer" if avoidance > 0 else "more" if avoidance < 0 else "as many"
    behaviour = f"its samples lie {closer} the liked ones (alignment {alignment:+.2f}) with {fewer} disliked ones"
    behaviour += f" (avoidance {avoidance:+.2f})"
    if math.isnan(spread):
        return f"Yours differs from Kahneman-Tversky by {gap:+.3f} in balance, on one seed: {behaviour}."
    if abs(gap) <= spread:
        word = "cannot be told apart from"
    else:
        word = "does better than" if gap > 0 else "does worse than"
    return (
        f"Yours {word} Kahneman-Tversky: balance {gap:+.3f} +- {spread:.3f} (95%, {len(by_seed)} seeds); {behaviour}."
    )


def print_table(summary: list[dict]) -> None:
    """The summary as a table, best balance first."""
    print(f"\n{'':26}{'liked':>8}{'disliked':>10}{'distance':>10}{'alignment':>11}{'avoidance':>11}   balance")
    for e in sorted(summary, key=lambda e: -e["balance"]):
        far = f"{e['distance']:10.3f}{e['alignment']:11.2f}" if e["distance"] < 100 else f"{'far away':>10}{'':11}"
        print(
            f"{plots.style(e['name'])[0]:26}{e['desirable_rate']:8.1%}{e['undesirable_rate']:10.1%}"
            f"{far}{e['avoidance']:11.2f}   {_plus_minus(e)}"
        )
    print()


MEANS = ("desirable_rate", "undesirable_rate", "distance", "alignment", "avoidance", "seconds")


def _kto(name: str, beta: float, gamma: float = 0.8) -> tuple[str, Run]:
    return name, Run(utility=UTILITIES[name], beta=beta, gamma=gamma)


def _world(name: str) -> World:
    if name not in data.WORLDS:
        raise InputError(f"unknown world '{name}': one of {', '.join(data.WORLDS)}")
    return data.WORLDS[name]()


def _mean(rows: list[dict]) -> dict:
    return {key: math.fsum(row[key] for row in rows) / len(rows) for key in rows[0]}


def _shares(e: dict) -> str:
    return f"liked {e['desirable_rate']:.0%}, disliked {e['undesirable_rate']:.1%}"


def _plus_minus(e: dict) -> str:
    half = "" if math.isnan(e["half_width"]) else f" ± {e['half_width']:.3f}"
    return f"{e['balance']:.3f}{half}"


def _seeds(n: int) -> str:
    return f"{n} seed{'s' if n > 1 else ''}"
