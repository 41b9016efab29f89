"""sd.judging.study: every objective on the tiny pipeline, judged over seeds."""

import json
import math

import pytest

from sd.__main__ import main
from sd.judging import sample, study
from sd.tiny import runs
from toy.objectives import OBJECTIVES

CSFT = OBJECTIVES["csft"].captions


def test_the_study_judges_every_objective_and_trains_none_twice(tmp_path, monkeypatch, capsys):
    few = {
        name: v | {"batch": 2} for name, v in runs.OBJECTIVES.items() if name in ("kahneman_tversky", "csft")
    }
    monkeypatch.setattr(study, "OBJECTIVES", few)
    monkeypatch.setattr(runs, "OBJECTIVES", few)
    monkeypatch.setitem(runs.STEPS, "red", 2)
    monkeypatch.setattr(study, "PROMPTS", study.PROMPTS[:3])
    requests, draw = [], sample.draw_batch

    def quick(pipeline, texts, noises, steps, *rest):
        requests.extend(texts)
        return draw(pipeline, texts, noises, 1, *rest)

    monkeypatch.setattr(sample, "draw_batch", quick)
    arguments = ["--seeds", "2", "--out", str(tmp_path / "o"), "--runs", str(tmp_path / "r")]
    assert main(["study", *arguments]) == 0
    results = json.loads((tmp_path / "o/study.json").read_text())
    assert [entry["name"] for entry in results["summary"]] == ["kahneman_tversky", "csft", "pretrained"]
    assert {entry["seeds"] for entry in results["summary"]} == {2}
    assert (tmp_path / "o/study.png").stat().st_size > 10_000
    assert "is redder on" in capsys.readouterr().out
    assert (
        len(requests) == 2 * 3 * 3 * 5 and sum(text.startswith(CSFT[True]) for text in requests) == 2 * 3 * 5
    )
    monkeypatch.setattr(study, "train", lambda config: pytest.fail("trained again"))
    assert main(["study", *arguments]) == 0
    assert json.loads((tmp_path / "o/study.json").read_text()) == results and len(requests) == 90


def test_summaries_are_means_over_seeds():
    rows = []
    for seed in range(3):
        for scorer in ("redness", "following"):
            rows.append({"seed": seed, "scorer": scorer, "model": "kahneman_tversky", "mean": 0.1 * seed})
            rows.append(rows[-1] | {"model": "sft", "win_rate": 0.5 + 0.1 * seed})
    first, sft = study.summarise(rows)
    assert first["met"] == pytest.approx(0.1) and "win_met" not in first
    assert sft["win_met"] == pytest.approx(0.6)
    assert sft["win_met_half_width"] == pytest.approx(4.303 * 0.1 / math.sqrt(3), rel=1e-3)


def test_the_study_has_every_objective_of_the_paper():
    names = {
        "sft",
        "csft",
        "diffusion_dpo",
        "smpo",
        "kahneman_tversky",
        "loss_averse",
        "risk_seeking_bounded",
    }
    assert set(runs.OBJECTIVES) == names and next(iter(runs.OBJECTIVES)) == "kahneman_tversky"
