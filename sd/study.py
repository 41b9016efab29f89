"""The tiny pipeline's own study: python -m sd.study.

Every objective is taught a preference for red, as for Figure 7, over several seeds; then judged as
sd.sample and sd.evaluate judge any model: redness, prompts followed, and how often Diffusion-KTO wins.
"""

import sys
from itertools import product
from pathlib import Path

import matplotlib
from diffusers import DiffusionPipeline
from tqdm import tqdm

from sd import models, shapes
from sd.cache import CSFT
from sd.evaluate import evaluate
from sd.figure7 import COMMON, OBJECTIVES, STEPS, configure, feedback, keep, kept, make_parser
from sd.prompts import Prompt
from sd.sample import sample
from sd.tiny import GUIDANCE
from sd.trainer import train
from toy import plots
from toy.errors import InputError
from toy.files import output_folder, save_json
from toy.statistics import interval

STUDIED = OBJECTIVES | {  # the first is compared with the others
    "csft": {"objective": "csft", "batch": 64},
    "smpo": {"objective": "smpo", "batch": 32},
}
PROMPTS = [Prompt(scene.caption, "") for scene in shapes.KNOWN]
SCORERS = {"met": "redness", "following": "following"}


def study(seeds: int, model: str, runs: Path) -> list[dict]:
    """Scores and win rates of sd.evaluate, of every objective and seed; runs done before are kept."""
    data, rows = feedback("red", runs), []
    folders = [{name: runs / f"{name}-{seed}" / "images" for name in STUDIED} for seed in range(seeds)]
    for seed, name in tqdm(list(product(range(seeds), STUDIED)), "runs"):
        run = str(runs / f"{name}-{seed}")
        config = configure(STUDIED[name], seed, STEPS["red"], model=model, data=data, out=run)
        if kept(config) is None:
            for state in train(config):
                pass
            with state.trainer.final() as pipeline:
                draw(pipeline, folders[seed][name], name, seed)
            keep(config, [])
    for seed in tqdm(range(seeds), "judging"):
        folders[seed]["pretrained"] = runs / f"pretrained-{seed}"
        draw(models.load(model), folders[seed]["pretrained"], "pretrained", seed)
        rows += [{"seed": seed, **row} for row in evaluate(folders[seed], list(SCORERS.values()), runs)[2]]
    return rows


def draw(pipeline: DiffusionPipeline, folder: Path, name: str, seed: int) -> None:
    """5 images of each prompt; those of CSFT are asked for as good ones."""
    prefix = CSFT[True] if name == "csft" else ""
    out = output_folder(folder)
    sample(pipeline, PROMPTS, out, name=name, seed=seed, guidance=GUIDANCE, batch=60, prefix=prefix)


def summarise(rows: list[dict]) -> list[dict]:
    """Of every model, means over seeds with the half width of their 95% interval: redness ("met"), prompts
    followed, and the share of prompts that the first model wins against it by each."""
    summary = []
    for name in dict.fromkeys(row["model"] for row in rows):
        entry = {"name": name}
        for key, scorer in SCORERS.items():
            mine = [row for row in rows if row["model"] == name and row["scorer"] == scorer]
            entry["seeds"] = len(mine)
            entry[key], entry[f"{key}_half_width"] = interval([row["mean"] for row in mine])
            if "win_rate" in mine[0]:
                rate, half = interval([row["win_rate"] for row in mine])
                entry |= {f"win_{key}": rate, f"win_{key}_half_width": half}
        summary.append(entry)
    return summary


def picture(summary: list[dict], note: str) -> plots.plt.Figure:
    """Redness and prompts followed of every model; and how often the first wins against each other."""
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


def main(argv: list[str] | None = None) -> int:
    matplotlib.use("Agg")
    about = "Every objective on the tiny pipeline, judged; intervals need two seeds or more."
    parser = make_parser("python -m sd.study", about, seeds=5, least=2, runs="out/study")
    try:
        options = parser.parse_args(argv)
        out, runs = output_folder(options.out), output_folder(options.runs, "--runs")
        rows = study(options.seeds, options.model, runs)
        summary = summarise(rows)
        note = f"A preference for red images: mean of {options.seeds} seeds, 95% interval"
        path = plots.save(picture(summary, note), out / "study.png")
        settings = COMMON | {"steps": STEPS["red"], "objectives": STUDIED}
        table = save_json(out / "study.json", {"settings": settings, "summary": summary, "rows": rows})
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nerror: interrupted; runs that were finished are kept", file=sys.stderr)
        return 2
    for entry in summary:
        said = [f"{key} {entry[k]:.3f} ± {entry[f'{k}_half_width']:.3f}" for k, key in SCORERS.items()]
        if "win_met" in entry:
            rate = f"{entry['win_met']:.3f} ± {entry['win_met_half_width']:.3f}"
            said.append(f"beaten by redness on {rate} of prompts")
        print(f"{plots.style(entry['name'])[0]:24}{', '.join(said)}")
    print(f"wrote {path} and {table}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
