"""Writing results: files and folders are complete or absent, and what cannot be written is reported early."""

import csv
import json
import math
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

from toy.errors import InputError

HIDDEN = f".{platform.node()}@"  # how temporary names begin: machines may share a disk


def output_folder(path: str | Path, option: str = "--out") -> Path:
    """The folder, made if need be. Raises InputError, before any work is done, if nothing can be
    written there."""
    if not str(path):
        raise InputError(f"{option} is empty: name a folder")
    folder = Path(path)
    if os.path.isfile(folder):  # unlike folder.is_file() it bears any name
        raise InputError(f"{folder} is a file, not a folder; choose another {option}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", error)
        raise InputError(f"cannot write to {folder}: {reason}; choose another {option}") from error
    return folder


def save_atomically(path: Path, write: Callable[[Path], None]) -> Path:
    """Let `write` fill a temporary file beside path, then rename it, so that a file is complete or
    absent. Raises InputError when it cannot be written."""
    temporary = _beside(path)
    try:
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        _remove(temporary)
    return path


def save_folder(path: Path, write: Callable[[Path], None], replace: bool = True) -> Path:
    """The same for a folder. What `write` raises passes through, and so does the OSError of a path
    that is taken if it is not to be replaced; in each case the temporary folder is removed."""
    temporary = _beside(path)
    try:
        temporary.mkdir(parents=True)
        write(temporary)
        if replace:
            shutil.rmtree(path, ignore_errors=True)
        os.rename(temporary, path)
    finally:
        _remove(temporary)
    return path


def _beside(path: Path) -> Path:
    """A temporary name beside path, of this machine and process, with its suffix, which says the format."""
    _clear(path.parent)
    temporary = path.with_name(f"{HIDDEN}{os.getpid()}-{path.name}")
    _remove(temporary)
    return temporary


@cache
def _clear(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder; once, since listing a folder takes time."""
    for old in folder.glob(f"{HIDDEN}*-*") if os.name == "posix" else ():
        try:
            os.kill(int(old.name.removeprefix(HIDDEN).partition("-")[0]), 0)
        except ProcessLookupError:
            _remove(old)
        except PermissionError:  # it lives, under another user
            pass


def _remove(path: Path) -> None:
    with suppress(OSError):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def save_json(path: Path, content: dict) -> Path:
    """Save as JSON. Numbers that are not finite become null, since JSON has none."""

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
    """Save rows under a header, one after the other, as UTF-8."""

    def write(temporary: Path) -> None:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(header)
            csv.writer(file).writerows(rows)

    return save_atomically(path, write)
