"""Writing results: whole files or none, and an early word when they cannot be written."""

import csv
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from toy.errors import InputError


def output_folder(path: str | Path, option: str = "--out") -> Path:
    """The folder, made if need be. Raises InputError if nothing can be written there, so that it
    is known before the work and not after."""
    if not str(path):
        raise InputError(f"{option} is empty: name a folder")
    folder = Path(path)
    if folder.is_file():
        raise InputError(f"{folder} is a file, not a folder; choose another {option}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}; choose another {option}") from error
    return folder


def save_atomically(path: Path, write: Callable[[Path], None]) -> Path:
    """Let `write` fill a temporary file beside path, then rename it: never a half-written file.
    Raises InputError when the disk refuses."""
    temporary = path.with_name(f".{os.getpid()}-{path.name}")  # keeps the suffix, which says the format
    try:
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def save_json(path: Path, content: dict) -> Path:
    """Save as JSON; numbers that are not finite become null, which JSON can say."""

    def plain(value):
        if isinstance(value, dict):
            return {key: plain(v) for key, v in value.items()}
        if isinstance(value, list):
            return [plain(v) for v in value]
        if isinstance(value, float):
            return round(value, 6) if math.isfinite(value) else None
        return value

    text = json.dumps(plain(content), indent=1, allow_nan=False) + "\n"
    return save_atomically(path, lambda temporary: temporary.write_text(text))


def save_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable]) -> Path:
    """Save rows as they come under a header, as UTF-8."""

    def write(temporary: Path) -> None:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(header)
            csv.writer(file).writerows(rows)

    return save_atomically(path, write)
