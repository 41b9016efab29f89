"""Judge every objective on the tiny pipeline.

Each objective teaches the pipeline a preference for red, as in Figure 7, with several seeds. The results are
judged as any model is: by redness, by prompts followed, and by how often Diffusion-KTO wins.
"""

from itertools import product
from pathlib import Path

from diffusers import DiffusionPipeline
from tqdm import tqdm

from sd import models
from sd.judging.evaluate import evaluate
from sd.judging.prompts import Prompt
from sd.judging.sample import sample
from sd.tiny import shapes
from sd.tiny.runs import (
    GUIDANCE,
    OBJECTIVES,
    PIPELINE,
    STEPS,
    configure,
    load_result,
    save_result,
    shared_settings,
)
from sd.trainer import train
from toy import plots
from toy.files import output_folder, save_json
from toy.objectives import OBJECTIVES as NEEDS
from toy.statistics import interval

PROMPTS = [Prompt(caption, "") for caption in shapes.prompts("red")]
SCORERS = {"met": "redness", "following": "following"}


def main(seeds: int, model: str | None, out: str, runs: str) -> list[Path]:
    """Train, judge, draw the picture, and print the results. Returns the files written."""
    folder = output_folder(out)
    rows = study(seeds, model, output_folder(runs, "--runs"))
    summary = summarise(rows)
    note = f"A preference for red images: mean of {seeds} seeds, 95% interval"
    path = plots.save(picture(summary, note), folder / "study.png")
    settings = shared_settings(model or PIPELINE) | {"steps": STEPS["red"], "objectives": OBJECTIVES}
    table = save_json(folder / "study.json", {"settings": settings, "summary": summary, "rows": rows})
    first = plots.style(summary[0]["name"])[0]
    for entry in summary:
        numbers = [f"{text} {entry[k]:.3f} ± {entry[f'{k}_half_width']:.3f}" for k, text in SCORERS.items()]
        if "win_met" in entry:
            rate = f"{entry['win_met']:.3f} ± {entry['win_met_half_width']:.3f}"
            numbers.append(f"{first} is redder on {rate} of the prompts")
        print(f"{plots.style(entry['name'])[0]:24}{', '.join(numbers)}")
    return [path, table]


def study(seeds: int, model: str | None, runs: Path) -> list[dict]:
    """Scores and win rates of every objective and seed. Finished runs are not done again."""
    rows = []
    for seed, name in tqdm(list(product(range(seeds), OBJECTIVES)), "runs"):
        config = configure(name, "red", seed, model or PIPELINE, runs)
        if load_result(config) is None:
            for state in train(config):
                pass
            with state.trainer.final() as pipeline:
                draw(pipeline, Path(config.out) / "images", name, seed)
            save_result(config, [])
    for seed in tqdm(range(seeds), "judging"):
        folders = {name: runs / f"red-{name}-{seed}" / "images" for name in OBJECTIVES}
        folders["pretrained"] = runs / f"pretrained-{seed}"
        draw(models.load(model or PIPELINE), folders["pretrained"], "pretrained", seed)
        rows += [{"seed": seed, **row} for row in evaluate(folders, list(SCORERS.values()), runs)[2]]
    return rows


def draw(pipeline: DiffusionPipeline, folder: Path, name: str, seed: int) -> None:
    """5 images of each prompt. CSFT's prompts begin as the captions of liked images did in training."""
    captions = NEEDS[OBJECTIVES[name]["objective"]].captions if name in OBJECTIVES else ()
    options = {"seed": seed, "guidance": GUIDANCE, "batch": 60, "prefix": captions[True] if captions else ""}
    sample(pipeline, PROMPTS, output_folder(folder), name=name, **options)


def summarise(rows: list[dict]) -> list[dict]:
    """For each model, means over seeds with half widths of their 95% intervals: redness ("met"), prompts
    followed, and by each of these the share of prompts that the first model wins against it."""
    summary = []
    for name in dict.fromkeys(row["model"] for row in rows):
        entry = {"name": name}
        for key, scorer in SCORERS.items():
            same = [row for row in rows if row["model"] == name and row["scorer"] == scorer]
            entry["seeds"] = len(same)
            entry[key], entry[f"{key}_half_width"] = interval([row["mean"] for row in same])
            if "win_rate" in same[0]:
                rates = [row["win_rate"] for row in same]
                entry[f"win_{key}"], entry[f"win_{key}_half_width"] = interval(rates)
        summary.append(entry)
    return summary


def picture(summary: list[dict], note: str) -> plots.plt.Figure:
    """Redness and prompts followed of each model, and how often the first model wins against it."""
    fig, (left, right) = plots.figure(1, 2, 4.8, 4.4)
    for entry in summary:
        label, colour, marker, _ = plots.style(entry["name"])
        look = {"color": colour, "marker": marker, "markersize": 7, "capsize": 3, "linestyle": "none"}
        halves = {"xerr": entry["met_half_width"], "yerr": entry["following_half_width"]}
        left.errorbar(entry["met"], entry["following"], **halves, **look, label=label)
    left.set(xlabel="redness", ylabel="share of prompts followed", title="Means of 5 images per prompt")
    fig.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    others = sorted(summary[1:], key=lambda entry: entry["win_met"])
    for place, entry in enumerate(others):
        _, colour, marker, _ = plots.style(entry["name"])
        for key, lift, fill in (("met", 0.1, "full"), ("following", -0.15, "none")):
            look = {"color": colour, "marker": marker, "markersize": 7, "capsize": 3, "fillstyle": fill}
            right.errorbar(entry[f"win_{key}"], place + lift, xerr=entry[f"win_{key}_half_width"], **look)
    right.axvline(0.5, color="#444444", linestyle=":", linewidth=1.2)
    right.set_yticks(range(len(others)), [plots.style(entry["name"])[0] for entry in others])
    right.set(xlim=(-0.03, 1.03), title=f"{plots.style(summary[0]['name'])[0]} against each")
    right.set_xlabel("share of prompts won: filled, by redness;\nempty, by following the prompt")
    fig.suptitle(note, fontsize=10)
    return fig
