"""One user's taste, on the tiny pipeline (the paper's Figure 7): python -m sd.figure7.

A preference for red images, or for large shapes under prompts that leave the size open, taught by each
objective from the same likes and dislikes; how far samples follow it, and whether they still show what
their prompt says, over training steps and seeds.
"""

import json
import shutil
import sys
from dataclasses import asdict
from itertools import product
from pathlib import Path

import matplotlib
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from sd import models, shapes
from sd.config import Config
from sd.sample import draw
from sd.tiny import GUIDANCE, PIPELINE
from sd.trainer import train
from toy import plots
from toy.__main__ import Parser, number
from toy.errors import InputError
from toy.files import output_folder, save_json
from toy.statistics import interval

KTO = {"objective": "diffusion_kto", "batch": 64}
OBJECTIVES = {
    "kahneman_tversky": KTO | {"utility": "kahneman_tversky"},
    "loss_averse": KTO | {"utility": "loss_averse"},
    "risk_seeking_bounded": KTO | {"utility": "risk_seeking_bounded"},
    "sft": {"objective": "sft", "batch": 64},
    "diffusion_dpo": {"objective": "diffusion_dpo", "batch": 32},  # pairs
}
COMMON = {"beta": 30.0, "gamma": 0.8, "lr": 5e-5, "warmup": 10, "precision": "fp32", "workers": 0}
TITLES = {"red": "A preference for red images", "large": "A preference for large shapes"}
STEPS = {"red": 90, "large": 40}
MEASURED = {"red": "redness", "large": "share of large shapes"}


def prompts(preference: str) -> list[str]:
    """What is drawn to measure by: each known caption once, or each that leaves the size open twice."""
    scenes = shapes.KNOWN if preference == "red" else shapes.OPEN_SIZE * 2
    return [scene.caption for scene in scenes]


def measure(images: Tensor, captions: list[str], preference: str) -> dict[str, float]:
    """How far the preference is met, and the share of images that show what their caption says."""
    if preference == "red":
        met = shapes.redness(images)
    else:
        met = torch.tensor([scene.size == "large" for scene in shapes.judge(images)]).float()
    return {"met": met.mean().item(), "following": shapes.follows(images, captions).float().mean().item()}


def feedback(preference: str, out: Path) -> str:
    """The folder of likes and dislikes, made if it is not there."""
    data = output_folder(out / f"{preference}-data")
    if not (data / "pairs.csv").exists():
        shapes.write_feedback(data, preference)
    return str(data)


def configure(objective: dict, seed: int, steps: int, **places: str) -> Config:
    return Config(seed=seed, steps=steps, save_every=steps, **COMMON, **objective, **places)


def kept(config: Config) -> list[dict] | None:
    """What was measured of a run that was done before with the same settings; what else is in its folder
    is removed."""
    result = Path(config.out) / "result.json"
    if result.exists():
        known = json.loads(result.read_text())
        if known["settings"] == json.loads(json.dumps(asdict(config))):
            return known["rows"]
    shutil.rmtree(config.out, ignore_errors=True)
    return None


def keep(config: Config, rows: list[dict]) -> list[dict]:
    shutil.rmtree(Path(config.out) / "checkpoints")
    save_json(Path(config.out) / "result.json", {"settings": asdict(config), "rows": rows})
    return rows


def study(preference: str, seeds: int, model: str, out: Path) -> tuple[list[dict], dict[str, Tensor]]:
    """What was measured, of every objective, seed and step; and some images of the first seed."""
    data, captions, steps = feedback(preference, out), prompts(preference), STEPS[preference]
    before = draw(models.load(model), captions, guidance=GUIDANCE)
    rows, shown = [], {"pretrained": before[:: len(before) // 12]}
    for seed, name in tqdm(list(product(range(seeds), OBJECTIVES)), f"runs, {preference}"):
        folder = out / f"{preference}-{name}-{seed}"
        config = configure(OBJECTIVES[name], seed, steps, model=model, data=data, out=str(folder))
        measured = kept(config)
        if measured is None:
            measured = []
            for state in train(config):
                if state.step % (steps // 5) == 0:
                    with state.trainer.final() as pipeline:
                        images = draw(pipeline, captions, guidance=GUIDANCE, seed=seed)
                    measured.append({"step": state.step} | measure(images, captions, preference))
            save_file({"images": images[:: len(images) // 12].contiguous()}, folder / "images.safetensors")
            keep(config, measured)
        rows += [{"name": name, "seed": seed, **row} for row in measured]
        shown.setdefault(name, load_file(folder / "images.safetensors")["images"])
    return rows, shown


def summarise(rows: list[dict]) -> list[dict]:
    """Mean and half width of the 95% interval over seeds, of every objective and step."""
    summary = []
    for name, step in dict.fromkeys((row["name"], row["step"]) for row in rows):
        same = [row for row in rows if (row["name"], row["step"]) == (name, step)]
        entry = {"name": name, "step": step, "seeds": len(same)}
        for key in ("met", "following"):
            entry[key], entry[f"{key}_half_width"] = interval([row[key] for row in same])
        summary.append(entry)
    return summary


def picture(preference: str, summary: list[dict], shown: dict[str, Tensor], note: str) -> plots.plt.Figure:
    """Both measures over steps, with bands; below them images before and after, of the same noise."""
    fig = plots.plt.figure(figsize=(9, 8.6), layout="constrained")
    above, below = fig.subfigures(2, 1, height_ratios=(1, 1.15))
    axes = above.subplots(1, 2)
    for ax, key, label in zip(
        axes, ("met", "following"), (MEASURED[preference], "prompts followed"), strict=True
    ):
        for name in OBJECTIVES:
            text, colour, marker, line = plots.style(name)
            same = [entry for entry in summary if entry["name"] == name]
            x, mean, half = (torch.tensor([e[k] for e in same]) for k in ("step", key, f"{key}_half_width"))
            ax.plot(x, mean, color=colour, marker=marker, linestyle=line, label=text, markersize=4)
            ax.fill_between(x, mean - half, mean + half, color=colour, alpha=0.15, linewidth=0)
        ax.set(xlabel="alignment step", ylabel=label)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25, linewidth=0.5)
    above.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    axes[1].set_ylim(top=1.02)
    grid = torch.cat([torch.cat(list(images), -1) for images in shown.values()], 1)
    ax = below.subplots()
    ax.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest")
    ax.set_xticks([])
    side = shapes.PIXELS
    ax.set_yticks([side * (i + 0.5) for i in range(len(shown))], [plots.style(name)[0] for name in shown])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    fig.suptitle(note, fontsize=10)
    return fig


def make_parser(program: str, about: str, seeds: int, least: int, runs: str) -> Parser:
    """The options that every study of the tiny pipeline has."""
    parser = Parser(program, description=about)
    count = number(least - 1, 1000, int)
    parser.add_argument("--seeds", type=count, default=seeds, metavar="N", help=f"how many seeds ({seeds})")
    parser.add_argument(
        "--model", default=str(PIPELINE), metavar="DIR", help="pipeline (the committed tiny one)"
    )
    parser.add_argument(
        "--out", default="out", metavar="DIR", help="folder for the picture and numbers (out)"
    )
    parser.add_argument("--runs", default=runs, metavar="DIR", help=f"folder for the runs ({runs})")
    return parser


def main(argv: list[str] | None = None) -> int:
    matplotlib.use("Agg")
    parser = make_parser("python -m sd.figure7", __doc__, seeds=1, least=1, runs="out/figure7")
    parser.add_argument("--preference", choices=shapes.PREFERENCES, default="red", help="what is liked (red)")
    try:
        options = parser.parse_args(argv)
        out, runs = output_folder(options.out), output_folder(options.runs, "--runs")
        rows, shown = study(options.preference, options.seeds, options.model, runs)
        summary = summarise(rows)
        seeds = "one seed" if options.seeds == 1 else f"mean of {options.seeds} seeds, 95% interval"
        note = f"{TITLES[options.preference]}: {seeds}; images of seed 0 from the same noise"
        name = "figure7" if options.preference == "red" else f"figure7-{options.preference}"
        path = plots.save(picture(options.preference, summary, shown, note), out / f"{name}.png")
        settings = COMMON | {"steps": STEPS[options.preference], "objectives": OBJECTIVES}
        table = save_json(out / f"{name}.json", {"settings": settings, "summary": summary, "rows": rows})
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nerror: interrupted; runs that were finished are kept", file=sys.stderr)
        return 2
    for entry in summary:
        if entry["step"] == STEPS[options.preference]:
            met, following = (
                f"{entry[k]:.3f}" + (f" ± {entry[f'{k}_half_width']:.3f}" if options.seeds > 1 else "")
                for k in ("met", "following")
            )
            label = plots.style(entry["name"])[0]
            print(f"{label:24}{MEASURED[options.preference]} {met}, prompts followed {following}")
    print(f"wrote {path} and {table}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
