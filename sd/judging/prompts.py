"""Prompts to judge models by, from a file: plain text, a CSV with styles (HPSv2's), or PartiPrompts' TSV."""

from pathlib import Path
from typing import NamedTuple

from sd.feedback.table import Reader
from toy.errors import InputError


class Prompt(NamedTuple):
    text: str
    style: str  # HPSv2's style, PartiPrompts' category, or ""


def read_prompts(path: str | Path) -> list[Prompt]:
    """The prompts of a file, in order and with repetitions. A .txt file has one per line, a .csv file the
    columns prompt (or caption) and perhaps style, a .tsv file PartiPrompts' columns Prompt and Category.
    Raises InputError naming file and row."""
    path = Path(path)
    if path.suffix not in (".txt", ".csv", ".tsv"):
        raise InputError(f"--prompts {path} must end in .txt (one per line), .csv or .tsv")
    if not path.is_file():
        raise InputError(f"no file {path}; --prompts takes a .txt, .csv or .tsv file")
    prompts = _lines(path) if path.suffix == ".txt" else _rows(path)
    if not prompts:
        raise InputError(f"{path} has no prompts")
    return prompts


def _lines(path: Path) -> list[Prompt]:
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    return [Prompt(line.strip(), "") for line in lines if line.strip()]


def _rows(path: Path) -> list[Prompt]:
    reader = Reader(path)
    text = reader.need("prompt", "Prompt", "caption")
    style = next((name for name in ("style", "Category") if name in reader.columns), None)
    prompts = []
    for _, row in reader:
        if not row[text].strip():
            raise reader.error("the prompt is empty")
        prompts.append(Prompt(row[text].strip(), row[style].strip() if style else ""))
    return prompts
