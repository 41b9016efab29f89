"""sd.tiny.votes, sd.judging.paths, study, trial: votes that overlap, and what is learned from them."""

import csv
import json
from functools import partial

import pytest
import torch

from sd.__main__ import main
from sd.judging import paths, study, trial
from sd.tiny import runs, shapes, votes
from toy.objectives import OBJECTIVES

GOOD = OBJECTIVES["csft"].captions[True]


@pytest.fixture(autouse=True)
def prompts(monkeypatch):
    """A few prompts, steps and objectives, images from one denoising step, and 60 votes: the
    list of all prompts that were drawn to judge by."""
    asked, few = [], ("kahneman_tversky", "csft", "smpo")
    small = {name: settings | {"batch": 2} for name, settings in runs.OBJECTIVES.items()}
    monkeypatch.setattr(paths, "OBJECTIVES", small)
    monkeypatch.setattr(study, "OBJECTIVES", {name: small[name] for name in few})
    for module in (study, paths):
        monkeypatch.setattr(module, "STEPS", (2,))
    monkeypatch.setattr(votes, "PAIRS", 60)
    monkeypatch.setattr(paths.walk, "__defaults__", (2,))
    monkeypatch.setattr(trial, "STEPS", 2)
    monkeypatch.setattr(study, "FACTORS", (1,))
    for name in ("TUNING", "JUDGING"):
        monkeypatch.setattr(paths, name, getattr(paths, name)[:2])
    draw = partial(paths.draw, steps=1)

    def ask(pipeline, texts, **options):
        asked.extend(texts)
        return draw(pipeline, texts, **options)

    monkeypatch.setattr(paths, "draw", ask)
    monkeypatch.setattr(votes, "draw", draw)
    paths._judge.cache_clear()
    return asked


def test_judges_agree_with_their_taste_as_often_as_bradley_and_terry_say(monkeypatch):
    monkeypatch.setattr(votes, "LEFT", 1.0)
    gap = torch.linspace(-3, 3, 4000)
    tastes = iter((torch.stack([gap, torch.zeros(4000)], -1), torch.zeros(4000, 2)))
    monkeypatch.setattr(votes, "taste", lambda images: next(tastes))
    wins = votes.vote(gap, gap).float()
    for part in range(0, 4000, 1000):
        expected = gap[part : part + 1000].sigmoid().mean().item()
        assert wins[part : part + 1000].mean().item() == pytest.approx(expected, abs=0.05)


def test_left_and_flaw_are_read_from_the_pixels():
    image = torch.zeros(3, shapes.PIXELS, shapes.PIXELS)
    image[0, 10:20, 4:16] = 0.9  # columns 4 to 15: their middle, 9.5, lies 6 pixels left of 15.5
    assert shapes.left(image[None]).item() == pytest.approx(6.0)
    assert shapes.left(image.flip(-1)[None]).item() == pytest.approx(-6.0)
    images, _ = shapes.training_set(40, seed=2)
    worse = (images + 0.2 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    assert shapes.flaw(images).max() < 0.1 < shapes.flaw(worse).min()


def test_votes_are_prepared_from_columns_of_pick_a_pic(tmp_path):
    from sd import models

    votes.write_votes(models.load(runs.PIPELINE), tmp_path, runs.GUIDANCE)
    with open(tmp_path / "pairs.csv", newline="") as file:
        pairs = list(csv.DictReader(file))
    assert len(pairs) == 60 and all((tmp_path / row["winner"]).exists() for row in pairs)
    assert {row["caption"] for row in pairs} == {scene.caption for scene in shapes.OPEN_SIZE}
    with open(tmp_path / "feedback.csv", newline="") as file:
        assert [row["split"] for row in csv.DictReader(file)].count("exclusive_win") == 60


def test_the_study_chooses_on_one_seed_judges_on_others_and_walks_no_path_twice(
    tmp_path, monkeypatch, capsys, prompts
):
    arguments = ["--seeds", "2", "--out", str(tmp_path / "o"), "--runs", str(tmp_path / "r")]
    assert main(["study", *arguments]) == 0
    results = json.loads((tmp_path / "o/study.json").read_text())
    names = {"kahneman_tversky", "csft", "smpo"}
    assert {(r["name"], r["seed"], r["step"]) for r in results["rows"]} == {
        (name, seed, step) for name in names for seed in (0, 1) for step in (0, 2)
    }
    assert {row["seed"] for row in results["tuned"]} == {paths.TUNING_SEED}
    for row in results["rows"]:
        if row["step"] == 0:
            assert (row["moved"], row["wins"]) == (0, pytest.approx(0.5 * row["following"]))
    assert {row["gamma"] for row in results["tuned"] if row["name"] == "kahneman_tversky"} <= {0.5, 0.8}
    assert sum(prompt.startswith(GOOD) for prompt in prompts) == 3 * 2  # CSFT's images after step 2
    assert "breaks at" in capsys.readouterr().out
    assert (tmp_path / "o/study.png").stat().st_size > 10_000
    monkeypatch.setattr(paths, "train", lambda config: pytest.fail("trained again"))
    assert main(["study", *arguments]) == 0
    assert json.loads((tmp_path / "o/study.json").read_text()) == results


def test_a_utility_is_tried_on_images_and_again_when_its_file_changes(tmp_path, capsys):
    file = tmp_path / "mine.py"
    arguments = ["--seeds", "2", "--out", str(tmp_path / "o"), "--runs", str(tmp_path / "r")]
    for slope in (1, 2):
        file.write_text(f"import torch\n\ndef bend(x):\n    return torch.tanh({slope} * x)\n")
        assert main(["try", f"{file}:bend", *arguments]) == 0
        assert "yours wins" in capsys.readouterr().out
    assert len(list((tmp_path / "r").glob("mine.py-bend-*-0"))) == 2
    results = json.loads((tmp_path / "o/try-images.json").read_text())
    assert {row["name"] for row in results["rows"]} == {"yours", "kahneman_tversky", "sft"}


def test_the_verdict_is_paired_over_seeds():
    values = {"yours": (0.60, 0.72, 0.66), "kahneman_tversky": (0.50, 0.61, 0.56), "sft": (0.7, 0.6, 0.66)}
    rows = [
        {"name": name, "seed": seed, "step": trial.STEPS, "wins": wins, "following": 1.0}
        for name, many in values.items()
        for seed, wins in enumerate(many)
    ]
    text = trial.verdict(rows)
    assert (
        "more often than Kahneman-Tversky (+0.103" in text and "neither more nor less often than SFT" in text
    )
