"""What a lecturer does with a class: hand out the lessons, mark them, pool the likes."""

import csv
import inspect
import json
import re
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from notebooks import solutions
from notebooks.__main__ import main
from notebooks.checks import EXERCISES
from notebooks.grade import verdict
from sd.feedback.index import find_csv, open_index

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
    (folder / "untouched.ipynb").write_bytes(LESSONS[2].read_bytes())
    write_notebook(
        folder / "bob.ipynb",
        "%matplotlib inline\nimport torch, os, sys, ctypes",
        "def estimate_x0(xt, t, eps, abar):\n    while True:\n        pass",
        "def ddim_step(xt, t, t_next, eps, abar):\n    sys.exit()",
        "def slope(utility, x):\n    os._exit(3)",
        "def loss_aversion(x):\n    return bytearray(10**12)",
        "def denoising_error(predicted, eps):\n    print('no')\n    return ((predicted - eps) ** 2).mean(-1)",
        "def reference_point(policy_error, reference_error):\n    return (reference_error - polcy).mean()",
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


def test_the_solutions_are_all_right_and_an_untouched_lesson_is_open(grades):
    assert {grades["ada"][name] for name in EXERCISES} == {"right"}
    assert grades["ada"]["total"] == str(len(EXERCISES))
    assert grades["untouched"]["total"] == "0" and grades["untouched"]["slope"] == "missing"
    for name in ("denoising_error", "reference_point", "kto_loss"):
        assert "nothing yet" in grades["untouched"][name]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("estimate_x0", "time limit: more than 3 s"),
        ("ddim_step", "it stops with SystemExit"),
        ("slope", "crash: its process ended with code 3"),
        ("loss_aversion", "memory limit: more than 4 GB"),
        ("half_width", "memory limit: more than 4 GB"),
        ("denoising_error", "right"),
        ("reference_point", "it stops at `return (reference_error - polcy).mean()` with NameError"),
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
DEFINED = f"def denoising_error(predicted, eps):\n    {RIGHT}\n"
USE_OF_MEAN = "def denoising_error(predicted, eps):\n    return mean(predicted - eps)"


@pytest.mark.parametrize(
    "cells",
    [
        (HEAVY, f"def denoising_error(predicted, eps):\n    policy = predicted\n    {RIGHT}"),
        ("power = 2", "def mean(x):\n    return (x**power).mean(-1)", HEAVY, USE_OF_MEAN),
        ("from torch import *", "def denoising_error(p, eps):\n    return mean(square(p - eps), -1)"),
        (f"if True:\n    def denoising_error(predicted, eps):\n        {RIGHT}",),
        ("denoising_error = lambda predicted, eps: ((predicted - eps) ** 2).mean(-1)",),
        (DEFINED, "this is not Python"),
        (
            f"{DEFINED}\nchecks.denoising_error(denoising_error)",
            "denoising_error = 'used for something else'",
        ),
        ("n = 1", "n = n + 1", "def denoising_error(p, eps):\n    return ((p - eps) ** n).mean(-1)"),
    ],
    ids=["local", "helper", "star", "indented", "lambda", "broken", "after", "twice"],
)
def test_of_a_notebook_only_what_the_exercise_needs_is_run(cells):
    assert verdict(list(cells), "denoising_error") == "right"


@pytest.mark.parametrize("layout", ["absent", "empty"])
def test_a_folder_without_notebooks_is_refused_in_one_line(tmp_path, capsys, layout):
    folder = tmp_path if layout == "empty" else tmp_path / "absent"
    assert main(["grade", str(folder)]) == 2
    assert "one folder, or one notebook, for each student" in capsys.readouterr().err


def test_lessons_are_copied_once_and_what_a_student_changed_is_kept(tmp_path, capsys):
    assert main(["lessons", str(tmp_path / "course")]) == 0
    copies = sorted((tmp_path / "course").glob("*.ipynb"))
    assert [copy.read_bytes() for copy in copies] == [path.read_bytes() for path in LESSONS]
    copies[0].write_text("mine")
    copies[1].unlink()
    capsys.readouterr()
    assert main(["lessons", str(tmp_path / "course")]) == 0
    assert copies[0].read_text() == "mine" and copies[1].read_bytes() == LESSONS[1].read_bytes()
    out = capsys.readouterr().out
    assert f"your {copies[0]} is kept" in out and out.count("wrote ") == out.count("rename it first") == 1


def test_a_copy_for_students_has_no_solutions_and_everything_that_its_pages_and_its_installation_name(
    tmp_path,
):
    copy = tmp_path / "copy"
    assert main(["student", str(copy)]) == 0
    assert not list(copy.rglob("*solutions*")) and not list(copy.rglob("__pycache__"))
    for page in copy.rglob("*.md"):
        for link in re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
    project = tomllib.loads((copy / "pyproject.toml").read_text())
    assert (copy / project["project"]["readme"]).exists()
    for package in ("toy", "sd/feedback", "sd/judging", "sd/tiny/pipeline", "notebooks"):
        original = {p.name for p in (ROOT / package).iterdir()} - {"solutions", "__pycache__", "out"}
        assert {p.name for p in (copy / package).iterdir()} == original
    assert main(["student", str(copy)]) == 2  # it is not overwritten


def judge(folder, answers, colour=0):
    """What lesson 8 leaves in my-likes: images and feedback.csv."""
    folder.mkdir(parents=True)
    lines = ["file_name,caption,label"]
    for name, word in zip("abcdefgh", answers, strict=False):
        Image.new("RGB", (8, 8), (20 * ord(name) % 256, colour, 0)).save(folder / f"{name}.png")
        lines.append(f'{name}.png,"a shape, {name}",{ {"+": "liked", "-": "disliked"}[word] }')
    (folder / "feedback.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture
def likes(tmp_path):
    """Three people: two agree, the third is against them on three images of four."""
    for person, answers in {"ada": "++--", "bob": "++--", "eve": "--+-"}.items():
        judge(tmp_path / "class" / person / "my-likes", answers, colour=len(person))  # the same, nearly
    return tmp_path


def test_a_pool_says_how_far_people_agree_and_who_is_the_minority(likes, capsys):
    assert main(["pool", str(likes / "class"), "--out", str(likes / "pool")]) == 0
    out = capsys.readouterr().out
    assert "3 people, 4 images, 4 of them judged by two people or more" in out
    assert "an image's majority is 75% of its answers on average; 0 images are ties" in out
    # by hand: two agree on (1/3 + 1/3 + 1/3 + 1) / 4; 5 of 12 are likes, so by chance on 25/144 + 49/144
    assert "two people agree on 50% of the images; if all liked 42% by chance, on 51%" in out
    assert "Fleiss' kappa: -0.03" in out
    assert "eve/my-likes: 3 of 4 images" in out.split("against")[1].splitlines()[1]
    index = open_index(find_csv(str(likes / "pool"), False), likes)
    assert (index.images, index.liked) == (12, 5)
    assert index.caption(index.image(0).caption) == "a shape, a"


def test_a_pool_of_majorities_has_one_row_for_each_image_and_no_ties(likes):
    judge(likes / "class" / "fay", "-+--")
    assert main(["pool", str(likes / "class"), "--out", str(likes / "pool"), "--majority"]) == 0
    with open(likes / "pool" / "feedback.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["liked", "disliked", "disliked"]  # the first is a tie
    assert {row["caption"] for row in rows} == {f"a shape, {name}" for name in "bcd"}


def test_a_pool_refuses_other_pictures_of_the_same_name_too_few_people_and_a_folder_that_exists(
    likes, capsys
):
    command = ["pool", str(likes / "class"), "--out"]
    assert main([*command, str(likes)]) == 2
    assert "there already" in capsys.readouterr().err
    assert main(["pool", str(likes / "class" / "ada"), "--out", str(likes / "pool")]) == 2
    assert "two or more" in capsys.readouterr().err
    judge(likes / "class" / "fay", "++--", colour=200)
    assert main([*command, str(likes / "pool")]) == 2
    assert "different pictures" in capsys.readouterr().err and not (likes / "pool").exists()
