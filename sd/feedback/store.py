"""Arrays on disk, filled by any number of processes. Interrupted work can be resumed."""

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
    """The numbers below `count` in chunks of `size`, of which only those in `todo` are left to do."""

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
    """The arrays {name: (shape, dtype)} of a folder, filled in chunks of `size` by the processes of the first
    machine: several machines must not write to one array on a shared disk."""
    count = next(iter(arrays.values()))[0][0]
    kinds = arrays | {"done": ((-(-count // size),), "bool")}
    about = json.loads(json.dumps(about | {"arrays": kinds}))
    if accelerator.is_main_process:
        _create(folder, about, kinds)
    accelerator.wait_for_everyone()
    files = {name: np.load(folder / f"{name}.npy", mmap_mode="r+") for name in kinds}
    todo = np.flatnonzero(~files["done"])
    if "unreadable" in arrays:  # such images may have been replaced in the meantime
        todo = np.union1d(todo, np.flatnonzero(files["unreadable"]) // size)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes))
    mine = todo[accelerator.process_index :: processes] if accelerator.process_index < processes else todo[:0]
    chunks = Chunks(mine, size, count)
    accelerator.wait_for_everyone()  # so that all read the same list before anyone shortens it
    if len(todo):
        for old in folder.glob("report-*.json"):
            old.unlink(missing_ok=True)
    if len(chunks):
        for k, values in enumerate(tqdm(encode(chunks), f"encoding {folder.name}", len(chunks))):
            for name, value in values.items():
                files[name][chunks[k].start : chunks[k].stop] = value
            if (k + 1) % 100 == 0 or k + 1 == len(chunks):  # done means that they are on disk
                for array in files.values():
                    array.flush()
                files["done"][mine[: k + 1]] = True
                files["done"].flush()
    accelerator.wait_for_everyone()
    result = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in kinds}
    if json.loads((folder / "about.json").read_text()) != about or not result.pop("done").all():
        raise InputError(f"another run is writing to {folder}: give this one a --cache of its own")
    return result


def _create(folder: Path, about: dict, arrays: dict) -> None:
    """Make the arrays, of zeros, unless they exist and belong to the same model, data and settings."""
    if folder.exists():
        try:
            theirs = json.loads((folder / "about.json").read_text())
            other = [key for key in about if theirs.get(key) != about[key] and key != "arrays"]
            if theirs == about:
                for name in arrays:
                    np.load(folder / f"{name}.npy", mmap_mode="r")  # fails if the file is damaged
                return
            reason = f"was made with other {' and '.join(other) or 'arrays'}"
        except (OSError, ValueError):
            reason = "is damaged"
        print(f"{folder} {reason}: encoding anew")
        shutil.rmtree(folder)

    def write(temporary: Path) -> None:
        for name, (shape, kind) in arrays.items():
            path = temporary / f"{name}.npy"
            array = np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape)
            if hasattr(os, "posix_fallocate"):  # a full disk is then an error now, not a crash later
                with open(path, "r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, array.nbytes)
        save_json(temporary / "about.json", about)

    try:
        save_folder(folder, write, replace=False)
    except OSError as error:
        if (folder / "about.json").exists():  # another run was faster; its arrays will do
            return
        size = sum(int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in arrays.values()) / 1e9
        text = f"cannot make {size:.1f} GB in {folder}: {error.strerror}"
        raise InputError(f"{text}; use another --cache or --no-cached") from error
