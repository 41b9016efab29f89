"""Compare models by the scores of their images: mean scores, and win rates of the first model.

The images lie in folders that `sd sample` drew from the same prompts. The results are scores.csv, table.md,
results.csv and .json, and page.html, which has a blind vote; --votes counts the votes that judges saved.
"""

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from sd.judging import page
from sd.judging.markdown import markdown
from sd.judging.samples import Samples, differences, read_samples, refuse_different
from sd.judging.scorers import fingerprint, load, split
from sd.judging.scoring import FULL, Store, digest
from sd.machine import gpu_memory, start_judging
from toy.errors import InputError
from toy.files import output_folder, save_atomically, save_csv, save_json
from toy.statistics import interval, outcomes, win_rate

COLUMNS = ("scorer", "style", "model", "prompts", "mean", "half_width", *page.RATE)
Scores = dict[str, dict[str, Tensor]]  # by scorer and model, (prompts, images)


@gpu_memory(FULL)
def main(images: list[str], scorers: list[str], votes: list[str], out: str, pairs: int) -> list[Path]:
    """Compare models and print the table, or count votes. Returns the files written."""
    folder = output_folder(out)
    if votes:
        return [page.count_votes([Path(file) for file in votes], folder)]
    if not (images and scorers):
        raise InputError("--images and --scorers are needed, or --votes (see --help)")
    if len({spec.partition("=")[0] for spec in scorers}) < len(scorers):
        raise InputError("--scorers names a scorer twice: evaluate its second version into another --out")
    state, device = start_judging()
    samples, scores, rows = evaluate(_named(images), scorers, folder, device)
    if not state.is_main_process:
        return []
    table = markdown(rows)
    print(*differences(samples), table, sep="\n")
    listing = (
        (scorer, model, file, value)
        for scorer, by_model in scores.items()
        for model, values in by_model.items()
        for files, row in zip(samples[model].files, values.tolist(), strict=True)
        for file, value in zip(files, row, strict=True)
    )
    files = [
        save_csv(folder / "scores.csv", ("scorer", "model", "file_name", "score"), listing),
        save_csv(folder / "results.csv", COLUMNS, ([row.get(name, "") for name in COLUMNS] for row in rows)),
        save_json(folder / "results.json", {"first": next(iter(samples)), "rows": rows}),
        save_atomically(folder / "table.md", lambda path: path.write_text(table, "utf-8")),
    ]
    if len(samples) > 1:
        files.append(page.write(samples, scores, rows, folder, pairs))
    return files


def _named(arguments: list[str]) -> dict[str, str]:
    folders = {}
    for argument in arguments:
        name, _, folder = argument.partition("=")
        if not (name and folder):
            raise InputError(f"--images {argument}: name each model, as in kto=out/kto-images")
        if name in folders:
            raise InputError(f"--images has two folders named {name}")
        folders[name] = folder
    return folders


def evaluate(folders: dict[str, str | Path], specs: list[str], out: Path, device: str = "cpu"):
    """Score and compare the folders of images of models, by name: (samples, scores, rows of results)."""
    samples = {name: read_samples(folder) for name, folder in folders.items()}
    refuse_different(samples)
    scores = score(samples, specs, out, device)
    return samples, scores, compare(samples, scores)


def score(samples: dict[str, Samples], specs: list[str], out: Path, device: str = "cpu") -> Scores:
    """The score of every image by every scorer. Scores are kept in `out`, and are not computed again for the
    same image, prompt and scorer. Raises InputError naming an image that cannot be read."""
    images = [
        (folder / file, prompt.text)
        for folder, prompts, files in samples.values()
        for prompt, group in zip(prompts, files, strict=True)
        for file in group
    ]
    contents = [hashlib.blake2b(file.read_bytes()).digest() for file, _ in images]
    stores = {}
    for spec in specs:
        pairs, weights = zip(contents, images, strict=True), fingerprint(spec)
        rows = [(digest(weights, content, prompt), str(file), prompt) for content, (file, prompt) in pairs]
        stores[spec] = Store(out, split(spec)[0], rows)
    todo = [spec for spec, store in stores.items() if store.todo()]
    for spec in todo:
        load(spec)  # to report what a scorer lacks before the work; one at a time, to save memory
    scores, count = {}, len(next(iter(samples.values())).prompts)
    for spec, store in stores.items():
        if spec in todo:
            store.score(load(spec, device))
        if bad := store.unreadable():
            raise InputError(f"{bad[0]}; sample it again")
        values = store.db.execute(
            "SELECT score FROM images JOIN scores USING (key) ORDER BY number"
        ).fetchall()
        values = torch.tensor(values, dtype=torch.float64).view(len(samples), count, -1)
        scores[split(spec)[0]] = dict(zip(samples, values, strict=True))
    return scores


def compare(samples: dict[str, Samples], scores: Scores) -> list[dict]:
    """For each scorer, style ("" stands for all) and model: its mean score, and the win rate of the first
    model against it. Intervals are over prompts, because images of one prompt are not independent."""
    first, rows = next(iter(samples)), []
    styles = [prompt.style for prompt in samples[first].prompts]
    for scorer, by_model in scores.items():
        for style in dict.fromkeys(["", *styles]):
            subset = torch.tensor([style in ("", s) for s in styles])
            for name, values in by_model.items():
                mean, half_width = interval(values[subset].mean(1).tolist())
                row = {"scorer": scorer, "style": style, "model": name, "prompts": int(subset.sum())}
                row |= {"mean": mean, "half_width": half_width}
                if name != first:
                    row |= win_rate(outcomes(by_model[first][subset], values[subset]))
                rows.append(row)
    return rows
