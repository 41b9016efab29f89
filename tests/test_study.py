"""Studies: what Figure 6 claims, over seeds with a margin; the cache; and what is said of a utility."""

import math

import pytest
import safetensors.torch
import torch

from toy import study as s
from toy.data import figure6
from toy.runs import Run
from toy.utilities import UTILITIES

SEEDS = 4
NAMES = ("kahneman_tversky", "loss_averse", "risk_seeking_bounded")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def figure(cache):
    """Figure 6 at beta 4 over four seeds: (rows, summary by name)."""
    runs = [
        ("sft", Run("sft")),
        ("diffusion_dpo", Run("diffusion_dpo")),
        ("risk_seeking", Run(utility=UTILITIES["risk_seeking"])),
        *((name, Run(utility=UTILITIES[name])) for name in NAMES),
    ]
    rows, before, samples = s.study(figure6(), runs, SEEDS, str(cache))
    return rows, {entry["name"]: entry for entry in s.summarize(rows)}, before, samples


def test_kahneman_tversky_is_ahead_with_intervals_apart(figure):
    _, summary, *_ = figure
    best = summary["kahneman_tversky"]
    assert best["balance"] > 0.8
    for name in ("sft", "diffusion_dpo", "loss_averse", "risk_seeking_bounded"):
        other = summary[name]
        assert best["balance"] - best["half_width"] > other["balance"] + other["half_width"], name


def test_each_objective_shows_its_character(figure):
    _, summary, before, _ = figure
    sft, averse, bounded = summary["sft"], summary["loss_averse"], summary["risk_seeking_bounded"]
    best = summary["kahneman_tversky"]
    disliked = sum(row["undesirable_rate"] for row in before) / SEEDS
    assert disliked == pytest.approx(0.3, abs=0.05)
    assert sft["undesirable_rate"] > 5 * best["undesirable_rate"]  # tolerates what is disliked
    assert averse["distance"] > best["distance"]  # leaves the liked distribution
    assert bounded["desirable_rate"] > 0.97 and bounded["distance"] > best["distance"]  # too narrow
    assert summary["diffusion_dpo"]["desirable_rate"] < 0.05  # leaves the data
    assert summary["risk_seeking"]["desirable_rate"] < 0.05  # diverges


def test_there_is_a_row_for_every_run_and_seed_and_samples_of_the_first(figure):
    rows, _, before, samples = figure
    assert len(rows) == 6 * SEEDS and len(before) == SEEDS
    assert {row["seed"] for row in rows if row["name"] == "sft"} == set(range(SEEDS))
    assert all(row["seconds"] > 0 for row in rows)
    assert [row["utility"] for row in rows[:4]] == [None, None, "risk_seeking", "kahneman_tversky"]
    assert next(iter(samples)) == "pretrained" and samples["sft"].shape == (3500, 2)


def test_the_same_study_gives_the_same_numbers(cache, figure):
    rows = s.study(figure6(), [("sft", Run("sft"))], 1, str(cache))[0]
    first = next(row for row in figure[0] if row["name"] == "sft" and row["seed"] == 0)
    assert rows[0]["balance"] == pytest.approx(first["balance"], abs=0.02)
    again = s.study(figure6(), [("sft", Run("sft"))], 1, str(cache))[0]
    assert again[0]["balance"] == rows[0]["balance"]


def test_the_cached_model_is_the_trained_one(cache, figure, monkeypatch):
    def forbidden(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(s, "pretrain", forbidden)
    assert s.pretrained(figure6(), 0, cache).runs == 1


@pytest.mark.parametrize("damage", ["truncated", "other configuration", "other shape"])
def test_a_cache_that_does_not_fit_is_rebuilt_and_said(tmp_path, monkeypatch, capsys, damage):
    quick = s.pretrain
    monkeypatch.setattr(s, "pretrain", lambda points, seed: quick(points, seed=seed, steps=2))
    expected = s.pretrained(figure6(), 0, tmp_path).state_dict()
    path = tmp_path / "figure6-0.safetensors"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "other configuration":
        safetensors.torch.save_file(expected, path, metadata={"world": "moons"})
    else:
        with s.safe_open(path, "pt") as file:
            metadata = file.metadata()
        safetensors.torch.save_file({"weight1": torch.ones(2)}, path, metadata=metadata)
    rebuilt = s.pretrained(figure6(), 0, tmp_path).state_dict()
    assert all(torch.equal(rebuilt[k], expected[k]) for k in expected)
    said = capsys.readouterr().out
    assert str(path) in said and "training it anew" in said and said.count("\n") == 1
    s.pretrained(figure6(), 0, tmp_path)
    assert capsys.readouterr().out == ""


def rows(yours, theirs):
    """Rows of two runs with the given balances, alignments and avoidances by seed."""
    keys = ("balance", "alignment", "avoidance")
    return [
        {"name": name, "seed": seed, "stopped": None, **dict(zip(keys, values, strict=True))}
        for name, all_values in (("yours", yours), ("kahneman_tversky", theirs))
        for seed, values in enumerate(all_values)
    ]


def test_the_verdict_compares_seed_by_seed():
    theirs = [(0.9, 0.8, 1.0), (0.7, 0.6, 0.9), (0.8, 0.7, 0.95)]
    better = [(b + 0.05 + 0.001 * i, a + 0.1, v) for i, (b, a, v) in enumerate(theirs)]
    worse = [(b - 0.05 - 0.001 * i, a, v - 0.2) for i, (b, a, v) in enumerate(theirs)]
    unclear = [(b + 0.05 * (-1) ** i, a, v) for i, (b, a, v) in enumerate(theirs)]
    assert "Yours does better than" in s.verdict(rows(better, theirs))
    assert "closer to the liked ones (alignment +0.10 ± 0.00)" in s.verdict(rows(better, theirs))
    assert "Yours does worse than" in s.verdict(rows(worse, theirs))
    assert "more often among the disliked ones (avoidance -0.20" in s.verdict(rows(worse, theirs))
    assert "cannot be told apart from" in s.verdict(rows(unclear, theirs))
    assert "on one seed" in s.verdict(rows(better[:1], theirs[:1]))


def test_a_summary_means_over_seeds():
    entries = [
        {"name": "sft", "beta": 4.0, "gamma": 0.8, "flipped": 0.0, "seed": i, "balance": b}
        | dict.fromkeys(s.MEANS, b)
        for i, b in enumerate((0.5, 0.7))
    ]
    (entry,) = s.summarize(entries)
    assert entry["balance"] == pytest.approx(0.6) and entry["seeds"] == 2
    assert entry["half_width"] == pytest.approx(12.7062 * 0.1, rel=1e-3)
    assert math.isnan(s.summarize(entries[:1])[0]["half_width"])


def test_a_perfect_copy_of_overlapping_classes_is_beaten_by_giving_way(figure):
    _, summary, before, _ = figure
    copy = s.copy_balance(figure6(), before)
    assert 0.55 < copy < 0.75 < summary["kahneman_tversky"]["balance"]


def test_samples_far_away_have_left_the_data():
    theirs = [(0.9, 0.8, 1.0), (0.8, 0.7, 0.95)]
    assert "they have left the data" in s.verdict(rows([(0.0, -50.0, 1.0), (0.0, -40.0, 1.0)], theirs))


def test_a_loss_that_broke_is_part_of_the_verdict():
    theirs = [(0.9, 0.8, 1.0), (0.8, 0.7, 0.95)]
    ours = rows(theirs, theirs)
    assert "broke" not in s.verdict(ours)
    ours[0]["stopped"] = "loss not finite at step 9"
    assert s.verdict(ours).endswith("its loss broke on 1 of 2 seeds.")


def test_the_cache_knows_how_its_model_was_made(cache, figure):
    with s.safe_open(cache / "figure6-0.safetensors", "pt") as file:
        assert {"steps", "batch", "lr", "seed", "points", "width"} == set(file.metadata())
