"""Add a reward model's scores to pairs of images: the smooth labels of SmPO.

The result is pairs-SCORER.csv beside pairs.csv, with winner_score and loser_score, and a JSON file with the
bounds of the scores, by which SmPO normalises; training takes them from the CSV. A pair with an image that
cannot be read is left out. Scores are saved in the data's cache folder, so that an interrupted run resumes.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from sd.feedback.index import Index, find_csv, open_index
from sd.judging.scorers import fingerprint, load
from sd.judging.scoring import FULL, Row, Store, digest
from sd.machine import gpu_memory, start_judging
from toy.cli import is_main_process
from toy.errors import InputError
from toy.files import output_folder, save_csv, save_json

COLUMNS = ("winner", "loser", "caption", "winner_score", "loser_score")
PAIRS = """CREATE TEMP VIEW pairs AS SELECT a.number, winner.score AS winner, loser.score AS loser
    FROM images a JOIN images b ON a.number % 2 = 0 AND b.number = a.number + 1
    JOIN scores winner ON winner.key = a.key JOIN scores loser ON loser.key = b.key"""
SUMMARY = "SELECT count(*), min(min(winner, loser)), max(max(winner, loser)), avg(winner > loser) FROM pairs"
ABOUT = ("scorer", "pairs", "left_out", "lowest", "highest", "winner_scores_higher")  # in the JSON file


@gpu_memory(FULL)
def main(data: str, scorer: str, out: str | None) -> list[Path]:
    """Score the images of pairs, and print a summary. Returns the files written."""
    state, device = start_judging()
    source = find_csv(data, pairs=True)
    judge = load(scorer, device)
    path = Path(out or source.with_name(f"{source.stem}-{judge.name}.csv"))
    place = path.resolve()
    if place.suffix != ".csv" or place.parent != source.resolve().parent or place == source.resolve():
        raise InputError(f"--out must be another CSV in {source.parent}, where the images are, not {path}")
    _refuse_foreign(path)
    cache = output_folder(source.parent / "cache" / source.stem, "DATA")
    with state.main_process_first():
        index = open_index(source, cache)
    if not index.pairs:
        raise InputError(f"{source} has likes and dislikes, but smpo learns from pairs: name a CSV of pairs")
    store = Store(cache, judge.name, _rows(index, fingerprint(scorer)))
    if store.todo():
        store.score(judge)
    return save(index, store, judge.name, path) if state.is_main_process else []


def _refuse_foreign(path: Path) -> None:
    """Raises InputError if a CSV, or the summary beside it, exists and is not from score-pairs."""
    summary = path.with_suffix(".json")
    try:
        if not path.exists() and not summary.exists():
            return
        ours = set(json.loads(summary.read_text())) == set(ABOUT)
        if path.exists():
            with open(path, encoding="utf-8") as file:
                ours = ours and file.readline().strip() == ",".join(COLUMNS)
    except (OSError, ValueError, TypeError):
        ours = False
    if not ours:
        raise InputError(f"{path} or {summary.name} exists, but not from score-pairs: choose another --out")


def save(index: Index, store: Store, scorer: str, path: Path) -> list[Path]:
    """Save the scores and their summary, and print it."""
    for reason in store.unreadable():
        print(f"{reason}; its pairs are left out", file=sys.stderr)
    store.db.execute(PAIRS)
    pairs, lowest, highest, agreement = store.db.execute(SUMMARY).fetchone()
    if not pairs:
        raise InputError(f"no pair in {index.source} has two images that can be read")

    def rows() -> Iterator[tuple]:
        for number, *scores in store.db.execute("SELECT * FROM pairs ORDER BY number"):
            winner, loser = index.image(number), index.image(number + 1)
            yield winner.file, loser.file, index.caption(winner.caption), *scores

    left_out = index.images // 2 - pairs
    print(f"{pairs} pairs, {left_out} left out; scores from {lowest:.4g} to {highest:.4g}")
    print(f"the winner scores higher in {agreement:.1%} of pairs")
    print(f"to train with these scores: python -m sd train RECIPE --objective smpo --data {path}")
    about = dict(zip(ABOUT, (scorer, pairs, left_out, lowest, highest, agreement), strict=True))
    # the summary first: without it, the CSV would not be known as ours when an interrupted run resumes
    return [save_json(path.with_suffix(".json"), about), save_csv(path, COLUMNS, rows())]


def _rows(index: Index, weights: str) -> Iterator[Row]:
    """The images with the keys of their scores. A file that was replaced has another key."""
    for number in tqdm(range(index.images), "looking for scores", leave=False, disable=not is_main_process()):
        image = index.image(number)
        path, caption = index.root / image.file, index.caption(image.caption)
        stat = path.stat() if path.exists() else None
        about = (weights, image.file, stat and (stat.st_size, stat.st_mtime_ns), caption)
        yield digest(*about), str(path), caption
