"""Feedback on images: a folder with a CSV, checked row by row and indexed on disk.

feedback.csv has the columns file_name (or file_path), caption, and one of label (liked, disliked, 1, 0,
true, false), rating (a number) and the authors' split (exclusive_win, intersections, exclusive_lose).
pairs.csv has winner, loser, caption, and for SmPO winner_score and loser_score. File names are relative to
the CSV's folder. The index is an SQLite file, so that memory does not grow with the number of rows. It
numbers the images, liked ones first; in an index of pairs, the winner of pair k has the number 2k, and its
loser 2k + 1.
"""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from sd.feedback.table import Reader
from toy.errors import InputError
from toy.files import save_atomically

LABELS = {"liked": 1, "disliked": 0, "1": 1, "0": 0, "true": 1, "false": 0}
SPLITS = {"exclusive_win": 1, "exclusive_lose": 0}
INTERSECTIONS = {"liked": 1, "disliked": 0, "left_out": None}  # how the split of this name is labelled
# as toy.data.graded has it: of an even number, the mean of the two in the middle
MEDIAN = """SELECT avg(score) FROM (SELECT score FROM raw ORDER BY score
    LIMIT 2 - (SELECT count(*) FROM raw) % 2 OFFSET ((SELECT count(*) FROM raw) - 1) / 2)"""


class Row(NamedTuple):
    """One image of the index."""

    file: str
    caption: int  # number of the caption; 0 is the empty one
    desirable: int
    score: float | None  # a reward model's, or a person's rating
    line: int  # of the CSV


def find_csv(data: str, pairs: bool) -> Path:
    """The CSV that --data names: the file itself, or the one in the folder."""
    path, name = Path(data), "pairs.csv" if pairs else "feedback.csv"
    if os.path.isfile(path):  # unlike path.is_file() it bears any name
        return path
    if not os.path.isdir(path):
        raise InputError(f"no folder or CSV file {path}; --data is the folder of {name}")
    if not (path / name).is_file():
        other, kind = ("feedback.csv", "likes and dislikes") if pairs else ("pairs.csv", "pairs")
        hint = f"; it has {other}, for objectives on {kind}" if (path / other).is_file() else ""
        raise InputError(f"no {name} in {path}{hint}; --data may also name a CSV file")
    return path / name


class Index:
    """The images of a CSV, by number. Each process opens the file for itself."""

    def __init__(self, path: Path):
        self.path, self._process = path, None
        facts = dict(self._db.execute("SELECT key, value FROM about"))
        self.source, self.digest, self.pairs = Path(facts["source"]), facts["digest"], facts["pairs"] == "1"
        self.root = self.source.parent
        self.images, self.liked = int(facts["images"]), int(facts["liked"])
        self.captions = int(facts["captions"])  # with the empty one
        self.lowest, self.highest = (facts[k] and float(facts[k]) for k in ("lowest", "highest"))
        self.threshold = float(facts["threshold"]) if "threshold" in facts else None  # of ratings

    @property
    def _db(self) -> sqlite3.Connection:
        if self._process != os.getpid():  # a connection does not survive a fork
            self._connection = _connect(self.path)
            self._process = os.getpid()
        return self._connection

    def __del__(self):
        if hasattr(self, "_connection"):
            self._connection.close()

    def __getstate__(self):
        return {k: v for k, v in vars(self).items() if k != "_connection"} | {"_process": None}

    def image(self, number: int) -> Row:
        query = "SELECT file, caption, desirable, score, line FROM images WHERE rowid = ?"
        return Row(*self._db.execute(query, (number + 1,)).fetchone())

    def caption(self, number: int) -> str:
        return self._db.execute("SELECT text FROM captions WHERE id = ?", (number,)).fetchone()[0]

    def normalised(self, score: float) -> float:
        """A reward model's score, min-max normalised over the whole data set (Lu et al. 2025)."""
        return (score - self.lowest) / max(self.highest - self.lowest, 1e-12)

    def names(self, numbers: Sequence[int]) -> str:
        """The first 20 of some images, with the rows of the CSV."""
        rows = [self.image(int(number)) for number in numbers[:20]]
        return ", ".join(f"{r.file} (row {r.line})" for r in rows) + (", ..." if len(numbers) > 20 else "")


def open_index(
    csv_path: Path, folder: Path, intersections: str = "liked", threshold: str = "median"
) -> Index:
    """The index of a CSV, kept in `folder`. It is built if there is none or if the CSV has changed."""
    stat = csv_path.stat()
    identity = f"layout 4, {csv_path.resolve()} {stat.st_size} {stat.st_mtime_ns} {intersections} {threshold}"
    path = folder / "index.sqlite"
    if path.exists():
        try:
            with closing(_connect(path)) as db:
                if ("identity", identity) in db.execute("SELECT key, value FROM about"):
                    return Index(path)
        except sqlite3.Error:
            pass
        print(f"{csv_path}, --intersections or --threshold has changed: indexing it again")
    try:
        save_atomically(path, lambda file: _build(csv_path, file, identity, intersections, threshold))
    except sqlite3.Error as error:
        raise InputError(f"cannot write the index {path}: {error}; choose another --cache") from error
    return Index(path)


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, check_same_thread=False)


def _build(csv_path: Path, path: Path, identity: str, intersections: str, threshold: str) -> None:
    path.unlink(missing_ok=True)
    reader = Reader(csv_path)
    pairs = bool({"winner", "loser"} & set(reader.columns))
    rows = read_pairs(reader) if pairs else read_feedback(reader, intersections)
    with closing(sqlite3.connect(path)) as db:
        db.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")
        db.execute("CREATE TABLE raw (file TEXT, text TEXT, desirable INTEGER, score REAL, line INTEGER)")
        progress = tqdm(rows, "reading rows", unit="", leave=False)
        db.executemany("INSERT INTO raw VALUES (?, ?, ?, ?, ?)", progress)
        tau = None
        if not pairs and "rating" in reader.columns:
            tau = db.execute(MEDIAN).fetchone()[0] if threshold == "median" else float(threshold)
            db.execute("UPDATE raw SET desirable = score >= ?", (tau,))
        order = "raw.rowid" if pairs else "desirable DESC, raw.rowid"
        db.executescript(f"""
            CREATE TABLE captions (id INTEGER PRIMARY KEY, text TEXT UNIQUE);
            INSERT INTO captions VALUES (0, '');
            INSERT OR IGNORE INTO captions (text) SELECT DISTINCT text FROM raw;
            CREATE TABLE images (file TEXT, caption INTEGER, desirable INTEGER, score REAL, line INTEGER);
            INSERT INTO images SELECT file, captions.id, desirable, score, line
                FROM raw JOIN captions USING (text) ORDER BY {order};
            DROP TABLE raw;
            CREATE TABLE about (key TEXT, value TEXT);
            INSERT INTO about SELECT 'images', count(*) FROM images;
            INSERT INTO about SELECT 'liked', CAST(total(desirable) AS INTEGER) FROM images;
            INSERT INTO about SELECT 'captions', count(*) FROM captions;
            INSERT INTO about SELECT 'lowest', min(score) FROM images;
            INSERT INTO about SELECT 'highest', max(score) FROM images""")
        facts = {"identity": identity, "source": csv_path.resolve(), "pairs": int(pairs)}
        facts |= {"threshold": tau} if tau is not None else {}
        facts["digest"] = f"{reader.digest.hexdigest()} {intersections}"
        db.executemany("INSERT INTO about VALUES (?, ?)", [(k, str(v)) for k, v in facts.items()])
        db.commit()
        db.execute("VACUUM")


def read_feedback(reader: Reader, intersections: str) -> Iterator[tuple]:
    """(file, caption, desirable, rating, line) of each row, except those that --intersections leaves out. A
    row has a label or a rating; ratings are labelled when all are known."""
    # winner is never there: it is named for those who meant pairs
    file, caption = reader.need("file_name", "file_path", "winner"), reader.need("caption")
    label = reader.need("label", "split", "rating")
    given = [name for name in ("label", "split", "rating") if name in reader.columns]
    if len(given) > 1:
        raise InputError(f"{reader.path} has the columns {' and '.join(given)}, which may differ: keep one")
    meanings = LABELS if label == "label" else SPLITS | {"intersections": INTERSECTIONS[intersections]}
    for line, row in reader:
        if label == "rating":
            yield reader.inside(row[file]), row[caption].strip(), None, reader.number(row, label), line
            continue
        word = row[label].strip().lower()
        if word not in meanings:
            raise reader.error(f"unknown {label} '{row[label]}': use one of {', '.join(meanings)}")
        desirable = meanings[word]
        if desirable is not None:
            yield reader.inside(row[file]), row[caption].strip(), desirable, None, line


def read_pairs(reader: Reader) -> Iterator[tuple]:
    """The winner's and the loser's (file, caption, desirable, score, line) of each row."""
    sides = ((reader.need("winner"), 1), (reader.need("loser"), 0))
    caption, scored = reader.need("caption"), {"winner_score", "loser_score"} <= set(reader.columns)
    line = 0
    for line, row in reader:
        files = [reader.inside(row[side]) for side, _ in sides]
        if files[0] == files[1]:
            raise reader.error(f"image '{files[0]}' is both winner and loser")
        for file, (side, desirable) in zip(files, sides, strict=True):
            score = reader.number(row, f"{side}_score") if scored else None
            yield file, row[caption].strip(), desirable, score, line
    if not line:
        raise InputError(f"{reader.path} has no pairs")
