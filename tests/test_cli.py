"""The command line, as its users call it: what it writes, what it says, and how it refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from toy import experiments, pretrained, study
from toy.__main__ import main

ROW = (
    "objective utility beta seed desirable_rate undesirable_rate distance alignment avoidance balance seconds"
)


@pytest.fixture
def quick(monkeypatch):
    """The whole way with a hundredth of the work."""
    pretrain, align, draw = pretrained.pretrain, study.align, study.draw
    monkeypatch.setattr(study, "ALIGN_STEPS", 3)
    monkeypatch.setattr(study, "MIDDLE", (2,))
    monkeypatch.setattr(study, "SAMPLES", 50)
    monkeypatch.setattr(
        pretrained, "pretrain", lambda points, **options: pretrain(points, steps=3, **options)
    )
    monkeypatch.setattr(study, "align", lambda *arguments: align(*arguments, steps=3, batch=8))
    monkeypatch.setattr(study, "draw", lambda *arguments, **options: draw(*arguments, steps=2, **options))


@pytest.fixture
def folders(tmp_path):
    return ["--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]


@pytest.fixture
def mine(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("import torch\n\n\ndef bend(x):\n    return torch.tanh(x)\n")
    return f"{file}:bend"


def strict(path: Path):
    def refuse(constant):
        raise ValueError(f"{constant} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_figure6_writes_a_picture_and_a_row_for_every_run_and_seed(quick, folders, tmp_path, capsys):
    assert main(["figure6", "--seeds", "2", *folders]) == 0
    content = strict(tmp_path / "out" / "figure6.json")
    assert len(content["rows"]) == 8 * 2 and set(ROW.split()) <= set(content["rows"][0])
    assert (tmp_path / "out" / "figure6.png").read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert f"wrote {tmp_path / 'out' / 'figure6.png'}" in said and "done in" in said
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["figure6.json", "figure6.png"]


def test_figure6_of_another_world_has_its_own_name(quick, folders, tmp_path):
    assert main(["figure6", "--world", "rings", *folders]) == 0
    assert (tmp_path / "out" / "figure6-rings.png").exists()


def test_utilities_draws_built_in_ones_and_your_own(tmp_path, mine):
    assert main(["utilities", mine, "--out", str(tmp_path)]) == 0
    assert (tmp_path / "utilities.png").exists()


def test_a_flow_has_its_own_name_and_beta(quick, folders, tmp_path):
    assert main(["figure6", "--process", "flow", *folders]) == 0
    content = json.loads((tmp_path / "out" / "figure6-flow.json").read_text())
    assert content["process"] == "flow" and {row["beta"] for row in content["rows"]} == {1.0}
    assert (tmp_path / "cache" / "figure6-flow-0.safetensors").exists()


def test_try_says_one_sentence_and_saves_it(quick, folders, tmp_path, mine, capsys):
    assert main(["try", mine, "--seeds", "2", *folders]) == 0
    content = strict(tmp_path / "out" / "try.json")
    assert content["verdict"].startswith("Yours ") and content["verdict"] in capsys.readouterr().out
    assert {row["name"] for row in content["rows"]} == {"yours", *experiments.PAPER}


def test_try_warns_of_a_falling_utility(quick, folders, tmp_path, capsys):
    file = tmp_path / "wave.py"
    file.write_text("import torch\n\n\ndef wave(x):\n    return torch.sin(x)\n")
    assert main(["try", f"{file}:wave", "--seeds", "1", *folders]) == 0
    assert "warning:" in capsys.readouterr().out


def test_sweep_has_a_curve_for_each_knob(quick, folders, tmp_path):
    assert main(["sweep", "--seeds", "2", *folders]) == 0
    summary = strict(tmp_path / "out" / "sweep.json")["summary"]
    theirs = [e for e in summary if e["name"] == "kahneman_tversky"]
    assert {e["beta"] for e in theirs} == {1.0, 2.0, 4.0, 8.0, 16.0, 32.0}
    assert {e["gamma"] for e in theirs} == set(experiments.GAMMAS)
    assert {e["flipped"] for e in theirs} == set(experiments.FLIPPED)


def test_bench_prints_shares_and_ratios(capsys):
    assert main(["bench", "--seconds", "0.01"]) == 0
    said = capsys.readouterr().out
    assert said.count("times as fast") == 2 and "8 runs at once, batch 256" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], "invalid choice: 'nope'"),
        ([], "COMMAND"),
        (["figure6", "--seeds", "0"], "--seeds: 0 is out of range"),
        (["figure6", "--seeds", "many"], "--seeds: invalid"),
        (["figure6", "--beta", "-1"], "--beta: -1 is out of range"),
        (["figure6", "--beta", "inf"], "--beta: inf is out of range: above 0, up to 1000000.0"),
        (["figure6", "--seeds", "9" * 5000], "--seeds: invalid number value: '999"),
        (["figure6", "--out", "x" * 300], "File name too long; choose another --out"),
        (["try", "x" * 300 + ".py:f"], "no file xxx"),
        (["try", "caf\udce9.py:f"], r"'caf\udce9.py:f' is not UTF-8 text: rename it"),
        (["figure6", "--world", "flat"], "unknown world 'flat': use one of figure6, moons, rings, grid"),
        (["figure6", "--process", "flown"], "unknown process 'flown': use one of diffusion, flow"),
        (["try", "nope"], "unknown utility 'nope'"),
        (["try", "missing.py:f"], "no file missing.py"),
        (["utilities", "--out", "/proc/nowhere"], "cannot write to /proc/nowhere"),
        (["figure6", "--cache", "/proc/nowhere"], "choose another --cache"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and said.count("\n") == 1 and len(said) < 700
    assert list(tmp_path.iterdir()) == [] or "--cache" in message


def run(*arguments, **options):
    return subprocess.Popen([sys.executable, "-m", "toy", *arguments], text=True, **options)


COMMANDS = {
    "toy": ["figure6", "utilities", "try x", "sweep", "explore", "bench"],
    "sd": [
        "train tiny",
        "plan tiny",
        "prepare x --out o",
        "sample --model m --prompts p --out o",
        "evaluate",
        "score-pairs d --scorer redness",
        "shapes red --out o",
        "tiny --out o",
        "figure7",
        "study",
        "bench",
    ],
}
LOOK = """if True:
    import importlib, runpy, sys

    def look(name):
        print("imported", name, [m for m in ("torch", "diffusers", "matplotlib") if m in sys.modules])
        raise KeyboardInterrupt

    importlib.import_module = look
    sys.argv = sys.argv[:1] + sys.argv[2:]
    runpy.run_module(PACKAGE, run_name="__main__")
"""


@pytest.mark.parametrize(
    ("package", "arguments"), [(p, a) for p in COMMANDS for a in COMMANDS[p]], ids=lambda v: v.split()[0]
)
def test_a_command_speaks_before_it_imports_anything_heavy(package, arguments):
    """Its first line says what it does; help needs no more than that."""
    script = LOOK.replace("PACKAGE", repr(package))
    command = [sys.executable, "-c", script, package, *arguments.split()]
    done = subprocess.run(command, capture_output=True, text=True)
    name = arguments.split()[0]
    first, second = done.stdout.splitlines()
    assert first.startswith(f"python -m {package} {name}: ") and second.endswith(" []")
    assert done.returncode == 2 and done.stderr.startswith("error: interrupted;")
    shown = subprocess.run([*command[:4], name, "--help"], capture_output=True, text=True, check=True)
    assert first.partition(": ")[2] in " ".join(shown.stdout.split())
    assert "imported" not in shown.stdout


def test_a_full_disk_is_named_with_the_way_out(monkeypatch, capsys):
    def full(**options):
        raise OSError(28, "No space left on device", "a.png")

    monkeypatch.setattr(experiments, "sweep", full)
    assert main(["sweep"]) == 2
    said = "[Errno 28] No space left on device: 'a.png'; when that is mended, run the same command again"
    assert capsys.readouterr().err == f"error: {said} to start over\n"


def test_a_letter_that_the_screen_cannot_show_is_shown_as_its_code(tmp_path):
    command = [sys.executable, "-m", "toy", "utilities", "--out", str(tmp_path / "café")]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and r"caf\xe9/utilities.png" in done.stdout


def test_help_lists_every_command():
    for package, commands in COMMANDS.items():
        command = [sys.executable, "-m", package, "--help"]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for name in (c.split()[0] for c in commands):
            assert f"\n    {name}" in shown


def test_every_command_names_a_function_that_is_there():
    import importlib

    from sd.__main__ import parser as sd_parser
    from toy.__main__ import parser as toy_parser

    for package, parser in (("toy", toy_parser), ("sd", sd_parser)):
        for arguments in COMMANDS[package]:
            options = vars(parser().parse_args(arguments.split()))
            module, _, function = options.pop("function").partition(":")
            assert callable(getattr(importlib.import_module(module), function))


def test_only_one_process_of_many_speaks(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("RANK", "1")
    assert main(["utilities", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "python -m toy utilities:" not in shown and "done in" not in shown


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def test_ctrl_c_leaves_nothing_half_written(tmp_path):
    out = tmp_path / "out"
    process = run(
        "figure6", "--seeds", "500", "--out", str(out), "--cache", str(tmp_path / "cache"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("cache/*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2 and "interrupted" in said and "Traceback" not in said
    assert list(out.iterdir()) == [] and not list(tmp_path.glob("cache/.*"))
