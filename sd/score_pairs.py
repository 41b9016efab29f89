"""Smooth labels for SmPO: python -m sd.score_pairs DATA --scorer pickscore=DIR scores the images of pairs.

Writes pairs-pickscore.csv beside pairs.csv, with winner_score and loser_score, and a JSON with their bounds,
by which SmPO normalises them (training finds the same ones in the CSV). Pairs with an image that cannot be
read are left out. Scores are kept in the data's cache folder: an interrupted run goes on where it was.
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

from sd import scorers
from sd.cache import UNREADABLE
from sd.data import Index, find_csv, open_index
from toy.__main__ import Parser
from toy.errors import InputError
from toy.files import output_folder, save_csv, save_json

BATCH = 32
TABLES = """
    CREATE TABLE IF NOT EXISTS scores (key TEXT PRIMARY KEY, score REAL);
    CREATE TEMP TABLE images (number INTEGER PRIMARY KEY, key TEXT);
    CREATE TEMP VIEW pairs AS SELECT a.number, winner.score AS winner, loser.score AS loser
        FROM images a JOIN images b ON a.number % 2 = 0 AND b.number = a.number + 1
        JOIN scores winner ON winner.key = a.key JOIN scores loser ON loser.key = b.key"""
SUMMARY = (
    """SELECT count(*), min(min(winner, loser)), max(max(winner, loser)), avg(winner > loser) FROM pairs"""
)


def score_pairs(index: Index, scorer: scorers.Scorer, weights: str, out: Path) -> dict:
    """Score what has no score yet, and write the CSV; what is known of its scores."""
    with closing(sqlite3.connect(index.path.with_name("scores.sqlite"))) as db:
        db.executescript(TABLES)
        for first in tqdm(range(0, index.images, BATCH), f"scores, {scorer.name}", unit=" batches"):
            _score(index, range(first, min(first + BATCH, index.images)), scorer, weights, db)
        pairs, lowest, highest, agreement = db.execute(SUMMARY).fetchone()
        if not pairs:
            raise InputError(f"{index.source} has no pair whose images can both be read")

        def rows() -> Iterator[tuple]:
            for number, *scores in db.execute("SELECT * FROM pairs ORDER BY number"):
                winner, loser = index.image(number), index.image(number + 1)
                yield winner.file, loser.file, index.caption(winner.caption), *scores

        save_csv(out, ("winner", "loser", "caption", "winner_score", "loser_score"), rows())
    summary = {"scorer": scorer.name, "pairs": pairs, "left_out": index.images // 2 - pairs}
    return summary | {"lowest": lowest, "highest": highest, "winner_scores_higher": agreement}


def _score(
    index: Index, numbers: range, scorer: scorers.Scorer, weights: str, db: sqlite3.Connection
) -> None:
    """Score the images of these numbers that have no score yet, and name those that cannot be read."""
    new = {}
    for number in numbers:
        image = index.image(number)
        caption = index.caption(image.caption)
        try:
            stat = (index.root / image.file).stat()  # a file that was replaced is scored anew
            about = repr((weights, image.file, stat.st_size, stat.st_mtime_ns, caption))
            key = hashlib.blake2b(about.encode(), digest_size=16).hexdigest()
            if not db.execute("SELECT 1 FROM scores WHERE key = ?", (key,)).fetchone():
                with Image.open(index.root / image.file) as file:
                    new[key] = ImageOps.exif_transpose(file).convert("RGB"), caption
        except UNREADABLE:
            tqdm.write(f"left out with its pair, as it cannot be read: {image.file}", file=sys.stderr)
        else:
            db.execute("INSERT INTO images VALUES (?, ?)", (number, key))
    if new:
        scores = scorer(*map(list, zip(*new.values(), strict=True)))
        if not scores.isfinite().all():
            raise InputError(f"the scorer {scorer.name} gives scores that are not numbers")
        db.executemany("INSERT INTO scores VALUES (?, ?)", zip(new, scores.tolist(), strict=True))
        db.commit()


def fingerprint(spec: str) -> str:
    """A scorer's name and what its weights look like from outside: others get scores of their own."""
    name, _, folder = spec.partition("=")
    files = sorted(Path(folder).glob("*.safetensors")) if folder else []
    return " ".join([name, *(f"{f.name} {f.stat().st_size} {f.stat().st_mtime_ns}" for f in files)])


def main(argv: list[str] | None = None) -> int:
    parser = Parser("python -m sd.score_pairs", description=__doc__)
    parser.add_argument("data", help="folder of pairs.csv, or such a CSV")
    parser.add_argument(
        "--scorer", required=True, metavar="NAME", help=f"{', '.join(scorers.SCORERS)}; most as NAME=DIR"
    )
    parser.add_argument("--out", metavar="FILE", help="CSV in the same folder (pairs-NAME.csv)")
    try:
        options = parser.parse_args(argv)
        source = find_csv(options.data, paired=True)
        scorer = scorers.load(options.scorer, "cuda" if torch.cuda.is_available() else "cpu")
        out = Path(options.out or source.with_name(f"{source.stem}-{scorer.name}.csv"))
        if out.resolve().parent != source.resolve().parent or out.resolve() == source.resolve():
            raise InputError(
                f"--out must be another CSV in {source.parent}, from where its images are named, not {out}"
            )
        index = open_index(source, output_folder(source.parent / "cache" / source.stem, "DATA"))
        if not index.paired:
            raise InputError(f"{source} has likes and dislikes; smpo learns from pairs")
        summary = score_pairs(index, scorer, fingerprint(options.scorer), out)
        bounds = save_json(out.with_suffix(".json"), summary)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (sqlite3.Error, OSError) as error:
        print(f"error: {error}; the same command goes on from here", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nerror: interrupted; the same command goes on from here", file=sys.stderr)
        return 2
    print(
        "{pairs} pairs, {left_out} left out; scores from {lowest:.4g} to {highest:.4g}, "
        "in {winner_scores_higher:.1%} of pairs higher for the winner".format(**summary)
    )
    if scorer.truncated:
        print(f"{scorer.truncated} captions were cut, being longer than the scorer's text encoder takes")
    print(f"wrote {out} and {bounds}: python -m sd.train ... --objective smpo --data {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
