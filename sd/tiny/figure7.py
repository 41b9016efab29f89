"""Teach the tiny pipeline one user's taste (the paper's Figure 7).

Each objective teaches a preference for red images, or for large shapes under prompts that leave the size
open, from the same likes and dislikes. Two things are measured over training steps and seeds: how far
samples meet the preference, and whether they still show what their prompt says.
"""

from itertools import product
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from sd import models
from sd.draw import draw
from sd.tiny import shapes
from sd.tiny.runs import (
    GUIDANCE,
    OBJECTIVES,
    PIPELINES,
    STEPS,
    configure,
    load_result,
    save_result,
    shared_settings,
)
from sd.trainer import train
from toy import plots
from toy.files import output_folder, save_json
from toy.statistics import interval

METHODS = ("kahneman_tversky", "loss_averse", "risk_seeking_bounded", "sft", "diffusion_dpo")
TITLES = {"red": "A preference for red images", "large": "A preference for large shapes"}
FAMILIES = {"unet": "UNet, diffusion", "sd3": "transformer, flow matching (v3)", "yours": "your pipeline"}
MEASURES = {"red": "redness", "large": "share of large shapes"}


def main(seeds: int, model: str | None, out: str, runs: str, preference: str) -> list[Path]:
    """Teach, measure, draw the picture, and print the results. Returns the files written."""
    folder, pipelines = output_folder(out), {"yours": Path(model)} if model else PIPELINES
    rows, galleries, settings = [], {}, {"steps": STEPS[preference]}
    for family, pipeline in pipelines.items():
        theirs, galleries[family] = study(preference, seeds, pipeline, output_folder(runs, "--runs") / family)
        rows += [{"family": family, **row} for row in theirs]
        settings[family] = shared_settings(pipeline)
    settings["objectives"] = {name: OBJECTIVES[name] for name in METHODS}
    summary = summarise(rows)
    basis = "one seed" if seeds == 1 else f"mean of {seeds} seeds, 95% interval"
    note = f"{TITLES[preference]}: {basis}; images of seed 0 from the same noise"
    name = "figure7" if preference == "red" else f"figure7-{preference}"
    path = plots.save(picture(preference, summary, galleries, note), folder / f"{name}.png")
    table = save_json(folder / f"{name}.json", {"settings": settings, "summary": summary, "rows": rows})
    for entry in summary:
        if entry["step"] == STEPS[preference]:
            numbers = []
            for key, text in {"met": MEASURES[preference], "following": "prompts followed"}.items():
                half_width = f" ± {entry[f'{key}_half_width']:.3f}" if seeds > 1 else ""
                numbers.append(f"{text} {entry[key]:.3f}{half_width}")
            print(f"{entry['family']:7}{plots.style(entry['name'])[0]:24}{', '.join(numbers)}")
    return [path, table]


def measure(images: Tensor, captions: list[str], preference: str) -> dict[str, float]:
    """How far the preference is met, and the share of images that show what their caption says."""
    if preference == "red":
        met = shapes.redness(images)
    else:
        met = torch.tensor([scene.size == "large" for scene in shapes.judge(images)]).float()
    return {"met": met.mean().item(), "following": shapes.follows(images, captions).float().mean().item()}


def study(preference: str, seeds: int, model: Path, runs: Path) -> tuple[list[dict], dict[str, Tensor]]:
    """Measurements of every objective, seed and step; and some images of seed 0, by objective."""
    captions, steps = shapes.prompts(preference), STEPS[preference]
    before = draw(models.load(model), captions, guidance=GUIDANCE)
    rows, gallery = [], {"pretrained": before[:: len(before) // 12]}
    for seed, name in tqdm(list(product(range(seeds), METHODS)), f"runs, {preference}"):
        config = configure(name, preference, seed, model, runs)
        file = Path(config.out) / "images.safetensors"
        result = load_result(config)
        if result is None:
            result = []
            for state in train(config):
                if state.step % (steps // 5) == 0:
                    with state.trainer.final() as pipeline:
                        images = draw(pipeline, captions, guidance=GUIDANCE, seed=seed)
                    spread = (state.metrics or {}).get("spread")
                    row = {"step": state.step, "spread": spread} | measure(images, captions, preference)
                    result.append(row)
            save_file({"images": images[:: len(images) // 12].contiguous()}, file)
            save_result(config, result)
        rows += [{"name": name, "seed": seed, **row} for row in result]
        gallery.setdefault(name, load_file(file)["images"])
    return rows, gallery


def summarise(rows: list[dict]) -> list[dict]:
    """For each pipeline, objective and step, means over seeds with half widths of their 95% intervals."""
    summary = []
    keys = ("family", "name", "step")
    for key in dict.fromkeys(tuple(row[k] for k in keys) for row in rows):
        same = [row for row in rows if tuple(row[k] for k in keys) == key]
        entry = dict(zip(keys, key, strict=True)) | {"seeds": len(same)}
        for value in ("met", "following"):
            entry[value], entry[f"{value}_half_width"] = interval([row[value] for row in same])
        spreads = [row["spread"] for row in same if row["spread"] is not None]
        entry["spread"] = sum(spreads) / len(spreads) if spreads else None
        summary.append(entry)
    return summary


def picture(
    preference: str, summary: list[dict], galleries: dict[str, dict[str, Tensor]], note: str
) -> plots.plt.Figure:
    """A row for each pipeline: both measures over steps, with bands, and images before and after, from the
    same noise."""
    fig = plots.plt.figure(figsize=(13, 3.7 * len(galleries) + 0.9), layout="constrained")
    rows = fig.subfigures(len(galleries), 1, squeeze=False)[:, 0]
    labels = {"met": MEASURES[preference], "following": "prompts followed"}
    for row, (family, gallery) in zip(rows, galleries.items(), strict=True):
        *axes, images = row.subplots(1, 3, width_ratios=(1, 1, 1.35))
        for ax, (key, label) in zip(axes, labels.items(), strict=True):
            for name in METHODS:
                text, colour, marker, line = plots.style(name)
                same = [e for e in summary if (e["family"], e["name"]) == (family, name)]
                columns = ("step", key, f"{key}_half_width")
                x, mean, half_width = (torch.tensor([e[k] for e in same]) for k in columns)
                ax.plot(x, mean, color=colour, marker=marker, linestyle=line, label=text, markersize=4)
                ax.fill_between(
                    x, mean - half_width, mean + half_width, color=colour, alpha=0.15, linewidth=0
                )
            low, high = (pick(entry[key] for entry in summary) for pick in (min, max))  # for all pipelines
            margin = 0.08 * (high - low) + 1e-3
            ax.set(xlabel="alignment step", ylabel=label, ylim=(low - margin, high + margin))
            ax.spines[["top", "right"]].set_visible(False)
            ax.grid(alpha=0.25, linewidth=0.5)
        axes[0].set_title(FAMILIES[family], loc="left", fontsize=11)
        _show(images, gallery)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=9)
    fig.suptitle(note, fontsize=11)
    return fig


def _show(ax: plots.plt.Axes, gallery: dict[str, Tensor]) -> None:
    """Images as a grid, one row for each objective."""
    grid = torch.cat([torch.cat(list(images), -1) for images in gallery.values()], 1)
    ax.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest")
    ax.set_xticks([])
    middles = [shapes.PIXELS * (i + 0.5) for i in range(len(gallery))]
    ax.set_yticks(middles, [plots.style(name)[0] for name in gallery])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
