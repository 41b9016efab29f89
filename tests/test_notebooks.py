"""The course: every lesson as it is committed, and run anew from another folder, its controls used."""

import ast
import inspect
import os
import re
import textwrap
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from notebooks.checks import EXERCISES
from sd.__main__ import parser as sd_parser
from sd.align import Aligner
from toy import losses, plain
from toy.__main__ import parser as toy_parser

ROOT = Path(__file__).parent.parent
LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))
lessons = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
MACHINE_PATH = re.compile(r"/(home|root|Users|tmp|work|opt|usr|var|private)/|[A-Z]:\\\\|site-packages")

# what a reader would do by hand, after the cell in which these words are: the panel's buttons pressed while
# it works, squares ticked, forty images answered (as the stand-in would)
WAIT = "while {0}.words.value == 'working ...':\n    await asyncio.sleep(0.1)\n"
HANDS = {
    ("2_utility", "controls(panel"): (
        "import asyncio\nfor number, value in enumerate(('risk_seeking', 50.0, 0.5)):\n"
        "    choices[number].value = value",
        WAIT.format("panel.screen") + "assert not panel.screen.words.value, panel.screen.words.value\n"
        "assert 'beta 50, z0 0.5' in panel.screen.image.value\n"
        "assert ': 0.00, 0.00, 0.00, 0.50, 1.00.' in panel.screen.image.value",
    ),
    ("7_your_utility", "controls(panel"): (
        "import asyncio\nfirst = panel.screen.image.value\n"
        "for value in ('risk_seeking', 'bend'):\n    choices[0].value, choices[3].value = value, 0.2",
        WAIT.format("panel.screen") + "assert not panel.screen.words.value, panel.screen.words.value\n"
        "assert 'bend, beta 4' in panel.screen.image.value and '20% of labels' in panel.screen.image.value",
    ),
    ("7_your_utility", "controls(board"): (
        "ticked = set(liked_squares)\nboard.clear.click()\nassert not liked_squares\nboard.undo.click()\n"
        "assert liked_squares == ticked\nboard.clear.click()\nboard.done.click()",
        WAIT.format("board.screen") + "assert 'at least one square' in board.screen.words.value\n"
        "for square in list(board.squares.values())[:40]:\n    square.click()\n"
        "assert len(liked_squares) == 40 and 'liked' in square.tooltip\nboard.done.click()",
        WAIT.format("board.screen") + "assert not board.screen.words.value, board.screen.words.value\n"
        "assert 'after alignment' in board.screen.image.value",
    ),
    ("8_stable_diffusion", "controls(questions"): (
        "for scene in shapes.judge(choices):\n"
        "    (questions.like if scene.shape == 'circle' else questions.dislike).click()",
        "assert questions.like.disabled and 'Thank you' in questions.words.value\n"
        "last = questions.answers[-1]\nquestions.undo.click()\nassert len(questions.answers) == 39\n"
        "(questions.like if last else questions.dislike).click()\nquestions.like.click()\n"
        "assert len(questions.answers) == 40",
    ),
}


def read(path):
    return nbformat.read(path, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook):
    return [output for cell in code(notebook) for output in cell.outputs]


def texts(notebook):
    """Everything that a reader can see of the outputs."""
    for output in outputs(notebook):
        yield output.get("text", "")
        yield from (v for k, v in output.get("data", {}).items() if k.startswith("text/"))


def assert_clean(notebook):
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))
    for output in outputs(notebook):
        assert output.output_type != "error" and output.get("name") != "stderr", output
        if "image/png" in output.get("data", {}):
            assert len(output["metadata"]["image/png"]["alt"]) > 20
    for text in texts(notebook):
        assert not MACHINE_PATH.search(text) and str(ROOT) not in text, text


def test_there_are_nine_lessons_and_they_are_small():
    assert [path.stem[0] for path in LESSONS] == list("123456789")
    assert sum(path.stat().st_size for path in LESSONS) < 8e6


@lessons
def test_a_committed_lesson_has_run_in_order_without_errors_or_machine_paths(path):
    assert_clean(read(path))
    assert "widgets" not in read(path).metadata  # pages would show dead buttons
    assert sum("image/png" in output.get("data", {}) for output in outputs(read(path))) >= 4


@lessons
def test_a_lesson_is_short_and_imports_in_its_first_cell_only(path):
    notebook = read(path)
    assert 20 <= len(notebook.cells) <= 40
    for number, cell in enumerate(code(notebook)):
        lines = [line for line in cell.source.splitlines() if line.strip()]
        assert len(lines) <= 25, cell.source
        nodes = list(ast.walk(ast.parse(cell.source)))
        imports = [n for n in nodes if isinstance(n, ast.Import | ast.ImportFrom)]
        assert bool(imports) == (number == 0), cell.source


@lessons
def test_a_lesson_has_all_its_parts(path):
    words = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    assert words.startswith(f"# {path.stem[0]}. ")
    for part in ("**Question.**", "| symbol |", "**What you should see", "## Exercise", "## In three lines"):
        assert part in words, part
    assert words.count("\n- ", words.index("## In three lines")) == 3
    for file in re.findall(r"`((?:toy|sd|notebooks)/[\w/.]+)`", words[words.index("**Sources.**") :]):
        assert (ROOT / file).exists(), file


@pytest.mark.parametrize(
    ("number", "function"),
    [
        (3, losses.diffusion_kto),
        (3, plain.kto_loss),
        (3, plain.align),
        (8, Aligner.loss),
        (8, Aligner.gather),
    ],
    ids=lambda value: getattr(value, "__qualname__", value),
)
def test_the_code_that_a_committed_lesson_prints_is_the_code_as_it_is(number, function):
    assert textwrap.dedent(inspect.getsource(function)).strip() in "\n".join(texts(read(LESSONS[number - 1])))


@lessons
def test_every_command_that_a_lesson_names_exists(path):
    words = "\n".join(cell.source for cell in read(path).cells)
    for name, parser in (("toy", toy_parser()), ("sd", sd_parser())):
        assert set(re.findall(rf"-m {name} ([\w-]+)", words)) <= set(
            parser._subparsers._group_actions[0].choices
        )
    assert not re.findall(r"-m (?:toy|sd)\.\w+", words)


def test_every_exercise_is_in_one_lesson_and_left_open_there():
    asked = []
    for path in LESSONS:
        for cell in code(read(path)):
            for name in re.findall(r"^checks\.(\w+)\(\1\)$", cell.source, re.M):
                assert f"def {name}(" in cell.source and "return ..." in cell.source
                assert "✗ Not yet" in cell.outputs[-1]["data"]["text/plain"]
                asked.append(name)
    assert sorted(asked) == sorted(EXERCISES)


@lessons
def test_a_lesson_runs_from_another_folder(path, tmp_path):
    notebook = read(path)
    for cell in code(notebook):  # two seeds are enough to see that it runs
        cell.source = re.sub(r"(?m)^(.*SEEDS.* = .*|for seed in )range\([345]\)", r"\1range(2)", cell.source)
    for (stem, words), cells in HANDS.items():
        if stem == path.stem:
            place = next(i for i, c in enumerate(notebook.cells) if words in c.source + "\n")
            notebook.cells[place + 1 : place + 1] = [nbformat.v4.new_code_cell(cell) for cell in cells]
    environment = {key: value for key, value in os.environ.items() if key != "TQDM_DISABLE"}
    environment["PYTHONPATH"] = str(ROOT)
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env=environment)
    assert_clean(notebook)
    for output in outputs(notebook):  # JupyterLab and exported pages take a description from the HTML only
        data = output.get("data", {})
        if "image/png" in data:
            assert '<img alt="' in data["text/html"]
    if path.stem.startswith("8"):
        assert len((tmp_path / "out/my-likes/feedback.csv").read_text().splitlines()) == 41


def test_controls_say_what_to_do_without_a_kernel_and_keep_their_keys_from_jupyter(monkeypatch):
    import ipywidgets

    import notebooks

    shown = []
    monkeypatch.setattr(notebooks, "display", lambda data, **options: shown.append(data))
    notebooks.controls(ipywidgets.Button(), "a button")
    line, widget = shown
    script = line["application/javascript"]
    assert "run all cells" in line["text/plain"] and line["text/plain"] in script
    assert ".jupyter-widgets { display: none }" in script  # "model not found"
    assert "stopPropagation" in script
    assert widget["text/plain"] == "a button" and "application/vnd.jupyter.widget-view+json" in widget


def test_every_square_of_a_board_can_be_read_out():
    from notebooks.panels import Board
    from toy import plots

    board = Board([[0, 1], [12, 3]], {1}, lambda aligned: (plots.figure(1, 1, 1, 1)[0], "a board"))
    assert {square.description: square.tooltip for square in board.squares.values()} == {
        "\N{CHECK MARK}": "row 1, column 2: 1 sample, liked",
        "12": "row 2, column 1: 12 samples",
        "3": "row 2, column 2: 3 samples",
    }


def test_what_a_lesson_needs_and_does_not_find_is_said_in_one_line():
    from notebooks import require
    from toy.errors import InputError

    require("torch")
    with pytest.raises(
        InputError, match=r"this lesson needs absent_one, absent_two: .*pip install"
    ) as raised:
        require("torch", "absent_one", "absent_two")
    [line] = raised.value._render_traceback_()
    assert line.startswith("error: ") and "\n" not in line
