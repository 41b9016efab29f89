"""Does a verdict on points hold on images? python -m docs.transfer

Paths of 13 utilities, both losses on pairs, SFT and CSFT, on votes about images and in three worlds of the
plane. Utilities have the beta that pilots find, and gamma 0.5, which suits the votes; in the plane also 30%
wrong labels, and the usual beta and gamma. On images the objectives without a utility are those of python -m
sd study. It takes two hours, most of them for images, and goes on where it was stopped (out/transfer). Writes
figures/transfer.json and figures/transfer.png.
"""

import json
from itertools import combinations
from pathlib import Path

from tqdm import tqdm

from docs.predict import WORLDS, rank_correlation
from sd.judging.paths import auto, walk
from sd.tiny.runs import PIPELINE
from toy import data, plots
from toy.__main__ import CACHE
from toy.breaks import best, breaks
from toy.experiments import BETA
from toy.files import output_folder, save_json
from toy.objectives import OBJECTIVES, Run
from toy.paths import paths
from toy.pretrained import pretrained
from toy.statistics import interval
from toy.study import auto_beta
from toy.utilities import UTILITIES, load_utility

ROOT = Path(__file__).parent.parent
MORE = ("arctan", "clipped", "asymmetric", "exploding", "huber", "fearful_sigmoid", "wave")
OTHERS = ("sft", "csft", "diffusion_dpo", "smpo")
SEEDS, TUNING_SEED, GAMMA = 5, 1000, 0.5
FLIPPED = {"usual beta, gamma 0.8": 0.0, "as on images": 0.0, "as on images, 30% wrong": 0.3}
NUMBERS = {"best": "best score", "last": "score at the end", "breaks_at": "distance it goes"}
PAIRS = (("best", "best"), ("best", "last"), ("last", "last"), ("breaks_at", "breaks_at"))  # plane, images


def spec(name: str) -> str:
    return name if name in UTILITIES else f"{ROOT}/docs/more_utilities.py:{name}"


def on_images() -> list[dict]:
    """The paths on images, walked now or before, and those of the study."""
    runs, rows = output_folder(ROOT / "out" / "transfer"), []
    for name in tqdm((*UTILITIES, *MORE), "images"):
        choice = auto(spec(name), GAMMA, PIPELINE, runs)
        for seed in range(SEEDS):
            rows += [row | {"name": name} for row in walk(spec(name), choice, seed, PIPELINE, runs)]
    study = json.loads((ROOT / "figures" / "study.json").read_text())["rows"]
    return rows + [row for row in study if row["name"] in OTHERS]


def in_the_plane(world: str, setting: str) -> list[dict]:
    """The paths of the same names in a world, from out/transfer or measured now."""
    file = output_folder(ROOT / "out" / "transfer") / f"{world}, {setting}.json"
    if not file.exists():
        place, flipped = data.WORLDS[world](), FLIPPED[setting]
        runs = [(name, Run(name, beta=BETA["diffusion"])) for name in OTHERS]
        model = pretrained(place, TUNING_SEED, output_folder(CACHE), "diffusion")
        likes = data.feedback(place, flipped=flipped, seed=TUNING_SEED)
        for name in (*UTILITIES, *MORE):
            run = Run(utility=load_utility(spec(name)), seed=TUNING_SEED)
            if "as on images" in setting:
                run = Run(utility=run.utility, gamma=GAMMA, seed=TUNING_SEED)
                run = Run(utility=run.utility, gamma=GAMMA, beta=auto_beta(run, model, likes)[0])
            runs.append((name, run))
        save_json(file, {"rows": paths(place, runs, range(SEEDS), str(CACHE), flipped=flipped)})
    return json.loads(file.read_text())["rows"]


def agreement(points: list[dict], images: list[dict]) -> dict[str, int]:
    """Of all pairs of names, by their best scores, paired over seeds: how many the plane tells apart, how
    many of these images tell apart too, and in how many of those the same one is ahead."""
    scores = []
    for rows, score in ((points, "balance"), (images, "wins")):
        scores.append({(e["name"], e["seed"]): e["best"] for e in breaks(rows, score)})
    names = sorted({name for name, _ in scores[0]} & {name for name, _ in scores[1]})
    count = {"plane": 0, "both": 0, "same": 0}
    for first, other in combinations(names, 2):
        signs = []
        for at in scores:
            gap, doubt = interval([at[first, seed] - at[other, seed] for seed in range(SEEDS)])
            signs.append((gap > doubt) - (gap < -doubt))
        count["plane"] += signs[0] != 0
        count["both"] += 0 not in signs
        count["same"] += 0 not in signs and signs[0] == signs[1]
    return count | {"names": len(names)}


def correlate(points: list[dict], images: list[dict]) -> list[dict]:
    """Rank correlations of a number in the plane with one on images: of all names, and of utilities alone."""
    rows = []
    for of, on in PAIRS:
        sides = {e["name"]: e[of] for e in points}, {e["name"]: e[on] for e in images}
        alone = [{k: v for k, v in side.items() if k not in OBJECTIVES} for side in sides]
        rows.append({"plane": of, "images": on, "all": rank_correlation(*sides)})
        rows[-1]["utilities"] = rank_correlation(*alone)
    return rows


def picture(plane: dict[str, list[dict]], images: list[dict]) -> plots.plt.Figure:
    """Each name as a dot, plane against images: its best score, and its score at the end of the path."""
    fig, axes = plots.figure(2, len(plane), 4.6, 4.2)
    on_image = {e["name"]: e for e in images}
    for row, of in enumerate(("best", "last")):
        for ax, (title, entries) in zip(axes[row * len(plane) :], plane.items(), strict=False):
            order = sorted(entries, key=lambda e: on_image[e["name"]][of])
            for place, e in enumerate(order):  # names to the right and to the left in turn, to stay apart
                label, colour, marker, _ = plots.style(e["name"])
                x, y = e[of], on_image[e["name"]][of]
                ax.plot(x, y, linestyle="none", marker=marker, color=colour)
                side = {"ha": "right", "xytext": (-6, -2)} if place % 2 else {"ha": "left", "xytext": (6, -2)}
                text = label.replace("_", " ")
                ax.annotate(text, (x, y), textcoords="offset points", fontsize=7, **side)
            ax.margins(x=0.5)
            ax.set(xlabel=f"in the plane: {NUMBERS[of]}", ylabel=f"on images: {NUMBERS[of]}")
            ax.set_title(title, fontsize=9)
    return fig


def main() -> None:
    images, correlations, pairs, points = on_images(), [], [], {}
    summary = best(images, "wins")
    for setting in FLIPPED:
        for world, title in WORLDS.items():
            rows = in_the_plane(world, setting)
            about = {"world": world, "setting": setting}
            points[f"{title}, {setting}"] = best(rows, "balance")
            correlations += [about | row for row in correlate(points[f"{title}, {setting}"], summary)]
            pairs.append(about | agreement(rows, images))
    print(*correlations, *pairs, sep="\n")
    keys = ("name", "seed", "beta", "step", "moved", "wins", "following", "flaw")
    slim = [{key: row[key] for key in keys if key in row} for row in images if row["name"] not in OTHERS]
    content = {"images": summary, "plane": points, "correlations": correlations, "pairs": pairs}
    save_json(ROOT / "figures" / "transfer.json", content | {"rows": slim})
    shown = {title: entries for title, entries in points.items() if title.endswith("wrong")}
    plots.save(picture(shown, summary), ROOT / "figures" / "transfer.png")


if __name__ == "__main__":
    main()
