"""Pick-a-Pic v2 into feedback: python -m sd.prepare SOURCE --out DIR writes images, pairs.csv, feedback.csv.

SOURCE is a parquet file, or a folder of parquet files or of a saved `datasets` dataset; it is streamed.
The rules: comparisons without a label or an image are left out. A tie is no pair, and no win for either.
In feedback.csv each image is one row, however often it was compared: exclusive_win if it was preferred
and never lost, intersections if it was preferred and lost, exclusive_lose if it was never preferred.
Images are not decoded here; training checks them. An interrupted conversion goes on where it was.
"""

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from tqdm import tqdm

from toy.__main__ import Parser
from toy.errors import InputError
from toy.files import output_folder, save_atomically, save_csv

COLUMNS = ("caption", "jpg_0", "jpg_1", "image_0_uid", "image_1_uid", "label_0", "has_label")
SPLIT = (
    "CASE WHEN wins = 0 THEN 'exclusive_lose' WHEN losses = 0 THEN 'exclusive_win' ELSE 'intersections' END"
)
WHOLE = -1  # the number that says that all batches of a file are done
TABLES = """
    CREATE TABLE IF NOT EXISTS images (uid TEXT PRIMARY KEY, file TEXT, caption TEXT, wins INT, losses INT);
    CREATE TABLE IF NOT EXISTS pairs (winner TEXT, loser TEXT, caption TEXT);
    CREATE TABLE IF NOT EXISTS done (file TEXT, batch INT, pairs INT, ties INT, unusable INT)"""


def prepare(source: str, out: Path) -> dict[str, int]:
    """Convert; how many comparisons were pairs, ties and unusable."""
    files = find(Path(source))
    (out / "images").mkdir(exist_ok=True)
    with closing(sqlite3.connect(out / "prepare.sqlite")) as db:
        db.executescript(TABLES)
        done = set(db.execute("SELECT file, batch FROM done"))
        for file in map(Path.resolve, files):
            if (str(file), WHOLE) in done:
                continue
            for number, rows in enumerate(tqdm(read(file), file.name, unit=" batches")):
                if (str(file), number) not in done:
                    counts = {"pairs": 0, "ties": 0, "unusable": 0}
                    for row in rows.to_pylist():
                        counts[_take(db, row, out)] += 1
                    db.execute(
                        "INSERT INTO done VALUES (?, ?, ?, ?, ?)", (str(file), number, *counts.values())
                    )
                    db.commit()  # rows and the note that they are done, together
            db.execute("INSERT INTO done VALUES (?, ?, 0, 0, 0)", (str(file), WHOLE))
            db.commit()
        order = f"SELECT file, caption, {SPLIT} FROM images ORDER BY rowid"
        save_csv(out / "feedback.csv", ("file_name", "caption", "split"), db.execute(order))
        pairs = db.execute("SELECT * FROM pairs ORDER BY rowid")
        save_csv(out / "pairs.csv", ("winner", "loser", "caption"), pairs)
        totals = db.execute("SELECT total(pairs), total(ties), total(unusable) FROM done").fetchone()
    return {k: int(v) for k, v in zip(("pairs", "ties", "unusable"), totals, strict=True)}


def find(source: Path) -> list[Path]:
    """The data files of a source, in order."""
    files = (
        [source] if source.is_file() else sorted([*source.rglob("*.parquet"), *source.rglob("data-*.arrow")])
    )
    if not files:
        raise InputError(f"no parquet or arrow file in {source}; fetch Pick-a-Pic v2 and name its folder")
    return files


def read(file: Path) -> Iterator:
    """Record batches of one file, a few rows at a time."""
    import pyarrow
    from pyarrow import parquet

    try:
        if file.suffix == ".parquet":
            whole = parquet.ParquetFile(file)
            _check(file, whole.schema_arrow.names)
            yield from whole.iter_batches(64, columns=list(COLUMNS))
        else:
            with pyarrow.memory_map(str(file)) as source, pyarrow.ipc.open_stream(source) as stream:
                _check(file, stream.schema.names)
                yield from (batch.select(list(COLUMNS)) for batch in stream)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise InputError(f"{file} cannot be read: {str(error).splitlines()[0]}; fetch it again") from error


def _check(file: Path, names: list[str]) -> None:
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise InputError(f"{file} has no column {', '.join(missing)}; Pick-a-Pic v2 has {', '.join(COLUMNS)}")


def _take(db: sqlite3.Connection, row: dict, out: Path) -> str:
    """Add one comparison; what it was: pairs, ties or unusable."""
    sides = [(row[f"image_{i}_uid"], _bytes(row[f"jpg_{i}"])) for i in (0, 1)]
    named = all(
        uid and data and uid.replace("-", "").isalnum() for uid, data in sides
    )  # uids become file names
    if not row["has_label"] or row["label_0"] not in (0, 0.5, 1) or not named:
        return "unusable"
    names = []
    for i, (uid, data) in enumerate(sides):
        names.append(f"images/{uid[:2]}/{uid}.jpg")
        path = out / names[-1]
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            save_atomically(path, lambda temporary, data=data: temporary.write_bytes(data))
        won = row["label_0"] if i == 0 else 1 - row["label_0"]
        db.execute(
            """INSERT INTO images VALUES (?, ?, ?, ?, ?)
            ON CONFLICT (uid) DO UPDATE SET wins = wins + excluded.wins, losses = losses + excluded.losses""",
            (uid, names[-1], row["caption"], int(won == 1), int(won == 0)),
        )
    if row["label_0"] == 0.5:
        return "ties"
    winner, loser = names if row["label_0"] == 1 else names[::-1]
    db.execute("INSERT INTO pairs VALUES (?, ?, ?)", (winner, loser, row["caption"]))
    return "pairs"


def _bytes(image: bytes | dict | None) -> bytes | None:
    """The file's bytes, as a plain column holds them or as `datasets` wraps an image."""
    return image["bytes"] if isinstance(image, dict) else image


def main(argv: list[str] | None = None) -> int:
    parser = Parser("python -m sd.prepare", description=__doc__)
    parser.add_argument("source", help="parquet file, or folder of parquet files or of a saved dataset")
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder for images, pairs.csv, feedback.csv"
    )
    try:
        options = parser.parse_args(argv)
        counts = prepare(options.source, out := output_folder(options.out))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (sqlite3.Error, OSError) as error:
        print(f"error: cannot write to {options.out}: {error}; the same command goes on", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nerror: interrupted; the same command goes on from here", file=sys.stderr)
        return 2
    print(f"{counts['pairs']} pairs; left out {counts['ties']} ties and {counts['unusable']} comparisons "
          "without label or image")  # fmt: skip
    print(f"wrote {out}/pairs.csv, {out}/feedback.csv and {out}/images")
    return 0


if __name__ == "__main__":
    sys.exit(main())
