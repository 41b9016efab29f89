"""The course in a browser, without installing it: the addresses, and the lines that Colab needs in a lesson.

The address of the repository stands in pyproject.toml, and nowhere else.
"""

import json
import tomllib
from pathlib import Path

from toy.errors import InputError
from toy.files import save_atomically

ROOT = Path(__file__).parent.parent
PLACEHOLDER = "OWNER"
CONDITION = 'if "google.colab" in str(get_ipython()):'
COLAB = (  # what Colab brings, such as Jupyter and PyTorch, is left as it is
    f"{CONDITION}  # Colab has no copy of the project: fetch it",
    '    get_ipython().system("git clone --quiet --depth 1 ADDRESS project")',
    '    get_ipython().run_line_magic("pip", "install --quiet ./project[sd]")',
    '    __import__("sys").path.insert(0, "project")  # figures/ lies there, too',
    "",
)


def online(colab: bool) -> list[Path]:
    """Print the addresses; with `colab`, also put Colab's lines into every lesson, or renew them there."""
    address = repository()
    name = address.removeprefix("https://github.com/")
    print(f"Binder      https://mybinder.org/v2/gh/{name}/HEAD?urlpath=lab/tree/notebooks")
    print(f"Codespaces  https://codespaces.new/{name}")
    lessons = sorted((ROOT / "notebooks").glob("*.ipynb"))
    for lesson in lessons:
        print(
            f"Colab       https://colab.research.google.com/github/{name}/blob/main/notebooks/{lesson.name}"
        )
    return [insert(lesson, address) for lesson in lessons] if colab else []


def repository() -> str:
    """The address of this project, from pyproject.toml."""
    file = ROOT / "pyproject.toml"
    if not file.is_file():
        raise InputError(f"there is no {file}: run this in a clone of the repository")
    address = tomllib.loads(file.read_text("utf-8"))["project"]["urls"]["Repository"].rstrip("/")
    if PLACEHOLDER in address or not address.startswith("https://github.com/"):
        raise InputError(f"{address} is no address: set Repository in pyproject.toml to yours on GitHub")
    return address


def insert(lesson: Path, address: str) -> Path:
    """Put the lines at the top of a lesson's first code cell. Elsewhere than on Colab they do nothing. What
    was there before them, and the outputs of all cells, stay as they are."""
    notebook = json.loads(lesson.read_text("utf-8"))
    cell = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    lines = "".join(cell["source"]).splitlines(keepends=True)
    if lines[0].startswith(CONDITION):
        lines = lines[len(COLAB) :]
    cell["source"] = [f"{line}\n".replace("ADDRESS", address) for line in COLAB] + lines
    text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    return save_atomically(lesson, lambda file: file.write_text(text, "utf-8"))
