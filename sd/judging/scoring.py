"""Score images, each once, in any number of processes. An interrupted run resumes.

The scores of a scorer are in scores-NAME.sqlite. While they work, the processes of `accelerate launch` write
to files of their own beside it.
"""

import hashlib
import math
import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from itertools import islice
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from sd.feedback.images import UNREADABLE, open_image
from sd.judging.scorers import Scorer
from toy.errors import InputError

BATCH = 32  # images scored together
WORKERS = 8  # processes that prepare images, so that a GPU need not wait
SCORES = "CREATE TABLE IF NOT EXISTS scores (key TEXT PRIMARY KEY, score REAL)"
IMAGES = "CREATE TEMP TABLE images (number INTEGER PRIMARY KEY, key TEXT, file TEXT, prompt TEXT)"
UNSCORED = "FROM images WHERE key NOT IN (SELECT key FROM scores)"
FULL = "end what else uses it, or score on the CPU, after: export CUDA_VISIBLE_DEVICES=-1"  # the GPU's memory
Row = tuple[str, str, str]  # of an image: key, file and prompt


def digest(*parts) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


class Store:
    """The scores of images by one scorer, in a folder. A key stands for all that a score depends on: images
    with the same key are scored once."""

    def __init__(self, folder: Path, scorer: str, images: Iterable[Row]):
        self.path, self.state = folder / f"scores-{scorer}.sqlite", PartialState()
        self.db = sqlite3.connect(self.path)
        try:
            self._merge()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):  # such as a full disk
                raise
            text = f"damaged scores in {folder}: delete {self.path.stem}*.sqlite to score the images anew"
            raise InputError(text) from error
        self.db.execute(IMAGES)
        rows = ((number, *image) for number, image in enumerate(images))
        self.db.executemany("INSERT INTO images VALUES (?, ?, ?, ?)", rows)
        self.db.commit()

    def __del__(self):
        if hasattr(self, "db"):
            self.db.close()

    def todo(self) -> int:
        """The number of images to score."""
        return self.db.execute(f"SELECT count(DISTINCT key) {UNSCORED}").fetchone()[0]

    def score(self, scorer: Scorer) -> None:
        """Score the images that have no score, except those that cannot be read. Of n processes, each takes
        every n-th batch, so that the batches are the same for any n."""
        rank, processes = self.state.process_index, self.state.num_processes
        total = math.ceil(self.todo() / BATCH / processes)
        rows = self.db.execute(f"SELECT key, file, prompt {UNSCORED} GROUP BY key ORDER BY min(number)")
        batches = islice(iter(lambda: rows.fetchmany(BATCH), []), rank, None, processes)
        workers = 0 if scorer.device == "cpu" else min(WORKERS, os.cpu_count())
        loader = DataLoader(_Inputs(scorer), None, sampler=batches, num_workers=workers)
        with closing(sqlite3.connect(self.path.with_stem(f"{self.path.stem}-{rank}"))) as own:
            own.execute("PRAGMA synchronous = OFF")  # a commit need not wait for the disk
            own.execute(SCORES)
            for batch, inputs in tqdm(loader, scorer.name, total, leave=False, disable=rank > 0):
                scores = scorer.score(inputs, [prompt for *_, prompt in batch]).tolist() if batch else []
                for (key, file, _), score in zip(batch, scores, strict=True):
                    if not math.isfinite(score):
                        raise InputError(f"{scorer.name} scores {file} as {score}: check its weights")
                    own.execute("INSERT OR REPLACE INTO scores VALUES (?, ?)", (key, score))
                own.commit()
        self._merge()
        too_long = set(gather_object(list(scorer.too_long)))
        if too_long and rank == 0:
            print(f"{scorer.name} cut {len(too_long)} prompts that are longer than it takes")

    def _merge(self) -> None:
        """Move what all processes scored, also those of an interrupted run, into the one file."""
        self.state.wait_for_everyone()
        if self.state.is_main_process:
            self.db.execute(SCORES)
            for part in self.path.parent.glob(f"{self.path.stem}-*.sqlite"):
                self.db.execute("ATTACH ? AS part", (str(part),))
                self.db.execute("INSERT OR REPLACE INTO scores SELECT * FROM part.scores")
                self.db.commit()
                self.db.execute("DETACH part")
                part.unlink()
        self.state.wait_for_everyone()

    def unreadable(self) -> list[str]:
        """Why images have no score, once for each file."""
        reasons = []
        for (file,) in self.db.execute(f"SELECT DISTINCT file {UNSCORED} ORDER BY number"):
            reasons.append(f"{file} could not be read in time")
            try:
                open_image(Path(file))
            except UNREADABLE as error:
                reasons[-1] = str(error)
        return reasons


class _Inputs(Dataset):
    """Batches of images as a scorer takes them, without those that cannot be read."""

    def __init__(self, scorer: Scorer):
        self.scorer = scorer

    def __getitem__(self, batch: list[Row]) -> tuple[list[Row], Tensor | None]:
        images = {}
        for row in batch:
            try:
                images[row] = open_image(Path(row[1]))
            except UNREADABLE:
                continue  # Store.unreadable tells why
        return list(images), self.scorer.prepare(list(images.values())) if images else None
