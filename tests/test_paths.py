"""Paths: how good a policy becomes on its way, and how far it can be pushed before it breaks."""

import math

import pytest

from docs import predict
from toy.breaks import best, breaks, farther
from toy.errors import InputError
from toy.objectives import Run
from toy.paths import paths
from toy.plots import paths as picture
from toy.plots import plt
from toy.utilities import UTILITIES


def path(points, name="a", seed=0, score="balance"):
    """Rows of a path from (moved, score) of each of its points."""
    return [
        {"name": name, "seed": seed, "step": step, "moved": moved, score: value}
        for step, (moved, value) in enumerate(points)
    ]


def one(points):
    [entry] = breaks(path(points), "balance")
    return entry


def test_a_path_breaks_where_half_of_what_it_gained_is_lost():
    entry = one([(0, 0.2), (1, 0.6), (2, 1.0), (4, 0.8), (6, 0.4), (9, 0.0)])
    assert (entry["best"], entry["at"], entry["last"], entry["broke"]) == (1.0, 2, 0.0, True)
    assert entry["breaks_at"] == pytest.approx(5)  # 0.6 is halfway from 0.8 at 4 to 0.4 at 6


def test_a_path_that_comes_back_has_not_broken():
    entry = one([(0, 0.0), (1, 1.0), (2, 0.1), (3, 0.9)])
    assert not entry["broke"] and entry["breaks_at"] == 3


def test_a_path_that_keeps_what_it_gained_counts_as_far_as_it_went():
    entry = one([(0, 0.0), (1, 0.5), (5, 0.9), (4, 0.8)])
    assert not entry["broke"] and entry["breaks_at"] == 5


def test_a_path_that_never_gains_is_broken_at_its_first_point():
    for later in (0.3, 0.1):
        entry = one([(0, 0.3), (0.5, later), (2, 0.0)])
        assert (entry["best"], entry["at"], entry["breaks_at"], entry["broke"]) == (0.3, 0, 0.5, True)


def test_any_score_will_do_and_rows_may_come_in_any_order():
    rows = path([(0, 0.0), (1, 1.0), (3, 0.0)], score="redness")
    assert breaks(rows[::-1], "redness") == breaks(rows, "redness")
    assert breaks(rows, "redness")[0]["breaks_at"] == 2


def test_distances_are_averaged_as_factors_and_scores_as_they_are():
    rows = path([(0, 0), (1, 0.6), (3, 0)]) + path([(0, 0), (4, 0.8), (12, 0)], seed=1)
    [entry] = best(rows, "balance")
    assert entry["best"] == pytest.approx(0.7) and entry["half_width"] == pytest.approx(
        12.7062 * 0.1, rel=1e-3
    )
    assert entry["breaks_at"] == pytest.approx(4)  # of 2 and 8
    assert entry["low"] * entry["high"] == pytest.approx(16) and entry["low"] < 2
    assert (entry["at"], entry["last"], entry["broke"], entry["seeds"]) == (2.5, 0, 2, 2)


def test_a_sentence_compares_two_seed_by_seed():
    rows = [row for s in (0, 1) for row in path([(0, 0), (1, 1), (3 + s, 0)], "diffusion_dpo", s)]
    rows += [row for s in (0, 1) for row in path([(0, 0), (3, 1), (9 + 3 * s, 0)], "sft", s)]
    rows += [row for s in (0, 1) for row in path([(0, 0), (3, 1), (8 + 2 * s, 1)], "csft", s)]
    text = farther(rows, "balance", "sft", "diffusion_dpo")
    assert (
        text == "SFT can be pushed 3 times as far as Diffusion-DPO before it breaks (3 to 3, 95%, 2 seeds)."
    )
    assert farther(rows, "balance", "csft", "sft").startswith(
        "CSFT can be pushed at least 1.3 times as far as SFT"
    )
    assert farther(rows, "balance", "sft", "csft").startswith("CSFT did not break on every seed")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    from toy.data import figure6

    runs = [(name, Run(utility=UTILITIES[name])) for name in ("kahneman_tversky", "risk_seeking")]
    runs += [("csft", Run("csft"))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("toy.paths.SAMPLES", 300)
        return paths(figure6(), runs, range(2), str(tmp_path_factory.mktemp("cache")), steps=100, flipped=0.1)


def by_name(rows, name, seed=0):
    return [row for row in rows if (row["name"], row["seed"]) == (name, seed)]


def test_a_path_starts_at_the_reference_and_goes_to_the_last_step(rows):
    for name in ("kahneman_tversky", "csft"):
        mine = by_name(rows, name, seed=1)
        steps = [row["step"] for row in mine]
        assert steps == sorted(set(steps)) and (steps[0], steps[-1]) == (0, 100) and 9 <= len(steps) <= 11
        for key in ("moved", "balance", "alignment", "avoidance", "reward_desirable", "reward_undesirable"):
            assert mine[0][key] == pytest.approx(0, abs=1e-6), key
        assert mine[0]["flipped"] == 0.1 and mine[0]["objective"] in ("diffusion_kto", name)


def test_all_are_alike_when_pushed_gently_and_some_break_when_pushed(rows):
    gentle, last = by_name(rows, "kahneman_tversky")[1], by_name(rows, "kahneman_tversky")[-1]
    risky = by_name(rows, "risk_seeking")
    assert 0 < gentle["moved"] < 0.1
    assert risky[1]["balance"] == pytest.approx(gentle["balance"], abs=0.03)
    assert last["balance"] > 0.6 > 0.1 > risky[-1]["balance"]
    found = {(e["name"], e["seed"]): e for e in breaks(rows, "balance")}
    for seed in (0, 1):
        assert found["risk_seeking", seed]["broke"] and not found["kahneman_tversky", seed]["broke"]


def test_rewards_are_shares_of_the_references_error(rows):
    last = by_name(rows, "kahneman_tversky")[-1]
    assert 0 < last["reward_desirable"] < 1 and last["reward_undesirable"] < 0
    assert last["spread"] > 0 and math.isnan(by_name(rows, "csft")[-1]["spread"])


def test_the_picture_has_a_line_for_each_name(rows):
    fig = picture({"here": rows, "there": by_name(rows, "csft")}, "balance", 2)
    assert [len(ax.lines) for ax in fig.axes] == [3, 1]
    plt.close(fig)


def test_a_rank_correlation_is_over_the_names_that_both_have():
    first = {f"u{i}": float(i) for i in range(16)}
    found = predict.rank_correlation(first, {name: value**3 for name, value in first.items()} | {"new": 0.0})
    assert (found["rho"], found["names"]) == (pytest.approx(1), 16) and found["low"] == pytest.approx(1)
    found = predict.rank_correlation(first, {name: (5 * value) % 16 for name, value in first.items()})
    assert found["low"] < found["rho"] < found["high"] and found["low"] < 0 < found["high"]


def test_a_rank_correlation_of_few_names_or_of_equal_values_is_refused():
    for other in ({"u0": 1.0, "u1": 2.0}, {f"u{i}": 1.0 for i in range(9)}):
        with pytest.raises(InputError, match="needs 5 names or more and values that differ"):
            predict.rank_correlation({f"u{i}": float(i) for i in range(9)}, other)
