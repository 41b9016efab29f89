"""A CSV, read row by row, with errors that name the row."""

import csv
import hashlib
import io
import math
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from toy.errors import InputError


class Reader:
    """The rows of a CSV as (line, dict), and a digest of the file. Raises InputErrors that name the row, by
    the number of its last line. In a .tsv file, tabs separate the columns and quotes are plain text."""

    def __init__(self, path: Path):
        self.path, self.tabs = path, path.suffix == ".tsv"
        self.content = path.read_bytes()  # as a whole: no file stays open when a row raises an error
        self.digest = hashlib.sha256(self.content)
        try:
            self.columns = [name.strip() for name in self._open().fieldnames or []]
        except csv.Error as error:
            raise InputError(f"{path}: {error}") from error
        for name, count in Counter(filter(None, self.columns)).most_common(1):
            if count > 1:
                raise InputError(f"{path} has {count} columns of the name '{name}': keep one")

    def _open(self) -> csv.DictReader:
        form = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if self.tabs else {}
        return csv.DictReader(self._lines(), strict=True, **form)

    def _lines(self) -> Iterator[str]:
        self.line = 0
        for line in io.BytesIO(self.content):
            self.line += 1
            if b"\0" in line:
                raise self.error("has a zero byte; save the CSV as UTF-8")
            try:
                yield line.decode("utf-8-sig" if self.line == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise self.error("not UTF-8 text; save the CSV as UTF-8") from error

    def __iter__(self) -> Iterator[tuple[int, dict[str, str]]]:
        rows = self._open()
        try:
            if rows.fieldnames:  # which reads the header
                rows.fieldnames = self.columns
            for row in rows:
                if None in row or None in row.values():
                    raise self.error(f"has {'more' if None in row else 'fewer'} fields than the header")
                if any(row.values()):  # not a row of nothing but commas
                    yield self.line, row
        except csv.Error as error:
            raise self.error(str(error)) from error

    def error(self, what: str) -> InputError:
        return InputError(f"{self.path}, row {self.line}: {what}")

    def need(self, *names: str) -> str:
        """The first of the names that is a column. Raises InputError if there is none."""
        for name in names:
            if name in self.columns:
                return name
        columns = ", ".join(self.columns) or "none"
        hint = f"; separate columns by {'tabs' if self.tabs else 'commas'}" if len(self.columns) < 2 else ""
        raise InputError(f"{self.path} has no column {' or '.join(names)}; its columns: {columns}{hint}")

    def number(self, row: dict[str, str], name: str) -> float:
        """A field as a number. Raises InputError if it is none, or so large that sums would overflow."""
        try:
            value = float(row[name])
        except ValueError:
            value = math.nan
        if not abs(value) < 1e30:
            raise self.error(f"{name} '{row[name]}' is not a number below 1e30")
        return value

    def inside(self, name: str) -> str:
        """One name for a file inside the CSV's folder, however it is written or linked. Raises InputError for
        any other file."""
        root = str(self.path.parent.resolve())
        path = os.path.realpath(os.path.join(root, name))
        if os.path.isabs(name) or os.path.commonpath([root, path]) != root:
            raise self.error(f"image '{name}' must lie in {root} and be named relative to that folder")
        if not os.path.isfile(path):
            raise self.error(f"no image '{name}' in {root}")
        return os.path.relpath(path, root)
