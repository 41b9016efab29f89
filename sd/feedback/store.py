"""Encoded examples on disk, in files that never change.

A file is complete or absent, and its name follows from its content. So any number of processes, machines and
runs may add to one folder, an interrupted run resumes, and what one run has encoded serves every other.
"""

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from toy.errors import InputError
from toy.files import output_folder, save_atomically

ROWS = 256  # of a file: what an interruption loses at most
Rows = dict[str, np.ndarray]  # "keys" (n,), and tensors (n, ...) by name


def key(content: bytes) -> int:
    """The number by which an example is found: of 63 bits, and never 0."""
    digest = hashlib.blake2b(content, digest_size=8).digest()
    return int.from_bytes(digest, "big") % (2**63 - 1) + 1


class Store:
    """The rows of a folder's files, by key. Each process opens the files for itself."""

    def __init__(self, folder: Path):
        self.folder = output_folder(folder, "--cache")
        self.scan()

    def __getstate__(self) -> dict:
        return {"folder": self.folder}

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)

    def scan(self) -> None:
        """Find the files that are there by now. A damaged one is removed, to be encoded anew."""
        self._files, keys = [], [np.zeros(0, np.int64)]
        for path in sorted(self.folder.glob("[!.]*.safetensors")):
            try:
                file = safe_open(path, "np")
                keys.append(file.get_tensor("keys"))
                self._files.append(file)
            except SafetensorError:
                print(f"{path} is damaged: encoding its examples anew")
                path.unlink(missing_ok=True)
        sizes = [len(part) for part in keys[1:]]
        keys = np.concatenate(keys)
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._file = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)[order]
        self._row = np.concatenate([np.arange(size, dtype=np.int32) for size in [0, *sizes]])[order]

    def missing(self, keys: np.ndarray) -> np.ndarray:
        """Those of the keys that have no row, sorted, each once."""
        return np.setdiff1d(keys, self._keys)

    def get(self, name: str, key: int) -> np.ndarray:
        """The row of a key, in the tensors of this name."""
        place = np.searchsorted(self._keys, key)
        if place == len(self._keys) or self._keys[place] != key:
            raise InputError(f"an example is not in {self.folder}: run the same command again to encode it")
        return self._files[self._file[place]].get_slice(name)[int(self._row[place])]

    def column(self, name: str, keys: np.ndarray) -> np.ndarray:
        """The rows of many keys, in the tensors of this name."""
        places = np.searchsorted(self._keys, keys)
        columns = {f: self._files[f].get_tensor(name) for f in np.unique(self._file[places])}
        rows = zip(self._file[places], self._row[places], strict=True)
        return np.array([columns[file][row] for file, row in rows])

    def add(self, parts: Iterable[Rows]) -> None:
        """Write rows as they come, ROWS or a few more to a file. The next scan() finds them."""
        waiting: list[Rows] = []
        for part in parts:
            waiting.append(part)
            if sum(len(rows["keys"]) for rows in waiting) >= ROWS:
                self._write(waiting)
                waiting = []
        if waiting:
            self._write(waiting)

    def _write(self, parts: list[Rows]) -> None:
        rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        content = save({name: np.ascontiguousarray(array) for name, array in rows.items()})
        path = self.folder / f"{key(content):016x}.safetensors"
        save_atomically(path, lambda temporary: temporary.write_bytes(content))

    def refuse_too_large(self, size: int) -> None:
        """Raises InputError if so many bytes more do not fit on the disk."""
        free = shutil.disk_usage(self.folder).free
        if size > free:
            text = f"{self.folder} needs {size / 1e9:.1f} GB more, and its disk has {free / 1e9:.1f} GB left"
            raise InputError(f"{text}; use another --cache or --no-cached")
