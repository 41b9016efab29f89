"""How rare may likes be, and how large a batch does the reference point need? In 2-D: python docs/data.py

First, 500 labels of which fewer and fewer are likes. Then batches of fewer and fewer examples, with the
reference point of the batch and without one; the number of steps and the learning rate stay. It takes about
5 minutes of CPU time, and writes figures/data.json and figures/data.png.
"""

from pathlib import Path

from tqdm import tqdm

from toy import data, plots
from toy.__main__ import CACHE
from toy.files import output_folder, save_json
from toy.metrics import compare, judge
from toy.objectives import Run
from toy.pretrained import pretrained
from toy.statistics import interval
from toy.train import align, draw, last
from toy.utilities import UTILITIES

FIGURES = Path(__file__).parent.parent / "figures"
SEEDS, SAMPLES, LABELS, WORLDS = range(10), 1000, 500, ("figure6", "moons")
SHARES, BATCHES = (0.5, 0.2, 0.1, 0.05, 0.02), (128, 32, 16, 8, 4, 2)
NAMES = ("kahneman_tversky", "loss_averse", "risk_seeking_bounded")
RUNS = {name: Run(utility=UTILITIES[name]) for name in NAMES} | {"sft": Run("sft")}
POINTS = {"batch": Run(), "none": Run(reference_point="none")}


def measure(world: data.World, runs: dict[str, Run], share: float = 0.5, batch: int = 128) -> list[dict]:
    """A row for each run and seed, with this share of likes, and batches of this size."""
    rows = []
    for seed in SEEDS:
        model = pretrained(world, seed, output_folder(CACHE))
        feedback = data.feedback(world, LABELS, share, seed=seed)
        policy = last(align(model, feedback, list(runs.values()), batch=batch)).policy
        before = judge(draw(model, SAMPLES)[0], world, seed)
        for name, samples in zip(runs, draw(policy, SAMPLES), strict=True):
            rows.append({"name": name, "seed": seed, **compare(judge(samples, world, seed), before)})
    return rows


def main() -> None:
    rows = []
    for name in tqdm(WORLDS, "worlds"):
        world = data.WORLDS[name]()
        for knob, values, runs in (("share", SHARES, RUNS), ("batch", BATCHES, POINTS)):
            for value in tqdm(values, knob, leave=False):
                new = measure(world, runs, **{knob: value})
                rows += [{"world": name, "knob": knob, "value": value, **row} for row in new]
    summary = []
    for key in dict.fromkeys((r["world"], r["knob"], r["value"], r["name"]) for r in rows):
        same = [r["balance"] for r in rows if (r["world"], r["knob"], r["value"], r["name"]) == key]
        mean, half_width = interval(same)
        names = ("world", "knob", "value", "name")
        summary.append({**dict(zip(names, key, strict=True)), "balance": mean, "half_width": half_width})
    save_json(FIGURES / "data.json", {"summary": summary, "rows": rows})
    plots.save(picture(summary), FIGURES / "data.png")


def picture(summary: list[dict]) -> plots.plt.Figure:
    """Balance over the share of likes, and over the size of a batch."""
    fig, axes = plots.figure(len(WORLDS), 2, 4.6, 3.0, sharey=True)
    looks = {"batch": ("reference point of the batch", *plots.style("kahneman_tversky")[1:])}
    looks["none"] = ("no reference point", *plots.style("yours")[1:])
    for place, ax in enumerate(axes):
        world, knob = WORLDS[place // 2], ("share", "batch")[place % 2]
        theirs = [e for e in summary if (e["world"], e["knob"]) == (world, knob)]
        for name in dict.fromkeys(e["name"] for e in theirs):
            label, colour, marker, line = looks.get(name) or plots.style(name)
            mine = [e for e in theirs if e["name"] == name]
            x, y, half = zip(*((e["value"], e["balance"], e["half_width"]) for e in mine), strict=True)
            look = {"color": colour, "marker": marker, "linestyle": line, "label": label, "capsize": 3}
            ax.errorbar(x, y, half, markersize=5, **look)
        text = "share of likes among 500 labels" if knob == "share" else "examples in a batch"
        ax.set(xscale="log", xlabel=text, title="Figure 6" if world == "figure6" else world, ylabel="balance")
        ticks = SHARES if knob == "share" else BATCHES
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
        ax.legend(fontsize=8)
    return fig


if __name__ == "__main__":
    main()
