"""A utility of one's own on images: python -m sd try mine.py:name.

It learns from votes for some steps beside Kahneman-Tversky and SFT, with the tiny pipeline, and one sentence
says how it differs. Pilots find a beta for each utility.
"""

from itertools import product
from pathlib import Path

from tqdm import tqdm

from sd.judging.paths import auto, walk
from sd.judging.study import picture, print_table, summarise
from sd.tiny.runs import PIPELINE
from toy import plots
from toy.files import output_folder, save_json
from toy.statistics import interval
from toy.utilities import check_utility, load_utility

KT = "kahneman_tversky"
STEPS = 40  # the first third of a path of the study, before Kahneman-Tversky breaks
GAMMA = 0.5  # what python -m sd study chose for Kahneman-Tversky


def main(utility: str, seeds: int, model: str | None, out: str, runs: str) -> list[Path]:
    """Train, judge, draw the picture, and print table and verdict. Returns the files written."""
    for warning in check_utility(load_utility(utility), utility):
        print(f"warning: {warning}")
    folder, place, model = output_folder(out), output_folder(runs, "--runs"), model or PIPELINE
    both = {"yours": utility, KT: KT}.items()
    names = {name: (spec, auto(spec, GAMMA, model, place)) for name, spec in both} | {"sft": ("sft", {})}
    rows = []
    for seed, name in tqdm(list(product(range(seeds), names)), "runs"):
        rows += [row | {"name": name} for row in walk(*names[name], seed, model, place, STEPS)]
    ends = [row for row in rows if row["seed"] == 0 and row["step"] == STEPS]
    summary = summarise(ends, rows)
    print_table(summary)
    print(verdict(rows))
    note = f"{utility} on images: {seeds} seeds, 95% intervals; left: after {STEPS} steps"
    content = {"utility": utility, "verdict": verdict(rows), "summary": summary, "rows": rows}
    figure = plots.save(picture(summary, rows, note), folder / "try-images.png")
    return [figure, save_json(folder / "try-images.json", content)]


def verdict(rows: list[dict]) -> str:
    """One sentence on how "yours" differs at its end from Kahneman-Tversky and from SFT, seed by seed."""
    ends = {(row["name"], row["seed"]): row for row in rows if row["step"] == STEPS}
    seeds = [seed for name, seed in ends if name == "yours"]
    parts = []
    for other in (KT, "sft"):
        gap, doubt = interval([ends["yours", s]["wins"] - ends[other, s]["wins"] for s in seeds])
        word = "neither more nor less" if abs(gap) <= doubt else "more" if gap > 0 else "less"
        parts.append(f"{word} often than {plots.style(other)[0]} ({gap:+.3f} ± {doubt:.3f})")
    following, doubt = interval([ends["yours", s]["following"] for s in seeds])
    return (
        f"Against the images from before training, yours wins {' and '.join(parts)}, as far as {len(seeds)} "
        f"seeds can tell, and follows {following:.1%} ± {doubt:.1%} of its prompts."
    )
