"""docs.transfer: what is compared between the plane and images."""

import json

import pytest

from docs import transfer
from toy.breaks import best


def rows(scores, score):
    """Paths of one step: {name: best score of each of five seeds}."""
    return [
        {"name": name, "seed": seed, "step": step, "moved": float(step), score: value * step}
        for name, values in scores.items()
        for seed, value in enumerate(values)
        for step in (0, 1)
    ]


def test_pairs_that_both_tell_apart_agree_or_not():
    low, middle, high = ([base + 0.001 * k for k in range(5)] for base in (0.2, 0.5, 0.8))
    noisy = [0.1, 0.9, 0.2, 0.8, 0.5]  # not told apart from the middle
    points = rows({"a": low, "b": middle, "c": high, "d": noisy}, "balance")
    images = rows({"a": middle, "b": low, "c": high, "e": noisy}, "wins")
    # a and b are the other way round on images; c is ahead of both in both
    assert transfer.agreement(points, images) == {"plane": 3, "both": 3, "same": 2, "names": 3}


def test_utilities_are_correlated_with_and_without_the_other_objectives():
    names = ["sft", "csft", "diffusion_dpo", "smpo", *transfer.MORE]
    entries = [{"name": n, "best": k, "last": k, "breaks_at": 1.0 + k} for k, n in enumerate(names)]
    turned = [e | {"best": 4 - e["best"]} if e["best"] < 4 else e for e in entries]  # the objectives only
    first, crossed, *_ = transfer.correlate(entries, turned)
    assert (first["plane"], first["images"], crossed["images"]) == ("best", "best", "last")
    assert first["utilities"]["rho"] == pytest.approx(1) and first["utilities"]["names"] == 7
    assert first["all"]["rho"] < 1 and first["all"]["names"] == 11


def test_the_committed_study_is_of_its_rows():
    content = json.loads((transfer.ROOT / "figures" / "transfer.json").read_text())
    summary = {entry["name"]: entry for entry in content["images"]}
    for entry in best(content["rows"], "wins"):
        for key in ("best", "last", "breaks_at", "broke"):
            assert summary[entry["name"]][key] == pytest.approx(entry[key], abs=1e-5)
    assert {row["seed"] for row in content["rows"]} == set(range(transfer.SEEDS))
    assert len({row["name"] for row in content["rows"]}) == 13
