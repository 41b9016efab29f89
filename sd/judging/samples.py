"""Folders of images that `sd sample` drew, read for a comparison."""

import json
from pathlib import Path
from typing import NamedTuple

from sd.feedback.table import Reader
from sd.judging.prompts import Prompt
from toy.errors import InputError


class Samples(NamedTuple):
    """The images of a model: the same number of files for each prompt."""

    folder: Path
    prompts: list[Prompt]
    files: list[list[str]]


def read_samples(folder: str | Path) -> Samples:
    """The images that the index.csv of a folder names. Raises InputError naming a row that is wrong."""
    folder = Path(folder)
    if not (folder / "index.csv").is_file():
        raise InputError(f"no index.csv in {folder}; python -m sd sample writes it when all images are there")
    reader = Reader(folder / "index.csv")
    file, text, place = (reader.need(name) for name in ("file_name", "prompt", "number"))
    prompts: dict[str, Prompt] = {}
    files: dict[str, list[str]] = {}
    for _, row in reader:
        prompt = Prompt(row[text], row.get("style", ""))
        if prompts.setdefault(row[place], prompt) != prompt:
            raise reader.error(f"prompt number {row[place]} has another text in a row above")
        files.setdefault(row[place], []).append(reader.inside(row[file]))
    if not prompts:
        raise InputError(f"{folder / 'index.csv'} has no images")
    return Samples(folder, list(prompts.values()), list(files.values()))


def refuse_different(samples: dict[str, Samples]) -> None:
    """Raises InputError unless all models have the same number of images of the same prompts."""
    first, *others = samples
    mine = samples[first]
    count = len(mine.files[0])
    for name, theirs in samples.items():
        for prompt, files in zip(theirs.prompts, theirs.files, strict=True):
            if len(files) != count:
                raise InputError(
                    f"{first} has {count} images of '{mine.prompts[0].text}', but "
                    f"{name} has {len(files)} of '{prompt.text}'; all need the same number"
                )
    for name in others:
        theirs = samples[name]
        for i, (a, b) in enumerate(zip(mine.prompts, theirs.prompts, strict=False)):
            if a != b:
                both = " and ".join(f"'{p.text}'" + (f" ({p.style})" if p.style else "") for p in (a, b))
                raise InputError(f"{first} and {name} have different prompts: number {i} is {both}")
        if len(mine.prompts) != len(theirs.prompts):
            raise InputError(f"{first} has {len(mine.prompts)} prompts, and {name} {len(theirs.prompts)}")


def differences(samples: dict[str, Samples]) -> list[str]:
    """Settings that differ between the folders and make a comparison unfair, in lines."""
    lines, (first, *others) = [], samples
    for name in others:
        try:
            a, b = (json.loads((samples[m].folder / "sampling.json").read_text()) for m in (first, name))
        except (OSError, ValueError):
            continue  # drawn by another program
        other = [key for key in ("seed", "steps", "guidance", "scheduler") if a.get(key) != b.get(key)]
        if other:
            lines.append(f"note: {first} and {name} were not sampled with the same {', '.join(other)}")
    return lines
