"""Copies of the course: of the lessons, to work in, and of the project, to hand out."""

import shutil
from pathlib import Path

from toy.errors import InputError
from toy.files import output_folder, save_atomically, save_folder

ROOT = Path(__file__).parent.parent
HANDED_OUT = (
    *("README.md", "LICENSE", "CITATION.cff", "Makefile", "pyproject.toml", "constraints.txt"),
    *("environment.yml", ".gitignore", ".binder", ".devcontainer"),
    *("toy", "sd", "notebooks", "docs", "figures"),
)


def lessons(folder: str) -> list[Path]:
    """Copy the lessons, the quiz and the glossary into a folder. What is there already is the reader's own
    and stays as it is."""
    target, new = output_folder(folder, "FOLDER"), []
    for path in sorted((ROOT / "notebooks").iterdir()):
        copy = target / path.name
        if path.suffix == ".ipynb" or path.name in ("quiz.md", "glossary.md"):
            if not copy.exists():
                new.append(save_atomically(copy, lambda file, path=path: shutil.copyfile(path, file)))
            elif path.read_bytes() != copy.read_bytes():
                print(f"your {copy} is kept; to get it anew, rename it first")
    return new


def student(folder: str) -> list[Path]:
    """Copy the project without its solutions and tests into a new folder, from which it can be installed."""
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{folder} is there already: remove it, or name a new folder")
    left_out = shutil.ignore_patterns("solutions", "__pycache__", ".*", "out")

    def write(temporary: Path) -> None:
        for name in HANDED_OUT:
            copy = shutil.copyfile if (ROOT / name).is_file() else shutil.copytree
            options = {} if copy is shutil.copyfile else {"ignore": left_out}
            copy(ROOT / name, temporary / name, **options)

    return [save_folder(target, write, replace=False)]
