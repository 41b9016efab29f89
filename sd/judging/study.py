"""Every objective on votes as people give them, pushed until it breaks (see sd.judging.paths).

Settings, and the step at which an objective is best, are chosen on another seed and by other prompts than
those that judge.
"""

from itertools import chain, product
from pathlib import Path

import torch
from tqdm import tqdm

from sd.judging.paths import PUSH, STEPS, TUNING_SEED, options, walk
from sd.tiny.runs import OBJECTIVES, PIPELINE, shared_settings
from toy import breaks, plots
from toy.files import output_folder, save_json
from toy.objectives import OBJECTIVES as NEEDS
from toy.statistics import interval

FACTORS, GAMMAS = (1, 4), (0.5, 0.8)  # tried: times the recipe's beta, and for likes and dislikes
MEANS = ("wins", "wins_minority", "following", "left", "large", "flaw", "moved")
TICKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1)
SHOWN = ("wins", "following", "left", "flaw")


def main(seeds: int, model: str | None, out: str, runs: str) -> list[Path]:
    """Choose settings, train, judge, draw the picture and print the table. Returns the files written."""
    folder, model = output_folder(out), model or PIPELINE
    tuned, rows = study(list(OBJECTIVES), seeds, model, output_folder(runs, "--runs"))
    summary = summarise(tuned, rows)
    print_table(summary)
    figure = plots.save(picture(summary, rows, f"{seeds} seeds, 95% intervals"), folder / "study.png")
    settings = shared_settings(model) | PUSH | {"objectives": OBJECTIVES}
    content = {"settings": settings, "summary": summary, "tuned": tuned, "rows": rows}
    return [figure, save_json(folder / "study.json", content)]


def study(names: list[str], seeds: int, model: str | Path, runs: Path) -> tuple[list[dict], list[dict]]:
    """For each name, an objective's or a utility's, the row of the best settings and step on the tuning seed;
    and the rows of its paths with these settings, for every seed."""
    tuned, rows, beta = [], [], shared_settings(model)["beta"]
    for name in tqdm(names, "choosing settings"):
        paths = [walk(name, choice, TUNING_SEED, model, runs) for choice in choices(name, beta)]
        tuned.append(max(chain(*paths), key=lambda row: row["wins"]))
    for seed, best in tqdm(list(product(range(seeds), tuned)), "judging"):
        choice = {key: best[key] for key in ("beta", "gamma") if key in best}
        rows += walk(best["name"], choice, seed, model, runs)
    return tuned, rows


def choices(name: str, beta: float) -> list[dict]:
    """The settings to choose from, with the recipe's beta. SFT and CSFT have none."""
    needs = NEEDS[options(name)["objective"]]
    if not needs.reference:
        return [{}]
    if needs.pairs:
        return [{"beta": beta * factor} for factor in FACTORS]
    return [{"beta": beta * factor, "gamma": gamma} for factor, gamma in product(FACTORS, GAMMAS)]


def summarise(tuned: list[dict], rows: list[dict]) -> list[dict]:
    """For each name at its own step, means over seeds with half widths of 95% intervals; how much more often
    it wins than Kahneman-Tversky, paired over seeds; and how far it goes before it breaks."""
    own = {
        (r["name"], r["seed"]): r
        for t in tuned
        for r in rows
        if (r["name"], r["step"]) == (t["name"], t["step"])
    }
    far = {entry["name"]: entry for entry in breaks.best(rows, "wins")}
    summary = []
    for best in tuned:
        same = {seed: row for (name, seed), row in own.items() if name == best["name"]}
        entry = {key: best[key] for key in ("name", "beta", "gamma", "step") if key in best}
        entry["seeds"] = len(same)
        for key in MEANS:
            entry[key], entry[f"{key}_half_width"] = interval([row[key] for row in same.values()])
        ahead = [row["wins"] - own["kahneman_tversky", seed]["wins"] for seed, row in same.items()]
        entry["ahead"], entry["ahead_half_width"] = interval(ahead)
        entry |= {key: far[best["name"]][key] for key in ("last", "breaks_at", "low", "high", "broke")}
        summary.append(entry)
    return sorted(summary, key=lambda entry: -entry["wins"])


def print_table(summary: list[dict]) -> None:
    """Best first."""
    heads = "".join(f"{head:>18}" for head in (*SHOWN, "breaks at"))
    print(f"\n{'':24}{'beta':>6}{'gamma':>7}{'step':>6}{heads}")
    for e in summary:
        cells = [f"{e[key]:.3f} ± {e[f'{key}_half_width']:.3f}" for key in SHOWN]
        cells.append(f"{'' if e['broke'] else '> '}{e['breaks_at']:.2f}")
        chosen = f"{e.get('beta', ''):>6}{e.get('gamma', ''):>7}{e['step']:6}"
        print(f"{plots.style(e['name'])[0]:24}{chosen}" + "".join(f"{cell:>18}" for cell in cells))


def picture(summary: list[dict], rows: list[dict], note: str) -> plots.plt.Figure:
    """What each objective wins and keeps at the step that was chosen for it, and on its whole path."""
    fig, axes = plots.figure(1, 3, 4.4, 4.2)
    for entry in summary:
        label, colour, marker, line = plots.style(entry["name"])
        look = {"color": colour, "marker": marker, "label": label}
        halves = {
            f"{axis}err": entry[f"{key}_half_width"] for axis, key in (("x", "wins"), ("y", "following"))
        }
        axes[0].errorbar(entry["wins"], entry["following"], **halves, **look, markersize=8, capsize=3)
        for ax, key in zip(axes[1:], ("wins", "following"), strict=True):
            same = [[r for r in rows if (r["name"], r["step"]) == (entry["name"], step)] for step in STEPS]
            x = [interval([r["moved"] for r in group])[0] for group in same if group]
            y, half_width = torch.tensor([interval([r[key] for r in group]) for group in same if group]).T
            ax.plot(x, y, **look, linestyle=line, markersize=4)
            ax.fill_between(x, y - half_width, y + half_width, color=colour, alpha=0.12, linewidth=0)
    axes[0].set(xlabel="wins", ylabel="prompts followed", title="At the step in the table", ylim=(0, 1.05))
    axes[1].set(ylabel="wins against before training", title="Pushed farther and farther", ylim=(0, 1))
    axes[2].set(ylabel="prompts followed", ylim=(0, 1.05))
    for ax in axes[1:]:
        ax.set(xlabel="how far predictions have moved", xscale="log")
        ax.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
        ax.minorticks_off()
    axes[1].axhline(0.5, color="#444444", linestyle=":", linewidth=1)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=9)
    fig.suptitle(note, fontsize=10)
    return fig
