"""The sentence that compares a utility with Kahneman-Tversky."""

from toy.report import verdict


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
    assert "Yours does better than" in verdict(rows(better, theirs))
    assert "closer to the liked ones (alignment +0.10 ± 0.00)" in verdict(rows(better, theirs))
    assert "Yours does worse than" in verdict(rows(worse, theirs))
    assert "more often among the disliked ones (avoidance -0.20" in verdict(rows(worse, theirs))
    assert "cannot be told apart from" in verdict(rows(unclear, theirs))
    assert "on one seed" in verdict(rows(better[:1], theirs[:1]))


def test_samples_far_away_have_left_the_data():
    theirs = [(0.9, 0.8, 1.0), (0.8, 0.7, 0.95)]
    assert "they have left the data" in verdict(rows([(0.0, -50.0, 1.0), (0.0, -40.0, 1.0)], theirs))


def test_a_loss_that_broke_is_part_of_the_verdict():
    theirs = [(0.9, 0.8, 1.0), (0.8, 0.7, 0.95)]
    ours = rows(theirs, theirs)
    assert "broke" not in verdict(ours)
    ours[0]["stopped"] = "loss not finite at step 9"
    assert verdict(ours).endswith("its loss broke on 1 of 2 seeds.")
