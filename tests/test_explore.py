"""The explorable Figure 6: its frames are runs of the laboratory, and it needs nothing but a browser."""

import base64
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from toy import explore, plots
from toy import pretrained as kept
from toy.__main__ import main
from toy.data import feedback, figure6
from toy.metrics import compare, judge
from toy.objectives import Run
from toy.train import align, draw
from toy.utilities import UTILITIES

COMMITTED = Path(__file__).parent.parent / "figures" / "explore.html"
GRID = {"flipped": (0.0, 0.4), "beta": (4.0,), "gamma": (0.8, 0.5), "step": (0, 2, 12)}
SAMPLES, POINTS = 300, 50


def read(page):
    """What a page holds, with its points as (frames, points, 2) whole numbers."""
    text = page.read_text("utf-8")
    content = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text)[1])
    numbers = np.frombuffer(base64.b64decode(content["points"]), np.uint8).astype(float)
    return content | {"points": numbers.reshape(len(content["metrics"]), -1, 2)}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A page with few settings and the user's own utility: (path, its cache, what was printed)."""
    folder = tmp_path_factory.mktemp("explore")
    (folder / "mine.py").write_text("import torch\n\n\ndef linear(x):\n    return torch.sin(x)\n")
    pretrain, printed = kept.pretrain, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explore, "GRID", GRID)
        patch.setattr(explore, "SAMPLES", SAMPLES)
        patch.setattr(explore, "POINTS", POINTS)
        patch.setattr(explore, "ENSEMBLE", 5)  # so that the runs do not fill their last ensemble
        patch.setattr(kept, "pretrain", lambda points, **options: pretrain(points, steps=100, **options))
        patch.setattr("builtins.print", lambda *words: printed.append(" ".join(map(str, words))))
        [page] = explore.explore(str(folder), str(folder / "cache"), f"{folder / 'mine.py'}:linear")
        model = kept.pretrained(figure6(), 0, folder / "cache")
    return page, model, printed


def test_every_frame_is_what_a_run_alone_draws_and_its_numbers_are_of_all_samples(built):
    world, (page, model, _) = figure6(), built
    content = read(page)
    left, right, bottom, top = plots.extent(world)
    low, size = np.array([left, bottom]), np.array([right - left, top - bottom])
    start = draw(model, SAMPLES)[0]
    expected, before = [(start, 0.0)], judge(start, world)
    named = [*UTILITIES.values(), torch.sin]
    for flipped, utility, gamma in itertools.product(GRID["flipped"], named, GRID["gamma"]):
        run, labelled = Run(utility=utility, beta=4.0, gamma=gamma), feedback(world, flipped=flipped)
        for state in align(model, labelled, [run], steps=12):
            if state.step in GRID["step"]:
                samples = draw(state.policy, SAMPLES)[0]
                expected.append((samples, compare(judge(samples, world), before)["balance"]))
    assert len(expected) == len(content["metrics"]) == 1 + 2 * 7 * 1 * 2 * 2
    for (samples, balance), points, metrics in zip(
        expected, content["points"], content["metrics"], strict=True
    ):
        shares = ((samples[:POINTS].numpy() - low) / size + 0.05) / 1.1
        assert np.abs(points - 255 * shares.clip(0, 1)).max() < 0.6  # rounding: 0.5
        inside = ((samples.numpy() > low) & (samples.numpy() < low + size)).all(1)
        assert metrics[0] == pytest.approx(world.is_desirable(samples).float().mean().item(), abs=0.005)
        assert metrics[1] == pytest.approx(world.is_undesirable(samples).float().mean().item(), abs=0.005)
        assert metrics[2] == pytest.approx(balance, abs=0.01)
        assert metrics[3] == pytest.approx(1 - inside.mean(), abs=0.005)


def test_your_own_utility_comes_first_with_its_slope_and_its_warnings(built):
    page, _, printed = built
    content = read(page)
    assert list(content["utilities"]) == [*UTILITIES, "yours"]
    assert content["chosen"] == ["yours", "kahneman_tversky"]
    assert content["utilities"]["yours"]["weights"][0] == pytest.approx(
        torch.linspace(-6, 6, 121).cos().tolist(), abs=1e-4
    )
    assert any(line.startswith("warning: ") and "negative slope" in line for line in printed)


def test_each_utility_has_the_colour_of_the_other_pictures_and_a_slope_for_each_sign(built):
    utilities = read(built[0])["utilities"]
    for name in UTILITIES:
        label, colour, *_ = plots.style(name)
        assert (utilities[name]["label"], utilities[name]["colour"]) == (label, colour)
    liked, disliked = utilities["risk_seeking_bounded"]["weights"]
    assert liked[::-1] == pytest.approx(disliked) and liked[120] > 0.99 > 0.01 > liked[0]
    [weights] = utilities["kahneman_tversky"]["weights"]
    assert max(weights) == weights[60] == 0.25


def test_points_out_of_sight_stay_in_the_margin():
    points = torch.tensor([[0.0, 2.0], [-9.0, torch.inf], [torch.nan, 1.0]])
    assert explore.quantise(points, (0.0, 1.0, 1.0, 2.0)).tolist() == [[12, 243], [0, 255], [0, 12]]


def test_the_areas_are_those_of_the_world():
    world = figure6()
    liked, disliked = explore.areas(world)
    (x, y), radius = liked["centre"], liked["radii"][0]
    around = torch.tensor([[0.98, 0.0], [1.02, 0.0], [0.0, 0.98], [0.0, 1.02]])
    assert world.is_desirable(torch.tensor([x, y]) + radius * around).tolist() == [True, False, True, False]
    line = (y + disliked["centre"][1]) / 2
    assert world.is_undesirable(torch.tensor([[x, line - 0.01], [x, line + 0.01]])).tolist() == [True, False]
    assert liked["colour"] == plots.LIKED[0] and disliked["dashed"] and not liked["dashed"]


@pytest.mark.parametrize("page", ["built", COMMITTED], ids=["built", "committed"])
def test_a_page_asks_for_nothing_outside_of_itself(page, request):
    text = (request.getfixturevalue(page)[0] if page == "built" else page).read_text("utf-8")
    assert not re.search(
        r"https?:|src=|href=|url\(|@import|import |fetch\(|XMLHttp|WebSocket|sendBeacon", text
    )
    assert "{DATA}" not in text and text.count("<script") == text.count("</script>") == 2


def test_the_committed_page_is_small_and_has_the_numbers_of_figure6():
    assert COMMITTED.stat().st_size <= 3e6
    content, grid = read(COMMITTED), {key: tuple(values) for key, values in explore.GRID.items()}
    assert {key: tuple(values) for key, values in content["grid"].items()} == grid
    assert content["points"].shape[1] == explore.POINTS and content["samples"] == explore.SAMPLES
    runs = len(UTILITIES) * len(grid["flipped"]) * len(grid["beta"]) * len(grid["gamma"])
    assert len(content["metrics"]) == 1 + runs * (len(grid["step"]) - 1)
    rows = json.loads((COMMITTED.parent / "figure6.json").read_text())["rows"]
    for place, name in enumerate(UTILITIES):
        frame = place * len(grid["beta"]) + grid["beta"].index(4.0)
        frame = frame * len(grid["gamma"]) + grid["gamma"].index(0.8)
        liked, disliked, balance, _ = content["metrics"][(frame + 1) * (len(grid["step"]) - 1)]
        for row in rows:
            if row["utility"] == name and row["seed"] == 0:
                assert liked == pytest.approx(row["desirable_rate"], abs=0.03)
                assert disliked == pytest.approx(row["undesirable_rate"], abs=0.03)
                assert balance == pytest.approx(row["balance"], abs=0.03)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--utility", "nope"], "unknown utility 'nope'"),
        (["--utility", "missing.py:f"], "no file missing.py"),
        (["--out", "/proc/nowhere"], "cannot write to /proc/nowhere"),
        (["--cache", "/proc/nowhere"], "choose another --cache"),
    ],
)
def test_bad_input_is_one_line_before_any_training(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(explore, "align", None)
    assert main(["explore", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and said.count("\n") == 1
