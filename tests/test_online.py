"""The settings of Binder, Codespaces and Colab agree with pyproject.toml. That the services run them is not
tested here."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from notebooks import online
from notebooks.__main__ import main

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SCRIPT = (ROOT / ".binder" / "postBuild").read_text()
ADDRESS = "https://github.com/somebody/diffusion-kto"


def test_binder_and_codespaces_bring_the_python_that_the_project_needs():
    lowest = PROJECT["requires-python"].removeprefix(">=")
    assert (ROOT / ".binder" / "runtime.txt").read_text() == f"python-{lowest}\n"
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert container["image"].endswith(f"python:{lowest}")
    command = container["postCreateCommand"]
    assert "bash .binder/postBuild" in command
    target = re.search(r"make \.venv/(\w+)", command)[1]
    assert re.search(rf"^\$\(VENV\)/{target}:", (ROOT / "Makefile").read_text(), re.M)


def test_they_install_extras_that_exist_at_the_pinned_versions():
    extras = re.search(r"--editable '\.\[(.*)\]'", SCRIPT)[1].split(",")
    assert set(extras) <= set(PROJECT["optional-dependencies"]) and "notebooks" in extras
    assert "--constraint constraints.txt" in SCRIPT and "whl/cpu" in SCRIPT
    assert re.search(r"^torch==[\d.]+$", (ROOT / "constraints.txt").read_text(), re.M)
    assert os.access(ROOT / ".binder" / "postBuild", os.X_OK)
    assert subprocess.run(["bash", "-n", str(ROOT / ".binder" / "postBuild")]).returncode == 0


def test_the_address_is_named_once_and_asked_for_where_it_is_not_set(monkeypatch, tmp_path, capsys):
    assert PROJECT["urls"]["Repository"].startswith("https://github.com/")
    for folder in ("notebooks", "docs", ".binder", ".devcontainer"):
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in (".md", ".py", ".json", ".txt", ".ipynb", ""):
                assert not file.is_file() or "OWNER/" not in file.read_text(), file
    (tmp_path / "pyproject.toml").write_text('[project.urls]\nRepository = "https://github.com/OWNER/name"\n')
    monkeypatch.setattr(online, "ROOT", tmp_path)
    assert main(["online"]) == 2
    assert "set Repository in pyproject.toml" in capsys.readouterr().err


def test_the_addresses_name_the_repository_and_every_lesson(monkeypatch, capsys):
    monkeypatch.setattr(online, "repository", lambda: ADDRESS)
    before = [path.stat().st_mtime_ns for path in LESSONS]
    assert main(["online"]) == 0
    out = capsys.readouterr().out
    assert "https://mybinder.org/v2/gh/somebody/diffusion-kto/HEAD" in out
    assert "https://codespaces.new/somebody/diffusion-kto" in out
    assert all(f"somebody/diffusion-kto/blob/main/notebooks/{path.name}" in out for path in LESSONS)
    assert [path.stat().st_mtime_ns for path in LESSONS] == before


def first_cell(path):
    cells = json.loads(path.read_text())["cells"]
    return "".join(next(cell for cell in cells if cell["cell_type"] == "code")["source"])


@pytest.fixture(params=LESSONS, ids=lambda path: path.stem)
def inserted(request, tmp_path):
    """A lesson as it is, and a copy with the lines."""
    copy = Path(shutil.copy(request.param, tmp_path))
    online.insert(copy, ADDRESS)
    return request.param, copy


def test_colab_lines_can_be_renewed_and_change_nothing_else(inserted):
    lesson, copy = inserted
    once = copy.read_text()
    online.insert(copy, "https://github.com/other/name")
    assert first_cell(copy).count(
        "google.colab"
    ) == 1 and "https://github.com/other/name project" in once.replace(
        ADDRESS, "https://github.com/other/name"
    )
    online.insert(copy, ADDRESS)
    assert copy.read_text() == once
    before, after = json.loads(lesson.read_text()), json.loads(once)
    cell = next(cell for cell in after["cells"] if cell["cell_type"] == "code")
    old = next(c for c in before["cells"] if c["cell_type"] == "code")
    assert "".join(cell["source"][len(online.COLAB) :]) == "".join(
        old["source"]
    ) or online.CONDITION in "".join(old["source"])
    cell["source"] = old["source"]
    assert after == before


def test_colab_lines_fetch_and_install_on_colab_and_do_nothing_elsewhere(inserted, monkeypatch):
    lines = "".join(first_cell(inserted[1]).splitlines(True)[: len(online.COLAB)])
    calls = []

    class Shell:
        def run_line_magic(self, *words):
            calls.append(words)

        def system(self, command):
            calls.append(command)

    class ColabShell(Shell):
        def __str__(self):
            return "<google.colab._shell.Shell object>"

    exec(lines, {"get_ipython": Shell})
    assert not calls
    monkeypatch.setattr(sys, "path", sys.path[:])
    exec(lines, {"get_ipython": ColabShell})
    assert calls == [
        f"git clone --quiet --depth 1 {ADDRESS} project",
        ("pip", "install --quiet ./project[sd]"),
    ]
    assert sys.path[0] == "project"
    assert PROJECT["name"] == "diffusion-kto" and "sd" in PROJECT["optional-dependencies"]


def test_a_lesson_with_colab_lines_keeps_the_lessons_rules(inserted):
    source = first_cell(inserted[1])
    ast.parse(source)
    assert len([line for line in source.splitlines() if line.strip()]) <= 25
    check = [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml")]
    options = ["--no-cache", "--per-file-ignores", "[89]*:E402", str(inserted[1])]
    result = subprocess.run([*check, *options], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
