"""Studies: what Figure 6 claims, over seeds with a margin."""

import math

import pytest

from toy import study as s
from toy.data import figure6
from toy.objectives import Run
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
    return rows, {entry["name"]: entry for entry in s.summarise(rows)}, before, samples


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


def test_a_summary_means_over_seeds():
    entries = [
        {"name": "sft", "beta": 4.0, "gamma": 0.8, "flipped": 0.0, "seed": i, "balance": b}
        | dict.fromkeys(s.MEANS, b)
        for i, b in enumerate((0.5, 0.7))
    ]
    (entry,) = s.summarise(entries)
    assert entry["balance"] == pytest.approx(0.6) and entry["seeds"] == 2
    assert entry["half_width"] == pytest.approx(12.7062 * 0.1, rel=1e-3)
    assert math.isnan(s.summarise(entries[:1])[0]["half_width"])


def test_a_perfect_copy_of_overlapping_classes_is_beaten_by_giving_way(figure):
    _, summary, before, _ = figure
    copy = s.copy_balance(figure6(), before)
    assert 0.55 < copy < 0.75 < summary["kahneman_tversky"]["balance"]
