"""Feedback on images: a folder with a CSV, checked row by row and indexed on disk.

feedback.csv: file_name (or file_path), caption, and label (liked, disliked, 1, 0, true, false) or the
published split (exclusive_win, intersections, exclusive_lose). pairs.csv: winner, loser, caption, and
for SmPO winner_score, loser_score. Files are relative to the CSV's folder. The index is one SQLite file,
so that memory does not grow with the number of rows. Images have a number: liked ones come first; of
pairs, the winner of pair k is 2k and its loser 2k + 1.
"""

import csv
import hashlib
import math
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from toy.errors import InputError

LABELS = {"liked": 1, "disliked": 0, "1": 1, "0": 0, "true": 1, "false": 0}
SPLITS = {"exclusive_win": 1, "exclusive_lose": 0}
POLICIES = {"liked": 1, "disliked": 0, "left_out": None}  # what 'intersections' count as


class Image(NamedTuple):
    """One row of the index."""

    file: str
    caption: int  # number of the caption; 0 is the empty one
    desirable: int
    score: float | None
    row: int  # line of the CSV


def find_csv(data: str, paired: bool) -> Path:
    """The CSV that a --data means: itself, or the one of its folder."""
    path, name = Path(data), "pairs.csv" if paired else "feedback.csv"
    if path.is_file():
        return path
    if not path.is_dir():
        raise InputError(f"no folder or CSV file {path}; --data is where {name} lies")
    if not (path / name).is_file():
        other = "feedback.csv" if paired else "pairs.csv"
        hint = f"; it has {other}, for the objectives on {'likes and dislikes' if paired else 'pairs'}"
        raise InputError(
            f"no {name} in {path}{hint if (path / other).is_file() else ''}; --data may name a CSV too"
        )
    return path / name


class Index:
    """The images of a CSV, by number. Opened anew in every process that uses it."""

    def __init__(self, path: Path):
        self.path, self._process = path, None
        facts = dict(self._db.execute("SELECT key, value FROM about"))
        self.source, self.digest, self.paired = Path(facts["source"]), facts["digest"], facts["paired"] == "1"
        self.root = self.source.parent
        self.images, self.liked = int(facts["images"]), int(facts["liked"])
        self.captions = int(facts["captions"])  # with the empty one
        self.lowest, self.highest = (facts[k] and float(facts[k]) for k in ("lowest", "highest"))

    @property
    def _db(self) -> sqlite3.Connection:
        if self._process != os.getpid():  # a connection must not cross a fork
            self._connection = _connect(self.path)
            self._process = os.getpid()
        return self._connection

    def __del__(self):
        if hasattr(self, "_connection"):
            self._connection.close()

    def __getstate__(self):
        return {k: v for k, v in vars(self).items() if k != "_connection"} | {"_process": None}

    def image(self, number: int) -> Image:
        query = "SELECT file, caption, desirable, score, row FROM images WHERE rowid = ?"
        return Image(*self._db.execute(query, (number + 1,)).fetchone())

    def caption(self, number: int) -> str:
        return self._db.execute("SELECT text FROM captions WHERE id = ?", (number,)).fetchone()[0]

    def normalised(self, score: float) -> float:
        """A reward model's score, min-max normalised over the whole data set (Lu et al. 2025)."""
        return (score - self.lowest) / max(self.highest - self.lowest, 1e-12)

    def find_opposites(self, digests: Iterable[bytes]) -> list[tuple[str, str]]:
        """Files of the same content but with opposite labels, given every image's digest (b"" for none)."""
        with closing(sqlite3.connect("")) as scratch:  # a temporary file
            scratch.execute("ATTACH ? AS known", (str(self.path),))
            scratch.execute("CREATE TABLE seen (digest BLOB)")
            scratch.executemany("INSERT INTO seen VALUES (?)", ((bytes(digest),) for digest in digests))
            query = """SELECT min(file), max(file) FROM seen JOIN known.images ON seen.rowid = images.rowid
                WHERE digest != x'' GROUP BY digest HAVING min(desirable) < max(desirable)"""
            return scratch.execute(query).fetchall()


def open_index(csv_path: Path, folder: Path, intersections: str = "liked") -> Index:
    """The index of a CSV, kept in `folder` and built when it is not there or the CSV has changed."""
    stat = csv_path.stat()
    identity = f"layout 2, {csv_path.resolve()} {stat.st_size} {stat.st_mtime_ns} {intersections}"
    path = folder / "index.sqlite"
    if path.exists():
        try:
            with closing(_connect(path)) as db:
                if ("identity", identity) in db.execute("SELECT key, value FROM about"):
                    return Index(path)
        except sqlite3.Error:
            pass
        print(f"{csv_path} or how it is read has changed: indexing it again")
    half = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        _build(csv_path, half, identity, intersections)
        os.replace(half, path)
    except (OSError, sqlite3.Error) as error:
        raise InputError(f"cannot write the index {path}: {error}; choose another --cache") from error
    finally:
        half.unlink(missing_ok=True)
    return Index(path)


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, check_same_thread=False)


def _build(csv_path: Path, path: Path, identity: str, intersections: str) -> None:
    path.unlink(missing_ok=True)
    reader = Reader(csv_path)
    paired = bool({"winner", "loser"} & set(reader.columns))
    rows = read_pairs(reader) if paired else read_feedback(reader, intersections)
    with closing(sqlite3.connect(path)) as db:
        db.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")
        db.execute("CREATE TABLE raw (file TEXT, text TEXT, desirable INTEGER, score REAL, row INTEGER)")
        progress = tqdm(rows, "reading rows", unit="", leave=False)
        db.executemany("INSERT INTO raw VALUES (?, ?, ?, ?, ?)", progress)
        order = "raw.rowid" if paired else "desirable DESC, raw.rowid"
        db.executescript(f"""
            CREATE TABLE captions (id INTEGER PRIMARY KEY, text TEXT UNIQUE);
            INSERT INTO captions VALUES (0, '');
            INSERT OR IGNORE INTO captions (text) SELECT DISTINCT text FROM raw;
            CREATE TABLE images (file TEXT, caption INTEGER, desirable INTEGER, score REAL, row INTEGER);
            INSERT INTO images SELECT file, captions.id, desirable, score, row
                FROM raw JOIN captions USING (text) ORDER BY {order};
            DROP TABLE raw;
            CREATE TABLE about (key TEXT, value TEXT);
            INSERT INTO about SELECT 'images', count(*) FROM images;
            INSERT INTO about SELECT 'liked', CAST(total(desirable) AS INTEGER) FROM images;
            INSERT INTO about SELECT 'captions', count(*) FROM captions;
            INSERT INTO about SELECT 'lowest', min(score) FROM images;
            INSERT INTO about SELECT 'highest', max(score) FROM images""")
        facts = {"identity": identity, "source": csv_path.resolve(), "paired": int(paired)}
        facts["digest"] = f"{reader.digest.hexdigest()} {intersections}"
        db.executemany("INSERT INTO about VALUES (?, ?)", [(k, str(v)) for k, v in facts.items()])
        db.commit()
        db.execute("VACUUM")


class Reader:
    """The rows of a CSV as dicts, with errors that name the row, and a digest of what was read. In a file
    that ends in .tsv tabs separate columns, and quotes are text."""

    def __init__(self, path: Path):
        self.path, self.digest, self.line = path, hashlib.sha256(), 0
        self.tabs = path.suffix == ".tsv"
        form = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if self.tabs else {}
        self._csv = csv.DictReader(self._lines(), strict=True, **form)
        try:
            self.columns = [name.strip() for name in self._csv.fieldnames or []]
        except csv.Error as error:
            raise InputError(f"{path}: {error}") from error
        self._csv.fieldnames = self.columns

    def _lines(self) -> Iterator[str]:
        with open(self.path, "rb") as file:
            for self.line, line in enumerate(file, 1):
                self.digest.update(line)
                try:
                    yield line.decode("utf-8-sig" if self.line == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise self.error("not UTF-8 text; save the CSV as UTF-8") from error

    def __iter__(self) -> Iterator[tuple[int, dict[str, str]]]:
        try:
            for row in self._csv:
                if None in row or None in row.values():
                    raise self.error(f"has {'more' if None in row else 'fewer'} fields than the header")
                if any(row.values()):  # a row of nothing but commas says nothing
                    yield self.line, row
        except csv.Error as error:
            raise self.error(str(error)) from error

    def error(self, what: str) -> InputError:
        return InputError(f"{self.path}, row {self.line}: {what}")

    def need(self, *names: str) -> str:
        """The first of the names that is a column."""
        for name in names:
            if name in self.columns:
                return name
        columns = ", ".join(self.columns) or "none"
        mark = "tabs" if self.tabs else "commas"
        hint = f"; columns are separated by {mark}" if len(self.columns) < 2 else ""
        raise InputError(f"{self.path} has no column {' or '.join(names)}; its columns: {columns}{hint}")

    def inside(self, name: str) -> str:
        """The file name, if such a file is there, inside the data folder."""
        root = str(self.path.parent.resolve())
        try:
            whole = os.path.realpath(os.path.join(root, name))
        except ValueError as error:
            raise self.error(f"image {name!r} is no file name") from error
        if os.path.isabs(name) or os.path.commonpath([root, whole]) != root:
            raise self.error(f"image '{name}' must lie in {root}, and be named from there")
        if not os.path.isfile(whole):
            raise self.error(f"no image '{name}' in {root}")
        return name


def read_feedback(reader: Reader, intersections: str) -> Iterator[tuple]:
    """(file, caption, desirable, None, row) of each row that counts."""
    file, caption = reader.need("file_name", "file_path"), reader.need("caption")
    label = reader.need("label", "split")
    meanings = LABELS if label == "label" else SPLITS | {"intersections": POLICIES[intersections]}
    for number, row in reader:
        said = row[label].strip().lower()
        if said not in meanings:
            raise reader.error(f"unknown {label} '{row[label]}': use one of {', '.join(meanings)}")
        desirable = meanings[said]
        if desirable is not None:
            yield reader.inside(row[file]), row[caption].strip(), desirable, None, number


def read_pairs(reader: Reader) -> Iterator[tuple]:
    """The winner's and the loser's (file, caption, desirable, score, row) of each row."""
    sides = ((reader.need("winner"), 1), (reader.need("loser"), 0))
    caption, scored = reader.need("caption"), {"winner_score", "loser_score"} <= set(reader.columns)
    number = 0
    for number, row in reader:
        if row["winner"] == row["loser"]:
            raise reader.error(f"image '{row['winner']}' is both winner and loser")
        for side, desirable in sides:
            score = None
            if scored:
                try:
                    score = float(row[f"{side}_score"])
                except ValueError:
                    score = math.nan
                if not math.isfinite(score):
                    raise reader.error(f"{side}_score '{row[f'{side}_score']}' is not a number")
            yield reader.inside(row[side]), row[caption].strip(), desirable, score, number
    if not number:
        raise InputError(f"{reader.path} has no pairs")
