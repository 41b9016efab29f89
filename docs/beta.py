"""How good is a beta that pilots find? Measured in 2-D: python docs/beta.py

The rule of toy/beta.py knows no samples and no judge. Here its beta is judged: by the balance there, divided
by the balance at the best of ten betas, which is chosen on other seeds than the one judged. Two built-in
utilities are left out: the straight line, for which beta changes nothing, and risk-seeking as printed, which
leaves the data. It takes half an hour, goes on where it was stopped, and writes figures/beta.json and
figures/beta.png.
"""

import json
import math
from pathlib import Path

import torch
from tqdm import tqdm

from toy import data, plots
from toy.__main__ import CACHE
from toy.experiments import BETA, PAPER
from toy.files import output_folder, save_json
from toy.metrics import compare, judge
from toy.objectives import Run
from toy.pretrained import pretrained
from toy.statistics import interval
from toy.study import ENSEMBLE, auto_beta
from toy.train import align, draw, last
from toy.utilities import UTILITIES

FIGURES = Path(__file__).parent.parent / "figures"
SEEDS, SAMPLES, FACTORS = range(5), 1000, [2.0**k for k in range(-4, 6)]  # times the usual beta


def arctan(x):
    return torch.atan(x)


def clipped_at_1(x):
    return x.clamp(-1, 1)


def bent_tanh(x):
    return torch.tanh(x) * torch.where(x >= 0, 1.0, 2.25)


NAMES = (*PAPER, "prospect_theory", "arctan", "clipped_at_1", "bent_tanh")
ALL = UTILITIES | {f.__name__: f for f in (arctan, clipped_at_1, bent_tanh)}
PLACES = [(world, process) for world in data.WORLDS for process in BETA]


def measure(world: str, process: str, seed: int, rows: list[dict]) -> list[dict]:
    """The rows that are still missing of a world, process and seed; factor 0 stands for the beta found."""
    done = {
        (r["name"], r["factor"])
        for r in rows
        if (r["world"], r["process"], r["seed"]) == (world, process, seed)
    }
    todo = [(name, factor) for name in NAMES for factor in (0, *FACTORS) if (name, factor) not in done]
    if not todo:
        return []
    place = data.WORLDS[world]()
    model, likes = pretrained(place, seed, output_folder(CACHE), process), data.feedback(place, seed=seed)
    before = judge(draw(model, SAMPLES)[0], place, seed)
    usual = {name: Run(utility=ALL[name], beta=BETA[process], seed=seed) for name in NAMES}
    betas_of = {name: auto_beta(usual[name], model, likes) for name, factor in todo if not factor}
    new = []
    for part in (todo[i : i + ENSEMBLE] for i in range(0, len(todo), ENSEMBLE)):
        betas = [BETA[process] * factor if factor else betas_of[name][0] for name, factor in part]
        runs = [
            Run(utility=ALL[name], beta=beta, seed=seed) for (name, _), beta in zip(part, betas, strict=True)
        ]
        samples = draw(last(align(model, likes, runs)).policy, SAMPLES)
        for (name, factor), run, points in zip(part, runs, samples, strict=True):
            about = {"world": world, "process": process, "seed": seed, "name": name, "factor": factor}
            about |= {"beta": run.beta, "pilots": 0 if factor else betas_of[name][1]}
            new.append(about | {"balance": compare(judge(points, place, seed), before)["balance"]})
    return new


def summarise(rows: list[dict]) -> list[dict]:
    """For each utility and place: balance at the beta found, at the best of the grid, and their ratio."""
    summary = []
    for (world, process), name in ((p, n) for p in PLACES for n in NAMES):
        mine = [r for r in rows if (r["world"], r["process"], r["name"]) == (world, process, name)]
        at = {(r["factor"], r["seed"]): r["balance"] for r in mine}
        best = []
        for seed in SEEDS:
            others = {f: math.fsum(at[f, s] for s in SEEDS if s != seed) for f in FACTORS}
            best.append(at[max(others, key=others.get), seed])
        auto, theirs = [at[0, s] for s in SEEDS], [r for r in mine if r["factor"] == 0]
        entry = {"world": world, "process": process, "name": name, "seeds": len(SEEDS)}
        entry |= {"beta": math.exp(interval([math.log(r["beta"]) for r in theirs])[0])}
        entry |= {"pilots": interval([r["pilots"] for r in theirs])[0]}
        entry |= dict(zip(("balance", "half_width"), interval(auto), strict=True))
        entry |= {"best": interval(best)[0], "ratio": math.fsum(auto) / math.fsum(best)}
        loss = interval([b - a for a, b in zip(auto, best, strict=True)])
        summary.append(entry | dict(zip(("loss", "loss_half_width"), loss, strict=True)))
    return summary


def picture(rows: list[dict], summary: list[dict]) -> plots.plt.Figure:
    """Balance over beta: a line for each of the paper's utilities, and a star at the beta found."""
    fig, axes = plots.figure(2, len(data.WORLDS), 3.3, 3.0, sharey=True)
    order = [(world, process) for process in BETA for world in data.WORLDS]
    for ax, (world, process) in zip(axes, order, strict=True):
        for name in PAPER:
            label, colour, marker, line = plots.style(name)
            here = {"world": world, "process": process, "name": name}
            values = [
                [r["balance"] for r in rows if r.items() >= (here | {"factor": f}).items()] for f in FACTORS
            ]
            ax.plot(
                [BETA[process] * f for f in FACTORS],
                [interval(v)[0] for v in values],
                color=colour, linestyle=line, marker=marker, markersize=4, label=label,
            )  # fmt: skip
            [e] = [e for e in summary if e.items() >= here.items()]
            star = {"marker": "*", "markersize": 15, "markeredgecolor": "black", "color": colour}
            ax.plot(e["beta"], e["balance"], linestyle="none", label="found by pilots", **star)
        ax.set_xscale("log", base=2)
        ax.set(title=f"{world}, {process}", xlabel="beta", ylim=(-0.03, 1))
    axes[0].set_ylabel("balance")
    axes[len(data.WORLDS)].set_ylabel("balance")
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles[:5:2] + handles[1:2], labels[:5:2] + labels[1:2], loc="outside lower center", ncols=4)
    return fig


if __name__ == "__main__":
    file = output_folder(FIGURES) / "beta.json"
    rows = json.loads(file.read_text())["rows"] if file.exists() else []
    for place in tqdm([(*place, seed) for seed in SEEDS for place in PLACES]):
        new = measure(*place, rows)
        rows += new
        if new:
            save_json(file, {"rows": rows})
    summary = summarise(rows)
    save_json(file, {"summary": summary, "rows": rows})
    plots.save(picture(rows, summary), FIGURES / "beta.png")
    print("| utility | " + " | ".join(", ".join(place) for place in PLACES) + " |")
    print("|---|" + "---:|" * len(PLACES))
    for name in NAMES:
        print(f"| {name} | " + " | ".join(f"{e['ratio']:.2f}" for e in summary if e["name"] == name) + " |")
