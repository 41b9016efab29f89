"""Pick-a-Pic v2 as feedback: images, pairs.csv and feedback.csv in one folder.

The source is a parquet file, or a folder of parquet files or of a saved `datasets` dataset. Of a folder with
several splits, the files of one are taken. They are read in parts, and an interrupted conversion resumes.
Comparisons without a label or an image are left out. A tie makes no pair and is neither a win nor a loss. In
feedback.csv each image is one row, however often it was compared: exclusive_win if it won and never lost,
intersections if it won and lost, exclusive_lose if it lost and never won. Images are not decoded here;
training checks them.
"""

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from tqdm import tqdm

from toy.errors import InputError
from toy.files import output_folder, save_atomically, save_csv

COLUMNS = ("caption", "jpg_0", "jpg_1", "image_0_uid", "image_1_uid", "label_0", "has_label")
SPLITS = ("train", "validation", "test", "validation_unique", "test_unique")
WHOLE = -1  # the number that stands for all batches of a file
FEEDBACK = """
    SELECT file, caption, CASE WHEN wins = 0 THEN 'exclusive_lose' WHEN losses = 0 THEN 'exclusive_win'
    ELSE 'intersections' END FROM images WHERE wins + losses > 0 ORDER BY rowid"""
TABLES = """
    CREATE TABLE IF NOT EXISTS images (uid TEXT PRIMARY KEY, file TEXT, caption TEXT, wins INT, losses INT);
    CREATE TABLE IF NOT EXISTS pairs (winner TEXT, loser TEXT, caption TEXT);
    CREATE TABLE IF NOT EXISTS done (file TEXT, batch INT, pairs INT, ties INT, unusable INT);
    CREATE TABLE IF NOT EXISTS splits (name TEXT)"""


def prepare(source: str, out: str, split: str = "train") -> list[Path]:
    """Convert a split, and print the numbers of pairs and of what was left out. Returns what it wrote. Raises
    InputError if `out` has another split: training must not see what models are judged by."""
    files, folder = find(Path(source), split), output_folder(out)
    (folder / "images").mkdir(exist_ok=True)
    with closing(sqlite3.connect(folder / "prepare.sqlite")) as db:
        db.executescript(TABLES)
        db.execute("INSERT INTO splits SELECT ? WHERE NOT EXISTS (SELECT * FROM splits)", (split,))
        (theirs,) = db.execute("SELECT name FROM splits").fetchone()
        if theirs != split:
            raise InputError(f"{folder} has the split {theirs}; choose another --out for {split}")
        done = set(db.execute("SELECT file, batch FROM done"))
        for file in files:
            place = str(file.resolve())
            if (place, WHOLE) in done:
                continue
            for number, rows in enumerate(tqdm(read(file), file.name, unit=" batches")):
                if (place, number) not in done:
                    counts = {"pairs": 0, "ties": 0, "unusable": 0}
                    for row in rows:
                        counts[_take(db, row, folder)] += 1
                    db.execute("INSERT INTO done VALUES (?, ?, ?, ?, ?)", (place, number, *counts.values()))
                    db.commit()  # the rows together with the note that they are done
            db.execute("INSERT INTO done VALUES (?, ?, 0, 0, 0)", (place, WHOLE))
            db.commit()
        rows = db.execute(FEEDBACK)
        likes = save_csv(folder / "feedback.csv", ("file_name", "caption", "split"), rows)
        rows = db.execute("SELECT * FROM pairs ORDER BY rowid")
        pairs = save_csv(folder / "pairs.csv", ("winner", "loser", "caption"), rows)
        totals = db.execute("SELECT total(pairs), total(ties), total(unusable) FROM done").fetchone()
        (tied,) = db.execute("SELECT count(*) FROM images WHERE wins + losses = 0").fetchone()
    print(
        "{:.0f} pairs; left out {:.0f} ties, {:.0f} comparisons without label or image,".format(*totals),
        end="",
    )
    print(f" and {tied} images that were only in ties")
    return [likes, pairs, folder / "images"]


def find(source: Path, split: str) -> list[Path]:
    """The data files of a source, in order. If their names, or those of their folders, say the split, as in
    data/train-00000-of-00645.parquet or train/data-00000-of-00002.arrow, only the files of this split."""
    if os.path.isfile(source):
        return [source]
    files = {}  # by split
    for file in sorted([*source.rglob("*.parquet"), *source.rglob("data-*.arrow")]):
        words = [re.split("[-.]", name)[0] for name in reversed(file.relative_to(source).parts)]
        files.setdefault(next((word for word in words if word in SPLITS), ""), []).append(file)
    if not files:
        raise InputError(f"no parquet or arrow file in {source}; download Pick-a-Pic v2 and name its folder")
    if split not in files and any(files):
        names = ", ".join(sorted(filter(None, files)))
        raise InputError(f"{source} has no split {split}, but {names}: choose one by --split")
    return files[split if any(files) else ""]


def read(file: Path) -> Iterator[list[dict]]:
    """The rows of one file, a few at a time."""
    import pyarrow
    from pyarrow import parquet

    def rows(batch: pyarrow.RecordBatch) -> list[dict]:
        batch.validate(full=True)  # a damaged one could crash Python
        return batch.to_pylist()

    try:
        if file.suffix == ".parquet":
            table = parquet.ParquetFile(file)
            _check(file, table.schema_arrow.names)
            yield from map(rows, table.iter_batches(64, columns=list(COLUMNS)))
        else:
            with pyarrow.memory_map(str(file)) as source, pyarrow.ipc.open_stream(source) as stream:
                _check(file, stream.schema.names)
                yield from (rows(batch.select(list(COLUMNS))) for batch in stream)
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        what = str(error).partition("\n")[0]
        raise InputError(f"{file} cannot be read: {what}; download it again") from error


def _check(file: Path, names: list[str]) -> None:
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise InputError(f"{file} has no column {', '.join(missing)}; Pick-a-Pic v2 has {', '.join(COLUMNS)}")


def _take(db: sqlite3.Connection, row: dict, out: Path) -> str:
    """Add one comparison, and return what it is: one of pairs, ties and unusable."""
    # `datasets` wraps the bytes of an image in a dict
    images = [image["bytes"] if isinstance(image, dict) else image for image in (row["jpg_0"], row["jpg_1"])]
    uids, caption = (row["image_0_uid"], row["image_1_uid"]), row["caption"] or ""
    safe = all(isinstance(u, str) and u.replace("-", "").isalnum() for u in uids)  # they become file names
    whole = (
        all(isinstance(i, bytes) and i for i in images) and isinstance(caption, str) and uids[0] != uids[1]
    )
    if not row["has_label"] or row["label_0"] not in (0, 0.5, 1) or not safe or not whole:
        return "unusable"
    caption = caption.replace("\0", " ")  # which no CSV may have
    names = []
    for i, (uid, data) in enumerate(zip(uids, images, strict=True)):
        names.append(f"images/{uid[:2]}/{uid}.jpg")
        path = out / names[-1]
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            save_atomically(path, lambda temporary, data=data: temporary.write_bytes(data))
        won = row["label_0"] if i == 0 else 1 - row["label_0"]
        db.execute(
            """INSERT INTO images VALUES (?, ?, ?, ?, ?)
            ON CONFLICT (uid) DO UPDATE SET wins = wins + excluded.wins, losses = losses + excluded.losses""",
            (uid, names[-1], caption, int(won == 1), int(won == 0)),
        )
    if row["label_0"] == 0.5:
        return "ties"
    winner, loser = names if row["label_0"] == 1 else names[::-1]
    db.execute("INSERT INTO pairs VALUES (?, ?, ?)", (winner, loser, caption))
    return "pairs"
