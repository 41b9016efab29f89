"""Read folders of images that `sd sample` drew, and check that they can be compared."""

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
        raise InputError(f"no index.csv in {folder}; python -m sd sample writes it when all images are drawn")
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
    first, mine = next(iter(samples.items()))
    count = len(mine.files[0])
    for name, theirs in samples.items():
        for prompt, files in zip(theirs.prompts, theirs.files, strict=True):
            if len(files) != count:
                text = f"{name} has {len(files)} images of '{prompt.text}'"
                raise InputError(f"{text}; every prompt needs {count}, as in {first}")
        for i, (a, b) in enumerate(zip(mine.prompts, theirs.prompts, strict=False)):
            if a != b:
                both = " and ".join(f"'{p.text}'" + (f" ({p.style})" if p.style else "") for p in (a, b))
                raise InputError(f"{first} and {name} have different prompts: number {i} is {both}")
        if len(mine.prompts) != len(theirs.prompts):
            raise InputError(f"{first} has {len(mine.prompts)} prompts, but {name} has {len(theirs.prompts)}")


def differences(samples: dict[str, Samples]) -> list[str]:
    """A note for each model whose sampling settings differ from the first's, which is unfair."""
    lines, (first, *others) = [], samples
    for name in others:
        try:
            a, b = ({} | json.loads((samples[m].folder / "sampling.json").read_text()) for m in (first, name))
        except (OSError, ValueError, TypeError):
            continue  # drawn by another program
        other = [key for key in ("seed", "steps", "guidance", "scheduler") if a.get(key) != b.get(key)]
        if other:
            lines.append(f"note: {first} and {name} were not sampled with the same {', '.join(other)}")
    return lines
