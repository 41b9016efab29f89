"""sd.judging.evaluate: from folders of images to means, win rates and tables."""

import csv
import json
import os
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from sd.__main__ import main
from sd.judging import evaluate, scorers, scoring
from sd.judging import markdown as tables
from sd.judging.samples import read_samples
from toy.statistics import interval

PROMPTS = [("a fox", "photo"), ("a cat", "anime"), ("a dog", "photo")]


@pytest.fixture
def folder(tmp_path):
    """Makes a folder of plain images of given redness, (prompts, images) in 0..255, with its index."""

    def make(name, reds, prompts=PROMPTS):
        place = tmp_path / name
        place.mkdir()
        rows = ["file_name,prompt,style,number,index"]
        for p, ((text, style), row) in enumerate(zip(prompts, reds, strict=True)):
            for i, red in enumerate(row):
                note = PngImagePlugin.PngInfo()
                note.add_text("model", name)  # files that differ, though their images may not
                note.add_text("index", str(i))
                Image.new("RGB", (8, 8), (red, 0, 0)).save(place / f"{p}-{i}.png", pnginfo=note)
                rows.append(f"{p}-{i}.png,{text},{style},{p},{i}")
        (place / "index.csv").write_text("\n".join(rows) + "\n")
        return place

    return make


@pytest.fixture
def ask(tmp_path):
    def run(*more, **folders):
        images = [f"{name}={place}" for name, place in folders.items()]
        out = ["--out", str(tmp_path / "out")]
        return main(["evaluate", "--images", *images, *out, *(more or ["--scorers", "redness"])])

    return run


A = [[30, 60, 90], [10, 20, 250], [5, 5, 5]]
B = [[0, 70, 70], [15, 15, 15], [5, 200, 0]]  # by medians: lost, won, tied


def rows_of(tmp_path):
    text = (tmp_path / "out/results.csv").read_text()
    return {(r["style"], r["model"]): r for r in csv.DictReader(text.splitlines())}


def test_means_and_win_rates_over_prompts(ask, folder, tmp_path, capsys):
    assert ask(a=folder("a", A), b=folder("b", B)) == 0
    rows = rows_of(tmp_path)
    redness = np.array(A) / 255 * 2 / 3  # red is 2/3 above the mean of the channels
    mean, half = interval(redness.mean(1).tolist())  # of prompts, whose images are not independent
    assert float(rows["", "a"]["mean"]) == pytest.approx(mean, rel=1e-5)
    assert float(rows["", "a"]["half_width"]) == pytest.approx(half, rel=1e-5)
    assert float(rows["", "b"]["win_rate"]) == 0.5 and float(rows["", "b"]["ties"]) == pytest.approx(1 / 3)
    assert rows["", "a"]["win_rate"] == "" and rows["", "b"]["prompts"] == "3"
    assert float(rows["anime", "b"]["win_rate"]) == 1 and float(rows["photo", "b"]["win_rate"]) == 0.25
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["first"] == "a" and len(results["rows"]) == 6
    assert "| vs b | 50.0 [" in capsys.readouterr().out


def test_a_second_time_nothing_is_scored_again_and_results_are_the_same(ask, folder, tmp_path, monkeypatch):
    folders = {"a": folder("a", A), "b": folder("b", B)}
    ask(**folders)
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.[!s]*")}
    assert len(first) == 6
    monkeypatch.setattr(evaluate, "load", lambda *_: pytest.fail("a scorer was loaded"))
    assert ask(**folders) == 0
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.[!s]*")}


def test_an_interrupted_evaluation_goes_on_to_the_same_scores(ask, folder, tmp_path, monkeypatch, capsys):
    calls = []

    class Rounding(scorers.Redness):
        """Its scores depend a little on what else is in the batch, and it is interrupted at a call."""

        stop = None

        def score(self, inputs, prompts):
            calls.append(inputs)
            if len(calls) == self.stop:
                raise KeyboardInterrupt
            return inputs + 1e-3 * inputs.mean()

    monkeypatch.setattr(scoring, "BATCH", 2)
    monkeypatch.setattr(evaluate, "load", lambda *_: Rounding())
    folders = {"a": folder("a", A), "b": folder("b", B)}
    ask(**folders)
    assert len(calls) == 9
    whole = (tmp_path / "out/scores.csv").read_bytes()
    (tmp_path / "out/scores-redness.sqlite").unlink()
    calls.clear()
    monkeypatch.setattr(Rounding, "stop", 8)
    assert ask(**folders) == 2 and "run the same command again to resume" in capsys.readouterr().err
    own = tmp_path / "out/scores-redness-0.sqlite"
    own.rename(own.with_name("scores-redness-5.sqlite"))  # as if six processes had been interrupted
    calls.clear()
    assert ask(**folders) == 0 and len(calls) == 2
    assert (tmp_path / "out/scores.csv").read_bytes() == whole
    assert len(list((tmp_path / "out").glob("scores-*"))) == 1


def test_the_same_image_of_the_same_prompt_is_scored_once(ask, folder, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        scorers.Redness, "score", lambda _, inputs, prompts: sizes.append(len(inputs)) or inputs
    )
    a = folder("a", A)
    assert ask(a=a, b=shutil.copytree(a, a.with_name("b"))) == 0 and sizes == [9]


def test_an_image_that_changed_is_scored_again(ask, folder, tmp_path):
    folders = {"a": folder("a", A), "b": folder("b", B)}
    ask(**folders)
    Image.new("RGB", (8, 8), (0, 255, 0)).save(folders["a"] / "1-2.png")
    Image.new("RGB", (8, 8), (0, 255, 0)).save(folders["a"] / "1-1.png")
    ask(**folders)
    assert float(rows_of(tmp_path)["anime", "b"]["win_rate"]) == 0


def test_folders_must_have_as_many_images_of_the_same_prompts(ask, folder, capsys):
    a = folder("a", A)
    others = {
        "b has 2 images of 'a dog'; every prompt needs 3, as in a": folder("b", [*A[:2], A[2][:2]]),
        "b has 2 images of 'a fox'; every prompt needs 3": folder("c", [row[:2] for row in A]),
        "a and b have different prompts: number 1 is 'a cat' (anime) and 'a cow' (anime)": folder(
            "d", A, [PROMPTS[0], ("a cow", "anime"), PROMPTS[2]]
        ),
        "a has 3 prompts, but b has 2": folder("e", A[:2], PROMPTS[:2]),
    }
    for message, b in others.items():
        assert ask(a=a, b=b) == 2
        assert message in capsys.readouterr().err


def test_an_unfair_comparison_is_reported(ask, folder, capsys):
    folders = {"a": folder("a", A), "b": folder("b", B)}
    for place, guidance in zip(folders.values(), (3.0, 7.5), strict=True):
        settings = {"seed": 0, "steps": 20, "guidance": guidance, "scheduler": "X", "prefix": str(place)}
        (place / "sampling.json").write_text(json.dumps(settings))
    assert ask(**folders) == 0
    assert "note: a and b were not sampled with the same guidance\n" in capsys.readouterr().out


def test_a_damaged_image_is_named_and_what_was_scored_is_kept(ask, folder, tmp_path, monkeypatch, capsys):
    folders, prepare, images = {"a": folder("a", A), "b": folder("b", B)}, scorers.Redness.prepare, []
    monkeypatch.setattr(scorers.Redness, "prepare", lambda *a: images.extend(a[1]) or prepare(*a))
    whole = (folders["b"] / "2-1.png").read_bytes()
    (folders["b"] / "2-1.png").write_bytes(whole[:40])
    assert ask(**folders) == 2
    error = capsys.readouterr().err.split("\r")[-1]
    assert "2-1.png cannot be read: " in error and "; sample it again" in error and error.count("\n") == 1
    (folders["b"] / "2-1.png").write_bytes(whole)
    assert len(images) == 17 and ask(**folders) == 0 and len(images) == 18


def test_a_score_that_is_no_number_is_refused(ask, folder, monkeypatch, capsys):
    monkeypatch.setattr(scorers.Redness, "score", lambda self, inputs, prompts: inputs / 0)
    assert ask(a=folder("a", A), b=folder("b", B)) == 2
    assert "0-0.png as inf: check its weights" in capsys.readouterr().err


def test_damaged_scores_are_to_be_deleted(ask, folder, tmp_path, capsys):
    folders = {"a": folder("a", A), "b": folder("b", B)}
    ask(**folders)
    (tmp_path / "out/scores-redness.sqlite").write_bytes(b"no database, but long enough to be one" * 99)
    assert ask(**folders) == 2
    assert "delete scores-redness*.sqlite to score the images anew" in capsys.readouterr().err


def test_a_full_gpu_is_one_clear_line(ask, folder, capsys, monkeypatch):
    def score(self, inputs, prompts):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate ...")

    monkeypatch.setattr(scorers.Redness, "score", score)
    assert ask(a=folder("a", A)) == 2
    assert "error: the GPU's memory does not hold a batch; end what else uses it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "a", "--scorers", "redness"], "--images a: name each model, as in kto="),
        (["--images", "a={a}", "a={a}", "--scorers", "redness"], "two folders named a"),
        (["--images", "a={a}/..", "--scorers", "redness"], "no index.csv in"),
        (["--images", "a={a}", "--scorers", "beauty"], "unknown scorer 'beauty': use one of redness"),
        (["--images", "a={a}", "--scorers", "following"], "not 'a fox'"),
        (["--images", "a={a}", "--scorers", "clip=x", "clip=y"], "names a scorer twice"),
        (["--images", "a={a}"], "--images and --scorers are needed, or --votes"),
    ],
)
def test_what_is_wrong_is_one_clear_line(folder, tmp_path, capsys, arguments, message):
    place = str(folder("a", A))
    out = ["--out", str(tmp_path / "out")]
    assert main(["evaluate", *(a.replace("{a}", place) for a in arguments), *out]) == 2
    error = capsys.readouterr().err.split("\r")[-1]  # after what a progress bar wrote
    assert message in error and error.count("\n") == 1 and error.startswith("error: ")


def test_scores_are_all_that_memory_holds(folder, tmp_path, monkeypatch):
    paths, sizes, open_image = [], [], scoring.open_image

    def score(self, inputs, prompts):
        sizes.append((len(inputs), len(paths)))
        return inputs

    monkeypatch.setattr(scoring, "BATCH", 4)
    monkeypatch.setattr(scoring, "open_image", lambda path: paths.append(path) or open_image(path))
    monkeypatch.setattr(scorers.Redness, "score", score)
    evaluate.score({"a": read_samples(folder("a", A))}, ["redness"], tmp_path)
    assert sizes == [(4, 4), (4, 8), (1, 9)]


class Elsewhere(scorers.Redness):
    """Redness, as if on a GPU, with the process that prepared it."""

    device, processes = "cuda", set()

    def prepare(self, images):
        return torch.stack([super().prepare(images), torch.full((len(images),), float(os.getpid()))])

    def score(self, inputs, prompts):
        self.processes.add(int(inputs[1, 0]))
        return inputs[0]


def test_other_processes_prepare_images_for_a_gpu(folder, tmp_path, monkeypatch):
    samples = {"a": read_samples(folder("a", A))}
    here = evaluate.score(samples, ["redness"], tmp_path)
    (tmp_path / "scores-redness.sqlite").unlink()
    monkeypatch.setattr(scoring, "BATCH", 2)
    monkeypatch.setattr(scoring, "WORKERS", 2)
    monkeypatch.setattr(evaluate, "load", lambda *_: Elsewhere())
    there = evaluate.score(samples, ["redness"], tmp_path)
    assert torch.equal(here["redness"]["a"], there["redness"]["a"])
    assert len(Elsewhere.processes) == 2 and os.getpid() not in Elsewhere.processes


def test_tables_are_laid_out_like_the_papers_with_its_figures_beside_ours():
    rate = {"win_rate": 0.75, "low": 0.7, "high": 0.8, "ties": 0.02, "mean": 5.0, "half_width": 0.1}
    row = partial(dict, rate, prompts=500)
    rows = [
        row(scorer=scorer, style=style, model=model)
        for scorer in ("redness", "clip", "aesthetic")
        for style in ("", "anime")
        for model in ("kto", "sd15", "mine")
    ]
    wins, means, anime = tables.markdown(rows).split("\n\n|")[1:]
    assert wins.startswith("  | aesthetic | clip | redness |")
    ours = "75.0 [70.0, 80.0], 2% ties"
    assert f"| vs sd15 | {ours}; paper 86.0 | {ours}; paper 62.0 | {ours} |" in wins
    assert f"| vs mine | {ours} | {ours} | {ours} |" in wins
    assert "| kto | 5 ± 0.1 | 5 ± 0.1 | 5 ± 0.1 |" in means
    assert f"| vs sd15 | {ours} | {ours} | {ours} |" in anime  # the paper's are of other prompts


def test_the_papers_figures_are_those_of_its_tables():
    assert tables.PAPER["dpo"] == (74.2, 61.8, 78.4, 53.2, 51.6)
    assert len(tables.PAPER) == 6 and {len(v) for v in tables.PAPER.values()} == {len(tables.ORDER)}
