"""sd.tiny.figure7: one user's taste, taught by each objective and measured in pictures."""

import json
import math
from functools import partial

import pytest
import torch

from sd.__main__ import main
from sd.tiny import figure7, runs, shapes
from sd.tiny.runs import PIPELINE


def test_measures_tell_what_was_preferred_from_what_was_not():
    images, captions = shapes.training_set(60, seed=3)
    plain, red = (figure7.measure(i, captions, "red") for i in (images, shapes.redden(images)))
    assert red["met"] > plain["met"] + 0.08 and plain["following"] == 1
    large = torch.tensor([scene.size == "large" for scene in shapes.judge(images)])
    assert (
        figure7.measure(images[large], [c for c, x in zip(captions, large, strict=True) if x], "large")["met"]
        == 1
    )


def test_the_study_measures_every_objective_and_is_not_done_twice(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(figure7, "METHODS", ("kahneman_tversky", "sft"))
    monkeypatch.setitem(runs.STEPS, "large", 5)
    monkeypatch.setattr(shapes, "prompts", lambda preference: [s.caption for s in shapes.OPEN_SIZE[:12]])
    monkeypatch.setattr(figure7, "draw", partial(figure7.draw, steps=2))
    for name in figure7.METHODS:
        monkeypatch.setitem(runs.OBJECTIVES, name, runs.OBJECTIVES[name] | {"batch": 2})
    arguments = [
        "--preference",
        "large",
        "--seeds",
        "1",
        "--out",
        str(tmp_path / "o"),
        "--runs",
        str(tmp_path / "r"),
    ]
    assert main(["figure7", *arguments]) == 0
    results = json.loads((tmp_path / "o/figure7-large.json").read_text())
    assert {(r["family"], r["name"], r["seed"], r["step"]) for r in results["rows"]} == {
        (family, name, 0, step) for family in runs.PIPELINES for name in figure7.METHODS for step in range(6)
    }
    assert results["settings"]["sd3"]["beta"] == 3 and results["settings"]["unet"]["beta"] == 30
    assert (tmp_path / "o/figure7-large.png").stat().st_size > 10_000
    assert "share of large shapes" in capsys.readouterr().out
    monkeypatch.setattr(figure7, "train", lambda config: pytest.fail("trained again"))
    assert main(["figure7", *arguments]) == 0


def test_summaries_are_means_with_their_interval():
    rows = [
        {"family": "unet", "name": "sft", "seed": s, "step": 5, "met": v, "following": 1.0, "spread": None}
        for s, v in enumerate((0.1, 0.2, 0.3))
    ]
    [entry] = figure7.summarise(rows)
    assert entry["met"] == pytest.approx(0.2) and entry["met_half_width"] == pytest.approx(
        4.303 * 0.1 / 3**0.5, rel=1e-3
    )
    assert entry["following_half_width"] == 0 and math.isnan(figure7.summarise(rows[:1])[0]["met_half_width"])


def test_a_model_that_is_not_there_is_named(tmp_path, capsys):
    assert (
        main(["figure7", "--model", str(tmp_path), "--runs", str(tmp_path / "r"), "--out", str(tmp_path)])
        == 2
    )
    assert "is no folder of a diffusers pipeline" in capsys.readouterr().err
    assert main(["figure7", "--seeds", "0"]) == 2 and "out of range" in capsys.readouterr().err
    assert PIPELINE.is_dir()
