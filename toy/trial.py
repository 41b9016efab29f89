"""A utility in many settings, beside the paper's: measured and judged, for python -m toy try --report.

Beta is chosen on other seeds than those judged. Differences are paired over seeds.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from toy import data
from toy.data import Feedback
from toy.errors import InputError
from toy.metrics import compare, judge
from toy.model import Denoiser
from toy.objectives import Run
from toy.paths import paths
from toy.plots import style
from toy.pretrained import pretrained
from toy.statistics import interval
from toy.study import auto_beta
from toy.train import align, draw
from toy.utilities import UTILITIES, Utility, slope

PAPER = ("kahneman_tversky", "loss_averse", "risk_seeking_bounded")
OTHER = "kahneman_tversky"
SAMPLES, FACTORS = 1000, (1, 0.5, 2, 0.25, 4)  # betas tried, times the one that toy.beta finds
CHOOSING, FIRST, MOST = 2, 3, 9  # seeds to choose beta on; judged at first; judged at most, while in doubt
PUSHED = "half-disliked, 30% wrong labels"  # what goes with images: see docs/transfer.py
CPU_SECONDS = 75  # after which no more seeds are added
MIDDLE, END = range(116, 126), range(241, 251)  # steps of 250 that are looked at
PLACES = [(world, "diffusion") for world in ("figure6", "moons", "grid")] + [("figure6", "flow")]


class Setting(NamedTuple):
    """What is aligned to what: the reader's words for it, and what differs from the usual."""

    title: str
    world: data.World
    process: str
    feedback: Callable[[int], Feedback]  # seed -> labelled points
    gamma: float = 0.8


def settings(world: data.World, process: str) -> list[Setting]:
    """The main setting, the same with other feedback, and other worlds and processes."""

    def usual(place: data.World, **options) -> Callable[[int], Feedback]:
        return lambda seed: data.feedback(place, seed=seed, **options)

    def graded(seed: int) -> Feedback:
        x0 = world.base(4000, data.generator("graded", seed))
        rating = -(x0 - torch.tensor([0.3, 0.8])).norm(dim=-1)
        c = 1 / (rating - rating.quantile(0.5)).abs().mean().item()
        desirable, weight = data.graded(rating, c=c)
        return Feedback(x0, desirable, torch.zeros(4000), weight)

    here = [
        Setting(_title(world, process), world, process, usual(world)),
        Setting("20% wrong labels", world, process, usual(world, flipped=0.2)),
        Setting("10% likes of 500 labels", world, process, usual(world, n=500, desirable_share=0.1)),
        Setting("half-disliked batches", world, process, usual(world), gamma=0.5),
        Setting(PUSHED, world, process, usual(world, flipped=0.3), gamma=0.5),
    ]
    if world.name == "figure6":  # the other worlds have no best point to rate by
        here.append(Setting("graded likes", world, process, graded))
    elsewhere = [(data.WORLDS[name](), p) for name, p in PLACES if (name, p) != (world.name, process)]
    return here + [Setting(_title(place, p), place, p, usual(place)) for place, p in elsewhere]


def measure(
    setting: Setting, runs: list[tuple[str, Run]], models: dict[int, Denoiser]
) -> tuple[list[dict], list[Tensor], list[Tensor]]:
    """A row for each run and each seed of `models`, samples, and what the utility meets at the end.

    Beside the metrics of toy.metrics a row has the error of both classes relative to the reference's, the
    change of the liked examples' reward from the middle of the run to its end, and the share of examples
    that weigh less than a tenth of the start's.
    """
    named = [(name, replace(run, seed=seed, gamma=setting.gamma)) for seed in models for name, run in runs]
    likes = {seed: setting.feedback(seed) for seed in models}
    windows: list[dict[bool, list]] = [{False: [], True: []} for _ in named]
    for state in tqdm(
        align(models, likes, [run for _, run in named]), setting.title, END.stop - 1, leave=False
    ):
        if state.step in MIDDLE or state.step in END:
            for i, steps in enumerate(windows):
                steps[state.step in END].append(state.inputs(i))
    before = {s: judge(draw(m, SAMPLES)[0], setting.world, s) for s, m in models.items()}
    samples, rows, xs = list(draw(state.policy, SAMPLES)), [], []
    for i, (name, run) in enumerate(named):
        middle, end = ([torch.cat(v) for v in zip(*steps, strict=True)] for steps in windows[i].values())
        policy, reference, liked, _, _, z0 = end
        gain = reference - policy - z0
        signed = gain if getattr(run.utility, "sign_outside", False) else torch.where(liked, gain, -gain)
        x = run.beta * signed
        weight = slope(run.utility, x) / slope(run.utility, torch.zeros(1))
        row = {"setting": setting.title, "name": name, "seed": run.seed, "beta": run.beta}
        row |= compare(judge(samples[i], setting.world, run.seed), before[run.seed])
        row |= {"error_liked": (policy[liked].sum() / reference[liked].sum()).item()}
        row |= {"error_disliked": (policy[~liked].sum() / reference[~liked].sum()).item()}
        before_that, at_last = ((v[1] - v[0])[v[2]].mean().item() for v in (middle, end))
        row |= {"reward_change": at_last - before_that, "stopped": state.stopped.get(i)}
        rows.append(row | {"saturated": (weight.abs() < 0.1).float().mean().item()})
        xs.append(x)
    return rows, samples, xs


def choose_betas(
    setting: Setting, utilities: dict[str, Utility], models: dict[int, Denoiser], usual: float
) -> tuple[dict[str, float], list[dict]]:
    """The best beta of five for each utility on these seeds' models, and the rows that say so. The five lie
    around the one that toy.beta finds, or the usual one where it finds none."""
    runs = []
    for name, utility in utilities.items():
        start, (seed, model) = Run(utility=utility, beta=usual), next(iter(models.items()))
        try:
            beta = auto_beta(replace(start, seed=seed), model, setting.feedback(seed))[0]
        except InputError:
            beta = usual
        runs += [(name, replace(start, beta=beta * factor)) for factor in FACTORS]
    rows, *_ = measure(setting, runs, models)
    total = {}
    for row in rows:
        key = row["name"], row["beta"]
        total[key] = total.get(key, 0) + row["balance"]
    return {n: max((b for m, b in total if m == n), key=lambda b: total[n, b]) for n in utilities}, rows


def study(
    mine: Utility,
    world: data.World,
    process: str,
    betas: dict[str, float],
    cache: Path,
    first: int = FIRST,
) -> dict:
    """All measurements of a utility, the paper's three and SFT. `betas` has each process's usual beta. Seeds
    are added, up to MOST, while nobody is ahead in the main setting and time is left."""
    start, (main, *rest) = time.process_time(), settings(world, process)
    utilities = {"yours": mine} | {name: UTILITIES[name] for name in PAPER}
    choosing = {seed: pretrained(world, seed, cache, process) for seed in range(CHOOSING)}
    best, choosing_rows = choose_betas(main, utilities, choosing, betas[process])
    runs = [(name, Run(utility=utility, beta=best[name])) for name, utility in utilities.items()]
    runs.append(("sft", Run("sft")))

    def judged(seeds: range) -> tuple:
        return measure(main, runs, {seed: pretrained(world, seed, cache, process) for seed in seeds})

    seeds = range(CHOOSING, CHOOSING + max(first, 2))
    rows, samples, xs = judged(seeds)
    samples, xs = ({name: v for (name, _), v in zip(runs, part, strict=False)} for part in (samples, xs))
    for setting in rest:
        scale = betas[setting.process] / betas[process]
        theirs = [(name, replace(run, beta=run.beta * scale)) for name, run in runs]
        same = (setting.world.name, setting.process) == (world.name, process)
        models = {s: pretrained(setting.world, s if same else 0, cache, setting.process) for s in seeds}
        rows += measure(setting, theirs, models)[0]
    gap, doubt = difference(rows, main.title, OTHER)
    while 0 < abs(gap) <= doubt and len(seeds) < MOST and time.process_time() - start < CPU_SECONDS:
        more = range(seeds.stop, seeds.stop + FIRST)
        rows, seeds = rows + judged(more)[0], range(CHOOSING, more.stop)
        gap, doubt = difference(rows, main.title, OTHER)
    pushed = [*runs[:2], ("diffusion_dpo", Run("diffusion_dpo", beta=betas[process]))]
    walked = paths(world, pushed, range(CHOOSING, CHOOSING + FIRST), str(cache), process)
    result = {"utilities": utilities, "betas": best, "choosing": choosing_rows, "paths": walked}
    return result | {"rows": rows, "samples": samples, "x": xs}


def difference(rows: list[dict], setting: str, other: str) -> tuple[float, float]:
    """Mean balance of yours minus the other's over the seeds of a setting, half width of its 95% interval."""
    at = {(r["name"], r["seed"]): r["balance"] for r in rows if r["setting"] == setting}
    return interval([value - at[other, seed] for (name, seed), value in at.items() if name == "yours"])


def titles(rows: list[dict]) -> list[str]:
    """The settings of the rows, the main one first."""
    return list(dict.fromkeys(row["setting"] for row in rows))


def dangers(rows: list[dict], name: str = "yours") -> dict[str, list[str]]:
    """Each danger that a utility showed, with the settings in which it did."""
    places = defaultdict(list)
    for title in titles(rows):
        mine = [row for row in rows if (row["setting"], row["name"]) == (title, name)]
        change, doubt = interval([row["reward_change"] for row in mine])
        errors = [interval([row[key] for row in mine]) for key in ("error_liked", "error_disliked")]
        for danger, showed in (
            ("a loss broke", any(row["stopped"] for row in mine)),
            ("samples left the data", any(row["alignment"] < 0 for row in mine)),
            ("the reward of liked examples fell in the second half", change < -doubt),
            ("errors outgrew the reference's on both classes", all(mean - d > 1 for mean, d in errors)),
        ):
            places[danger] += [title] * showed
    return {danger: where for danger, where in places.items() if where}


def verdict(rows: list[dict], betas: dict[str, float]) -> list[str]:
    """Five sentences: better, where, at which beta, what can go wrong, how sure."""
    main, *rest = titles(rows)
    gaps = {title: difference(rows, title, OTHER) for title in (main, *rest)}
    (gap, doubt), theirs = gaps[main], style(OTHER)[0]
    mine = [row for row in rows if (row["setting"], row["name"]) == (main, "yours")]
    word = "does better than" if gap > doubt else "does worse than" if gap < -doubt else None
    same = not any(mean or half_width for mean, half_width in gaps.values())
    word = word or ("gives the same numbers as" if same else "cannot be told apart from")
    ahead = [title for title in rest if gaps[title][0] > gaps[title][1]]
    behind = [title for title in rest if gaps[title][0] < -gaps[title][1]]
    where = [f"{word} in {_list(t)}" for word, t in (("ahead", ahead), ("behind", behind)) if t]
    if len(ahead + behind) < len(rest):
        where.append(f"no different in {len(rest) - len(ahead + behind)}, as far as the seeds can tell")
    wrong = [f"{danger} ({_list(where)})" for danger, where in dangers(rows).items()]
    seeds = len({row["seed"] for row in rows if row["setting"] != main})
    added = " (some added while nobody was ahead, which flatters the interval)" if len(mine) > seeds else ""
    return [
        f"Each at its own best beta, yours {word} {theirs} in {main}: balance "
        f"{interval([row['balance'] for row in mine])[0]:.3f}, a difference of {gap:+.3f} ± {doubt:.3f}.",
        f"With these betas (scaled where the process differs) in {len(rest)} other settings, it is "
        f"{'; '.join(where)}.",
        f"Its beta is {betas['yours']:g}, {theirs}'s {betas[OTHER]:g}: the best of {len(FACTORS)} on "
        f"{CHOOSING} other seeds.",
        f"What went wrong: {'; '.join(wrong)}."
        if wrong
        else "Nothing that was watched for went wrong: losses, samples, liked rewards and errors held.",
        f"This rests on {len(mine)} seeds{added}, elsewhere on {seeds}; one in twenty such intervals errs by "
        f"chance, and only '{PUSHED}' is known to go with images, so ask python -m sd try.",
    ]


def _list(settings: list[str]) -> str:
    return " and ".join(settings) if len(settings) < 3 else f"{len(settings)} settings"


def _title(world: data.World, process: str) -> str:
    return f"{'Figure 6' if world.name == 'figure6' else world.name} with {process}"
