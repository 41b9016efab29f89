"""Arrays on disk, filled by any number of processes. The work can be interrupted and resumed."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from tqdm import tqdm

from toy.errors import InputError
from toy.files import save_folder, save_json

Arrays = dict[str, np.ndarray]


@dataclass
class Chunks:
    """The chunks that are still to do, of all numbers below `count`."""

    todo: np.ndarray
    size: int
    count: int

    def __len__(self) -> int:
        return len(self.todo)

    def __getitem__(self, k: int) -> range:
        first = int(self.todo[k]) * self.size
        return range(first, min(self.count, first + self.size))


def fill(
    folder: Path,
    about: dict,
    arrays: dict[str, tuple],
    size: int,
    encode: Callable[[Chunks], Iterator[Arrays]],
    accelerator: Accelerator,
) -> Arrays:
    """The arrays of a folder, {name: (shape, dtype)}, completed in chunks of `size` by all processes of the
    first machine: arrays on a shared disk must not be written from several."""
    count = next(iter(arrays.values()))[0][0]
    kinds = arrays | {"done": ((-(-count // size),), "bool")}
    about = json.loads(json.dumps(about | {"arrays": kinds}))
    if accelerator.is_main_process:
        _create(folder, about, kinds)
    accelerator.wait_for_everyone()
    stored = {name: np.load(folder / f"{name}.npy", mmap_mode="r+") for name in kinds}
    todo = np.flatnonzero(~stored["done"])
    if "unreadable" in arrays:  # these may have been replaced since
        todo = np.union1d(todo, np.flatnonzero(stored["unreadable"]) // size)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes))
    mine = todo[accelerator.process_index :: processes] if accelerator.process_index < processes else todo[:0]
    chunks = Chunks(mine, size, count)
    accelerator.wait_for_everyone()  # all have read the same list before anyone shortens it
    if len(todo):
        for old in folder.glob("report-*.json"):
            old.unlink(missing_ok=True)
    silent = {} if len(chunks) else {"disable": True}
    progress = tqdm(total=len(chunks), desc=f"encoding {folder.name}", **silent)
    finished = []
    for k, values in enumerate(encode(chunks) if len(chunks) else ()):
        for name, value in values.items():
            stored[name][chunks[k].start : chunks[k].stop] = value
        finished.append(mine[k])
        if len(finished) == 100 or k == len(chunks) - 1:  # marked as done only once they are on disk
            for array in stored.values():
                array.flush()
            stored["done"][finished] = True
            finished = []
        progress.update()
    progress.close()
    accelerator.wait_for_everyone()
    opened = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in kinds}
    if json.loads((folder / "about.json").read_text()) != about or not opened.pop("done").all():
        raise InputError(f"another run is writing to {folder}: give this one a --cache of its own")
    return opened


def _create(folder: Path, about: dict, arrays: dict) -> None:
    """Make the arrays, of zeros, unless they are there, made with the same model, data and settings."""
    if folder.exists():
        try:
            theirs = json.loads((folder / "about.json").read_text())
        except (OSError, ValueError):
            theirs = {}
        if theirs == about and _complete(folder, arrays):
            return
        other = [key for key in about if theirs.get(key) != about[key] and key != "arrays"]
        why = f"was made with other {' and '.join(other)}" if other else "is damaged"
        print(f"{folder} {why}: encoding anew")
        shutil.rmtree(folder)

    def write(temporary: Path) -> None:
        for name, (shape, kind) in arrays.items():
            path = temporary / f"{name}.npy"
            array = np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape)
            if hasattr(os, "posix_fallocate"):  # a full disk is then an error here, not a crash later
                with open(path, "r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, array.nbytes)
        save_json(temporary / "about.json", about)

    try:
        save_folder(folder, write, replace=False)
    except OSError as error:
        if (folder / "about.json").exists():  # another run was faster; its arrays are as good
            return
        size = sum(int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in arrays.values())
        raise InputError(
            f"cannot make {size / 1e9:.1f} GB in {folder}: {error.strerror}; "
            "use another --cache or --no-cached"
        ) from error


def _complete(folder: Path, arrays: dict) -> bool:
    """Whether every array is there, in its full shape."""
    try:
        shapes = {name: np.load(folder / f"{name}.npy", mmap_mode="r").shape for name in arrays}
    except (OSError, ValueError):
        return False
    return all(shapes[name] == tuple(shape) for name, (shape, _) in arrays.items())
