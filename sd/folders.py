"""Folders of images that sd.sample drew, read to be compared."""

import json
from pathlib import Path
from typing import NamedTuple

from sd.data import Reader
from sd.prompts import Prompt
from toy.errors import InputError


class Samples(NamedTuple):
    """The images of a model: as many files for each prompt."""

    folder: Path
    prompts: list[Prompt]
    files: list[list[str]]


def read_samples(folder: str | Path) -> Samples:
    """What the index.csv of a folder names. Raises InputError naming the row that cannot be."""
    folder = Path(folder)
    if not (folder / "index.csv").is_file():
        raise InputError(f"no index.csv in {folder}; python -m sd.sample writes it when all images are there")
    reader = Reader(folder / "index.csv")
    file, text, place = (reader.need(name) for name in ("file_name", "prompt", "number"))
    prompts: dict[str, Prompt] = {}
    files: dict[str, list[str]] = {}
    for _, row in reader:
        prompt = Prompt(row[text], row.get("style", ""))
        if prompts.setdefault(row[place], prompt) != prompt:
            raise reader.error(f"prompt number {row[place]} is another one in a row above")
        files.setdefault(row[place], []).append(reader.inside(row[file]))
    if not prompts:
        raise InputError(f"{folder / 'index.csv'} has no images")
    return Samples(folder, list(prompts.values()), list(files.values()))


def refuse_different(samples: dict[str, Samples]) -> None:
    """Raises InputError unless all models have as many images of the same prompts."""
    first, *others = samples
    mine = samples[first]
    count = len(mine.files[0])
    for name, theirs in samples.items():
        for prompt, files in zip(theirs.prompts, theirs.files, strict=True):
            if len(files) != count:
                raise InputError(
                    f"{first} has {count} images of '{mine.prompts[0].text}', but "
                    f"{name} has {len(files)} of '{prompt.text}'; all need as many"
                )
    for name in others:
        theirs = samples[name]
        for i, (a, b) in enumerate(zip(mine.prompts, theirs.prompts, strict=False)):
            if a != b:
                both = " and ".join(f"'{p.text}'" + (f" ({p.style})" if p.style else "") for p in (a, b))
                raise InputError(f"{first} and {name} have other prompts: number {i} is {both}")
        if len(mine.prompts) != len(theirs.prompts):
            raise InputError(f"{first} has {len(mine.prompts)} prompts, and {name} {len(theirs.prompts)}")


def differences(samples: dict[str, Samples]) -> list[str]:
    """What folders of sd.sample were drawn with that makes comparing them unfair, in lines."""
    lines, (first, *others) = [], samples
    for name in others:
        try:
            a, b = (json.loads((samples[m].folder / "sampling.json").read_text()) for m in (first, name))
        except (OSError, ValueError):
            continue  # of another program
        other = [key for key in ("seed", "steps", "guidance", "scheduler") if a.get(key) != b.get(key)]
        if other:
            lines.append(f"note: {first} and {name} were not sampled with the same {', '.join(other)}")
    return lines
