"""Add a reward model's scores to pairs of images: the smooth labels of SmPO.

The result is pairs-SCORER.csv beside pairs.csv, with winner_score and loser_score, and a JSON file with the
bounds of the scores, by which SmPO normalises; training takes them from the CSV. A pair with an image that
cannot be read is left out. Scores are saved in the data's cache folder, so that an interrupted run resumes.
"""

import hashlib
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import torch
from PIL import Image, ImageOps
from tqdm import tqdm

from sd.feedback.images import UNREADABLE
from sd.feedback.index import Index, find_csv, open_index
from sd.judging.scorers import Scorer, fingerprint, load
from toy.errors import InputError
from toy.files import output_folder, save_csv, save_json

BATCH = 32
TABLES = """
    CREATE TABLE IF NOT EXISTS scores (key TEXT PRIMARY KEY, score REAL);
    CREATE TEMP TABLE images (number INTEGER PRIMARY KEY, key TEXT);
    CREATE TEMP VIEW pairs AS SELECT a.number, winner.score AS winner, loser.score AS loser
        FROM images a JOIN images b ON a.number % 2 = 0 AND b.number = a.number + 1
        JOIN scores winner ON winner.key = a.key JOIN scores loser ON loser.key = b.key"""
SUMMARY = "SELECT count(*), min(min(winner, loser)), max(max(winner, loser)), avg(winner > loser) FROM pairs"


def main(data: str, scorer: str, out: str | None) -> list[Path]:
    """Score the images of pairs, and print a summary. Returns the files written."""
    source = find_csv(data, pairs=True)
    judge = load(scorer, "cuda" if torch.cuda.is_available() else "cpu")
    path = Path(out or source.with_name(f"{source.stem}-{judge.name}.csv"))
    if path.resolve().parent != source.resolve().parent or path.resolve() == source.resolve():
        raise InputError(f"--out must be another CSV in {source.parent}, where the images are, not {path}")
    index = open_index(source, output_folder(source.parent / "cache" / source.stem, "DATA"))
    if not index.pairs:
        raise InputError(f"{source} has likes and dislikes, but smpo learns from pairs: name a CSV of pairs")
    summary = score_pairs(index, judge, fingerprint(scorer), path)
    print("{pairs} pairs, {left_out} left out; scores from {lowest:.4g} to {highest:.4g}".format(**summary))
    print(f"the winner scores higher in {summary['winner_scores_higher']:.1%} of pairs")
    if judge.truncated:
        print(f"{judge.truncated} captions are longer than the scorer's text encoder takes, and were cut")
    print(f"to train with these scores: python -m sd train RECIPE --objective smpo --data {path}")
    return [path, save_json(path.with_suffix(".json"), summary)]


def score_pairs(index: Index, scorer: Scorer, weights: str, out: Path) -> dict:
    """Score the images that have no score yet, and write the CSV. Returns a summary of the scores."""
    with closing(sqlite3.connect(index.path.with_name("scores.sqlite"))) as db:
        db.executescript(TABLES)
        for first in tqdm(range(0, index.images, BATCH), f"scores, {scorer.name}", unit=" batches"):
            _score(index, range(first, min(first + BATCH, index.images)), scorer, weights, db)
        pairs, lowest, highest, agreement = db.execute(SUMMARY).fetchone()
        if not pairs:
            raise InputError(f"no pair in {index.source} has two images that can be read")

        def rows() -> Iterator[tuple]:
            for number, *scores in db.execute("SELECT * FROM pairs ORDER BY number"):
                winner, loser = index.image(number), index.image(number + 1)
                yield winner.file, loser.file, index.caption(winner.caption), *scores

        save_csv(out, ("winner", "loser", "caption", "winner_score", "loser_score"), rows())
    summary = {"scorer": scorer.name, "pairs": pairs, "left_out": index.images // 2 - pairs}
    return summary | {"lowest": lowest, "highest": highest, "winner_scores_higher": agreement}


def _score(index: Index, numbers: range, scorer: Scorer, weights: str, db: sqlite3.Connection) -> None:
    """Score a batch of images, except those that have a score already; report those that cannot be read."""
    new = {}
    for number in numbers:
        image = index.image(number)
        caption = index.caption(image.caption)
        try:
            stat = (index.root / image.file).stat()  # so that a replaced file is scored anew
            about = repr((weights, image.file, stat.st_size, stat.st_mtime_ns, caption))
            key = hashlib.blake2b(about.encode(), digest_size=16).hexdigest()
            if not db.execute("SELECT 1 FROM scores WHERE key = ?", (key,)).fetchone():
                with Image.open(index.root / image.file) as file:
                    new[key] = ImageOps.exif_transpose(file).convert("RGB"), caption
        except UNREADABLE:
            tqdm.write(f"{image.file} cannot be read: its pair is left out", file=sys.stderr)
        else:
            db.execute("INSERT INTO images VALUES (?, ?)", (number, key))
    if new:
        scores = scorer(*map(list, zip(*new.values(), strict=True)))
        if not scores.isfinite().all():
            raise InputError(f"the scorer {scorer.name} gives scores that are not numbers: check its weights")
        db.executemany("INSERT INTO scores VALUES (?, ?)", zip(new, scores.tolist(), strict=True))
        db.commit()
