"""What a lecturer does with a class: hand out the lessons, mark them, pool the likes."""

import csv
import inspect
import json
import re
from pathlib import Path

import pytest

from notebooks import solutions
from notebooks.__main__ import main
from notebooks.answers import EXERCISES
from notebooks.grade import verdict

ROOT = Path(__file__).parent.parent
LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def write_notebook(path, *cells):
    path.parent.mkdir(parents=True, exist_ok=True)
    made = [{"cell_type": "code", "metadata": {}, "outputs": [], "source": source} for source in cells]
    path.write_text(json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))


def solved(path):
    """The code cells of a lesson, each exercise with its solution in place of the dots."""
    module = __import__(f"{solutions.__name__}.lesson{path.stem[0]}", fromlist=["_"])
    cells = json.loads(path.read_text())["cells"]
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and (asked := re.search(r"^checks\.(\w+)\(\1\)$", source, re.M)):
            source = inspect.getsource(module) + "\n\n" + asked[0]  # as a student may paste it
        if cell["cell_type"] == "code":
            yield source


@pytest.fixture(scope="module")
def grades(tmp_path_factory):
    """A class, and the rows of its table: {student: {exercise: text}}."""
    folder = tmp_path_factory.mktemp("class")
    for path in LESSONS:
        write_notebook(folder / "ada" / "course" / path.name, *solved(path))
        (folder / "untouched").mkdir(exist_ok=True)
        (folder / "untouched" / path.name).write_bytes(path.read_bytes())
    write_notebook(
        folder / "bob.ipynb",
        "import torch, os, sys, ctypes",
        "def estimate_x0(xt, t, eps, abar):\n    while True:\n        pass",
        "def ddim_step(xt, t, t_next, eps, abar):\n    sys.exit()",
        "def slope(utility, x):\n    os._exit(3)",
        "def loss_aversion(x):\n    return bytearray(10**12)",
        "def denoising_error(predicted, eps):\n    print('rubbish' * 100)\n    return (predicted - eps).square().mean(-1)",
        "def reference_point(policy_error, reference_error):\n    return (reference_error - polcy_error).mean()",
        "def kto_loss(:",
        "def undesirable_rate(samples):\n    ctypes.string_at(0)",
        "def balance(a, b):\n    return input()",
        "def half_width(values):\n    return torch.empty(10**13)",
    )
    (folder / "eve").mkdir()
    (folder / "eve" / "broken.ipynb").write_text('{"cells": [')
    assert main(["grade", str(folder), "--out", str(folder / "out"), "--seconds", "3"]) == 0
    with open(folder / "out" / "grades.csv", newline="", encoding="utf-8") as file:
        return {row["student"]: row for row in csv.DictReader(file)}


def test_the_table_has_a_row_for_each_student_and_a_column_for_each_exercise(grades):
    assert list(grades) == ["ada", "bob", "eve", "untouched"]
    assert all(list(row) == ["student", *EXERCISES, "total"] for row in grades.values())


def test_the_solutions_are_all_right_and_the_untouched_lessons_all_open(grades):
    assert {grades["ada"][name] for name in EXERCISES} == {"right"} and grades["ada"]["total"] == "18"
    assert grades["untouched"]["total"] == "0"
    assert not {"right", "missing"} & {grades["untouched"][name] for name in EXERCISES}
    assert "nothing yet" in grades["untouched"]["kto_loss"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("estimate_x0", "time limit: more than 3 s"),
        ("ddim_step", "it stops with SystemExit"),
        ("slope", "crash: its process ended with code 3"),
        ("loss_aversion", "memory limit: more than 4 GB"),
        ("half_width", "memory limit: more than 4 GB"),
        ("denoising_error", "right"),
        ("reference_point", "it stops at `return (reference_error - polcy_error).mean()` with NameError"),
        ("kto_loss", "its cell is not Python"),
        ("undesirable_rate", "crash"),
        ("balance", "it stops at `return input()` with EOFError"),
        ("cautious", "missing"),
    ],
)
def test_what_a_student_does_wrong_is_said_and_stops_nobody_else(grades, name, text):
    assert grades["bob"][name].startswith(text)


def test_a_file_that_is_no_notebook_is_named(grades):
    assert grades["eve"]["slope"] == "missing (broken.ipynb cannot be read)"


HEAVY = "policy = 1 / 0"  # stands for a cell that trains
RIGHT = "return (predicted - eps).square().mean(-1)"


@pytest.mark.parametrize(
    "cells",
    [
        (HEAVY, f"def denoising_error(predicted, eps):\n    policy = predicted\n    {RIGHT}"),
        ("power = 2", "def mean(x):\n    return (x**power).mean(-1)", HEAVY)
        + ("def denoising_error(predicted, eps):\n    return mean(predicted - eps)",),
        ("from torch import *", "def denoising_error(p, eps):\n    return mean(square(p - eps), -1)"),
        (f"if True:\n    def denoising_error(predicted, eps):\n        {RIGHT}",),
        ("denoising_error = lambda predicted, eps: ((predicted - eps) ** 2).mean(-1)",),
        (f"%matplotlib inline\n!ls\ndef denoising_error(predicted, eps):\n    {RIGHT}", "this is not Python"),
        (f"def denoising_error(predicted, eps):\n    {RIGHT}\n\n\nchecks.denoising_error(denoising_error)",)
        + ("def denoising_error(predicted, eps):\n    return 'tried something else afterwards'",),
        ("n = 1", "n = n + 1", "def denoising_error(p, eps):\n    return ((p - eps) ** n).mean(-1)"),
    ],
    ids=["local", "helper", "star", "indented", "lambda", "magic", "after", "twice"],
)
def test_of_a_notebook_only_what_the_exercise_needs_is_run(cells):
    cells = [re.sub(r"(?m)^[%!].*$", "pass", cell) for cell in cells]
    assert verdict(list(cells), "denoising_error") == "right"


@pytest.mark.parametrize("layout", ["absent", "empty"])
def test_a_folder_without_notebooks_is_refused_in_one_line(tmp_path, capsys, layout):
    folder = tmp_path if layout == "empty" else tmp_path / "absent"
    assert main(["grade", str(folder)]) == 2
    assert "one folder, or one notebook, for each student" in capsys.readouterr().err
