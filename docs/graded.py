"""Does a graded like beat a thumb? Measured in 2-D, at equal numbers of labels: python docs/graded.py

Points of what a model was pretrained on are rated, and those from the median on are liked. Thumbs are these
labels. Graded likes are the same labels with the weight 1 + c * |rating - median|; c is such that this is
1 + 1, or 1 + 4, on average. A noisy judge adds noise to the ratings, as large as their spread, before labels
are made. It takes 5 to 10 minutes, and writes figures/graded.json and figures/graded.png.
"""

from dataclasses import replace
from itertools import product
from pathlib import Path

import torch

from toy import data, plots
from toy.__main__ import CACHE
from toy.files import output_folder, save_json
from toy.metrics import compare, judge
from toy.model import Denoiser
from toy.objectives import Run
from toy.pretrained import pretrained
from toy.seeds import generator
from toy.statistics import interval
from toy.train import align, draw, last
from toy.utilities import loss_averse

FIGURES = Path(__file__).parent.parent / "figures"
SEEDS, SAMPLES, LABELS = range(10), 1000, (50, 200, 1000)
RATINGS = {  # of points, in each world
    "figure6": lambda x: -(x - torch.tensor([0.3, 0.8])).norm(dim=-1),  # nearness to the best point
    "moons": lambda x: x[:, 1] - 0.25,  # height above the border of what is liked
    "rings": lambda x: 0.75 - x.norm(dim=-1),  # depth inside that border
}
TITLES = {"figure6": "Figure 6: there is a best point", "moons": "moons: an area", "rings": "rings: an area"}
KT, TGO = "kahneman_tversky", "loss_averse"
TGO_LOSS = "loss-averse without a reference point (TGO)"
RUNS = {KT: Run(), TGO: Run(utility=loss_averse, reference_point="none")}
ARMS = {0: (KT, TGO), 1: (KT,), 4: (KT, TGO)}  # mean of c * |rating - median| -> losses; 0: thumbs
VALUES = (("balance", "half_width"), ("gain", "gain_half_width"))
Setting = tuple[data.World, bool, int]  # world, noisy judge?, number of labels


def feedback(setting: Setting, mean: float, seed: int) -> tuple[data.Feedback, float]:
    """The labelled and weighed points of a seed, and the share of labels that noise has changed."""
    world, noisy, n = setting
    g = generator("graded", seed)
    x0 = world.base(n, g)
    exact = RATINGS[world.name](x0)
    rating = exact + noisy * exact.std() * torch.randn(n, generator=g)
    c = mean / (rating - rating.quantile(0.5)).abs().mean()
    desirable, weight = data.graded(rating, c=c)
    wrong = (desirable != data.graded(exact)[0]).float().mean().item()
    return data.Feedback(x0, desirable, torch.zeros(n), weight), wrong


def measure(setting: Setting, mean: float, model: Denoiser) -> list[dict]:
    """A row for each loss and seed."""
    world, noisy, n = setting
    given = {seed: feedback(setting, mean, seed) for seed in SEEDS}
    names = [(name, seed) for name in ARMS[mean] for seed in SEEDS]
    runs = [replace(RUNS[name], seed=seed) for name, seed in names]
    policy = last(align(model, {seed: likes for seed, (likes, _) in given.items()}, runs)).policy
    before = judge(draw(model, SAMPLES)[0], world)
    rows = []
    for (name, seed), samples in zip(names, draw(policy, SAMPLES), strict=True):
        about = {"world": world.name, "noisy": noisy, "labels": n, "name": name, "mean": mean, "seed": seed}
        balance = compare(judge(samples, world), before)["balance"]
        rows.append(about | {"wrong": given[seed][1], "balance": balance})
    return rows


def summarise(rows: list[dict]) -> list[dict]:
    """Means over seeds, and the mean difference between graded likes and thumbs, paired over seeds."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(tuple(row[k] for k in ("world", "noisy", "labels", "name", "mean")), []).append(row)
    summary = []
    for key, group in groups.items():
        thumbs, values = groups[(*key[:-1], 0)], [row["balance"] for row in group]
        balance, half_width = interval(values)
        gain, gain_half_width = interval([v - t["balance"] for v, t in zip(values, thumbs, strict=True)])
        entry = dict(zip(("world", "noisy", "labels", "name", "mean"), key, strict=True))
        entry |= {"wrong": interval([row["wrong"] for row in group])[0], "seeds": len(group)}
        entry |= {"balance": balance, "half_width": half_width}
        summary.append(entry | {"gain": gain, "gain_half_width": gain_half_width})
    return summary


def picture(summary: list[dict]) -> plots.plt.Figure:
    """What graded likes gain over thumbs: a row for each judge, a column for each world."""
    fig, axes = plots.figure(2, len(RATINGS), 3.6, 3.0, sharex=True, sharey=True)
    lines = [(KT, 1, "#56B4E9", "s", "--"), (KT, 4, *plots.style(KT)[1:]), (TGO, 4, *plots.style(TGO)[1:])]
    panels = [(noisy, world) for noisy in (False, True) for world in RATINGS]
    for ax, (noisy, world) in zip(axes, panels, strict=True):
        for k, (name, mean, colour, marker, line) in enumerate(lines):
            this = {"world": world, "noisy": noisy, "name": name, "mean": mean}
            mine = [e for e in summary if e.items() >= this.items()]
            label = f"{TGO_LOSS if name == TGO else plots.style(name)[0]}, mean weight {1 + mean}"
            x = [e["labels"] * 1.12 ** (k - 1) for e in mine]  # side by side
            gains, errors = [e["gain"] for e in mine], [e["gain_half_width"] for e in mine]
            ax.errorbar(x, gains, errors, color=colour, marker=marker, linestyle=line, capsize=3, label=label)
        ax.axhline(0, color="black", linewidth=0.8)
        ax.set_xscale("log")
        ax.set_xticks(LABELS, LABELS)
        ax.minorticks_off()
        ax.set_xlabel("number of labels" if noisy else "")
        ax.set_title(f"{TITLES[world]}\n{'noisy' if noisy else 'exact'} judge", fontsize=10)
    fig.supylabel("balance: graded likes minus thumbs", fontsize=10)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    return fig


if __name__ == "__main__":
    rows = []
    for name in RATINGS:
        world = data.WORLDS[name]()
        model = pretrained(world, 0, output_folder(CACHE))
        for noisy, n, mean in product((False, True), LABELS, ARMS):
            rows += measure((world, noisy, n), mean, model)
    summary = summarise(rows)
    print("| world | judge | labels | loss | mean weight | balance | graded - thumbs |")
    print("|---|---|---:|---|---:|---:|---:|")
    for e in summary:
        cells = [e["world"], "noisy" if e["noisy"] else "exact", e["labels"], e["name"], 1 + e["mean"]]
        cells += [f"{e[k]:.3f} ± {e[half]:.3f}" for k, half in VALUES]
        print("| " + " | ".join(map(str, cells)) + " |")
    save_json(FIGURES / "graded.json", {"summary": summary, "rows": rows})
    plots.save(picture(summary), FIGURES / "graded.png")
