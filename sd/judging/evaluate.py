"""Which model is better, and by which measure.

Scores folders of images that `sd sample` drew of the same prompts, and compares the first model with each
of the others by the median image of each prompt. Writes results.csv, results.json, table.md and page.html,
which has a blind vote; --votes counts what judges saved there.
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
SCORED = ("model", "file_name", "scorer", "score", "content")
ROW = ("scorer", "style", "model", "prompts", "mean", "half_width")
ROW += ("win_rate", "low", "high", "bootstrap_low", "bootstrap_high", "ties")
Scores = dict[str, dict[str, Tensor]]  # of a scorer and a model, (prompts, images)


def main(images: list[str], scorers: list[str], votes: list[str], out: str, pairs: int) -> list[Path]:
    """Compare, or count votes, and print the table; the files written."""
    folder = output_folder(out)
    if votes:
        return [page.count_votes([Path(file) for file in votes], folder)]
    if not (images and scorers):
        raise InputError("--images and --scorers are needed, or --votes (see --help)")
    names = [spec.partition("=")[0] for spec in scorers]
    if len(set(names)) < len(names):
        raise InputError("--scorers names one twice; evaluate into another --out to compare two of a kind")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    samples, scores, rows = evaluate(_named(images), scorers, folder, device)
    table = markdown(rows)
    print(*differences(samples), table, sep="\n")
    written = [
        save_csv(folder / "results.csv", ROW, ([row.get(name, "") for name in ROW] for row in rows)),
        save_json(folder / "results.json", {"first": next(iter(samples)), "rows": rows}),
        save_atomically(folder / "table.md", lambda path: path.write_text(table, "utf-8")),
    ]
    if len(samples) > 1:
        written.append(page.write(samples, scores, rows, folder, pairs))
    return written


def score(samples: dict[str, Samples], specs: list[str], out: Path, device: str = "cpu") -> Scores:
    """Every image's score by every scorer. Scores are added to out/scores.csv as they come. A score that is
    there already, of the same image, prompt and scorer, is kept; missing ones are computed in the same
    batches as the first time, so that rounding is the same too."""
    log, batches = out / "scores.csv", []
    logged, kinds = _read_log(log), {spec: fingerprint(spec) for spec in specs}
    for name, (folder, prompts, files) in samples.items():
        pairs = zip(prompts, files, strict=True)
        images = [_image(name, folder / file, prompt.text) for prompt, some in pairs for file in some]
        batches += [images[k : k + BATCH] for k in range(0, len(images), BATCH)]
    todo = {}
    for spec in specs:
        new = [b for b in batches if any((kinds[spec], image.content) not in logged for image in b)]
        todo |= {spec: new} if new else {}
    for spec in todo:  # before the work, to report what a scorer lacks; one at a time, to save memory
        load(spec, device)
    for spec, missing in todo.items():
        scorer = load(spec, device)
        with open(log, "a", newline="", encoding="utf-8") as file:
            for batch in tqdm(missing, scorer.name, unit="batch", leave=False):
                values = scorer([_open(image.path) for image in batch], [image.prompt for image in batch])
                for image, value in zip(batch, values.tolist(), strict=True):
                    if not math.isfinite(value):
                        raise InputError(f"{scorer.name} gives {image.path} the score {value}")
                    if (kinds[spec], image.content) not in logged:
                        logged[kinds[spec], image.content] = value
                        row = image.model, image.path.name, kinds[spec], value, image.content
                        csv.writer(file).writerow(row)
                file.flush()
        if scorer.truncated:
            print(f"{scorer.name} cut {scorer.truncated} prompts, which are longer than it takes")
    shape = (len(samples), -1, len(next(iter(samples.values())).files[0]))
    scores = {}
    for spec in specs:
        values = [logged[kinds[spec], image.content] for batch in batches for image in batch]
        values = torch.tensor(values, dtype=torch.float64).view(shape)
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


def _read_log(log: Path) -> dict[tuple[str, str], float]:
    """The scores of a log by scorer and content. A line that was cut by an interruption is removed."""
    if not log.exists():
        save_csv(log, SCORED, [])
    lines = log.read_text("utf-8").split("\n")
    if lines[-1]:
        save_atomically(log, lambda path: path.write_text("\n".join([*lines[:-1], ""]), "utf-8"))
    try:
        return {(row["scorer"], row["content"]): float(row["score"]) for row in csv.DictReader(lines[:-1])}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{log} is damaged: delete it to score the images anew") from error


def compare(samples: dict[str, Samples], scores: Scores) -> list[dict]:
    """For each scorer, style ("" stands for all) and model: the mean with its interval, and the win rate of
    the first model against it. Both intervals are over prompts, since images of one prompt are not
    independent."""
    first, rows = next(iter(samples)), []
    styles = [prompt.style for prompt in samples[first].prompts]
    for scorer, by_model in scores.items():
        for style in dict.fromkeys(["", *styles]):
            chosen = torch.tensor([style in ("", s) for s in styles])
            for name, values in by_model.items():
                mean, half = interval(values[chosen].mean(1).tolist())
                row = {"scorer": scorer, "style": style, "model": name, "prompts": int(chosen.sum())}
                row |= {"mean": mean, "half_width": half}
                if name != first:
                    row |= win_rate(outcomes(by_model[first][chosen], values[chosen]))
                rows.append(row)
    return rows


def evaluate(folders: dict[str, str | Path], specs: list[str], out: Path, device: str = "cpu"):
    """The samples, scores and comparisons of folders of images, given by the names of their models."""
    samples = {name: read_samples(folder) for name, folder in folders.items()}
    refuse_different(samples)
    scores = score(samples, specs, out, device)
    return samples, scores, compare(samples, scores)


def _named(arguments: list[str]) -> dict[str, str]:
    folders = {}
    for argument in arguments:
        name, mark, folder = argument.partition("=")
        if not (name and mark and folder):
            raise InputError(f"--images {argument}: name each model, as in kto=out/kto-images")
        if name in folders:
            raise InputError(f"--images has two folders named {name}")
        folders[name] = folder
    return folders
