"""Compare models by the scores of their images: mean scores, and win rates of the first model.

The images lie in folders that `sd sample` drew from the same prompts. The results are results.csv,
results.json, table.md and page.html, which has a blind vote; --votes counts the votes that judges saved.
"""

import csv
import hashlib
import math
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from sd.feedback.images import UNREADABLE
from sd.judging import page
from sd.judging.markdown import markdown
from sd.judging.samples import Samples, differences, read_samples, refuse_different
from sd.judging.scorers import fingerprint, load
from toy.errors import InputError
from toy.files import output_folder, save_atomically, save_csv, save_json
from toy.statistics import interval, outcomes, win_rate

BATCH = 32  # images scored together
LOG_COLUMNS = ("model", "file_name", "scorer", "score", "content")
COLUMNS = ("scorer", "style", "model", "prompts", "mean", "half_width", *page.RATE)
Scores = dict[str, dict[str, Tensor]]  # by scorer and model, (prompts, images)


def main(images: list[str], scorers: list[str], votes: list[str], out: str, pairs: int) -> list[Path]:
    """Compare models and print the table, or count votes. Returns the files written."""
    folder = output_folder(out)
    if votes:
        return [page.count_votes([Path(file) for file in votes], folder)]
    if not (images and scorers):
        raise InputError("--images and --scorers are needed, or --votes (see --help)")
    if len({spec.partition("=")[0] for spec in scorers}) < len(scorers):
        raise InputError("--scorers names a scorer twice: evaluate its second version into another --out")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    samples, scores, rows = evaluate(_named(images), scorers, folder, device)
    table = markdown(rows)
    print(*differences(samples), table, sep="\n")
    files = [
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
    """The score of every image by every scorer. Each score is added to out/scores.csv, and is not computed
    again for the same image, prompt and scorer. When a run resumes, it forms the same batches as before, so
    that scores are rounded in the same way."""
    path, batches = out / "scores.csv", []
    log, kinds = _read_log(path), {spec: fingerprint(spec) for spec in specs}
    for name, (folder, prompts, files) in samples.items():
        pairs = zip(prompts, files, strict=True)
        images = [_image(name, folder / file, prompt.text) for prompt, group in pairs for file in group]
        batches += [images[k : k + BATCH] for k in range(0, len(images), BATCH)]
    todo = {}
    for spec, kind in kinds.items():
        new = [b for b in batches if any((kind, image.content) not in log for image in b)]
        if new:
            todo[spec] = new
            load(spec, device)  # to report what a scorer lacks before the work; one at a time, to save memory
    for spec, new in todo.items():
        scorer, kind = load(spec, device), kinds[spec]
        with open(path, "a", newline="", encoding="utf-8") as file:
            for batch in tqdm(new, scorer.name, unit="batch", leave=False):
                values = scorer([_open(image.path) for image in batch], [image.prompt for image in batch])
                for image, value in zip(batch, values.tolist(), strict=True):
                    if not math.isfinite(value):
                        raise InputError(f"{scorer.name} scores {image.path} as {value}: check its weights")
                    if (kind, image.content) not in log:
                        log[kind, image.content] = value
                        csv.writer(file).writerow((image.model, image.path.name, kind, value, image.content))
                file.flush()
        if scorer.truncated:
            print(f"{scorer.name} cut {scorer.truncated} prompts that are longer than it takes")
    count, scores = len(next(iter(samples.values())).prompts), {}
    for spec, kind in kinds.items():
        values = [log[kind, image.content] for batch in batches for image in batch]
        values = torch.tensor(values, dtype=torch.float64).view(len(samples), count, -1)
        scores[spec.partition("=")[0]] = dict(zip(samples, values, strict=True))
    return scores


class _Image(NamedTuple):
    model: str
    path: Path
    prompt: str
    content: str  # digest of the file and the prompt


def _image(model: str, path: Path, prompt: str) -> _Image:
    digest = hashlib.blake2b(path.read_bytes() + prompt.encode(), digest_size=8)
    return _Image(model, path, prompt, digest.hexdigest())


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except UNREADABLE as error:
        raise InputError(f"{path} is damaged or not an image: sample it again") from error


def _read_log(path: Path) -> dict[tuple[str, str], float]:
    """The scores of scores.csv, by scorer and content. A last line that an interruption cut is removed."""
    if not path.exists():
        save_csv(path, LOG_COLUMNS, [])
    lines = path.read_text("utf-8").split("\n")
    if lines[-1]:
        save_atomically(path, lambda path: path.write_text("\n".join([*lines[:-1], ""]), "utf-8"))
    try:
        return {(row["scorer"], row["content"]): float(row["score"]) for row in csv.DictReader(lines[:-1])}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged: delete it to score the images anew") from error


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
