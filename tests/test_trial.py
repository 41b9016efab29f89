"""python -m toy try --report: what is measured, judged and written."""

import json
import re
from itertools import product

import pytest

from toy import data, experiments, page, trial
from toy.__main__ import main
from toy.objectives import Run
from toy.utilities import UTILITIES


def rows(balances, **danger):
    """Rows of three seeds: {setting: (yours, Kahneman-Tversky's)}, with the same danger shown by yours."""
    fine = {"alignment": 0.8, "stopped": None, "error_liked": 0.9, "error_disliked": 2.0}
    return [
        {"setting": setting, "name": name, "seed": seed, "balance": value + 0.01 * seed}
        | fine
        | {"reward_change": 0.1 * (seed - 1)}  # as likely up as down
        | (danger if name == "yours" else {})
        for setting, pair in balances.items()
        for name, value in zip(("yours", trial.OTHER), pair, strict=True)
        for seed in range(3)
    ]


BETAS = {"yours": 2.5, trial.OTHER: 4.0}
HERE = {"here": (0.9, 0.8), "there": (0.5, 0.7), "elsewhere": (0.6, 0.6)}


def test_the_verdict_is_five_sentences_better_where_beta_dangers_and_how_sure():
    better, where, beta, wrong, sure = trial.verdict(rows(HERE), BETAS)
    assert "yours does better than Kahneman-Tversky in here: balance 0.910" in better and "+0.100" in better
    assert where.endswith("it is behind in there; no different in 1, as far as the seeds can tell.")
    assert "Its beta is 2.5, Kahneman-Tversky's 4" in beta
    assert wrong.startswith("Nothing that was watched for went wrong")
    assert "on 3 seeds" in sure and "ask python -m sd try" in sure
    for sentence in trial.verdict(rows(HERE, alignment=-1.0), BETAS):
        assert re.fullmatch(r"[A-Z].*\.", sentence) and len(sentence) < 300


def test_what_is_the_same_is_called_the_same_and_what_is_unclear_unclear():
    assert "gives the same numbers as" in trial.verdict(rows({"here": (0.8, 0.8), "there": (0, 0)}), BETAS)[0]
    unclear = rows({"here": (0.8, 0.8), "there": (0.5, 0.5)})
    unclear[0]["balance"] += 0.1
    assert "cannot be told apart from" in trial.verdict(unclear, BETAS)[0]


@pytest.mark.parametrize(
    ("danger", "name"),
    [
        ({"stopped": "loss not finite"}, "a loss broke"),
        ({"alignment": -0.1}, "samples left the data"),
        ({"reward_change": -0.1}, "the reward of liked examples fell in the second half"),
        ({"error_liked": 1.2}, "errors outgrew the reference's on both classes"),
    ],
)
def test_each_danger_has_its_warning_where_it_showed(danger, name):
    assert trial.dangers(rows(HERE, **danger)) == {name: list(HERE)}
    assert trial.dangers(rows(HERE, **danger), trial.OTHER) == {}


def test_a_run_that_leaves_the_data_warns_and_a_fine_one_does_not(world, pretrained):
    setting = trial.settings(world, "diffusion")[0]
    runs = [("yours", Run(utility=UTILITIES["risk_seeking"])), (trial.OTHER, Run())]
    runs.append(("still", Run(weight_desirable=0.0, weight_undesirable=0.0)))
    measured, samples, met = trial.measure(setting, runs, {0: pretrained, 1: pretrained})
    found = trial.dangers(measured)
    assert found["samples left the data"] == found["errors outgrew the reference's on both classes"]
    assert trial.dangers(measured, trial.OTHER) == {}
    assert [len(samples), len(met), samples[0].shape] == [6, 6, (trial.SAMPLES, 2)]
    still = measured[2]
    assert still["error_liked"] == still["error_disliked"] == pytest.approx(1)
    assert still["reward_change"] == pytest.approx(0, abs=1e-6)
    assert all(0 <= row["saturated"] <= 1 for row in measured)
    assert measured[0]["saturated"] > 0.5 > measured[1]["saturated"]


def test_settings_differ_as_their_names_say(world):
    usual, wrong, rare, half, pushed, graded, *elsewhere = trial.settings(world, "diffusion")
    wrongly = (wrong.feedback(0).desirable != usual.feedback(0).desirable).float().mean().item()
    assert wrongly == pytest.approx(0.2)
    assert (len(rare.feedback(0).x0), rare.feedback(0).desirable.sum()) == (500, 50)
    wrongly = (pushed.feedback(0).desirable != usual.feedback(0).desirable).float().mean().item()
    assert wrongly == pytest.approx(0.3) and pushed.gamma == 0.5
    assert half.gamma == 0.5 and graded.feedback(0).weight.mean() == pytest.approx(2.0, rel=1e-4)
    assert [s.title for s in elsewhere] == [
        "moons with diffusion",
        "grid with diffusion",
        "Figure 6 with flow",
    ]
    assert "graded likes" not in [s.title for s in trial.settings(data.WORLDS["moons"](), "flow")]


@pytest.fixture
def quick(monkeypatch, pretrained):
    """The whole way with a hundredth of the work, on a model that is at hand."""
    align, paths = trial.align, trial.paths
    for module in ("toy.trial", "toy.study"):
        monkeypatch.setattr(f"{module}.pretrained", lambda *arguments: pretrained)
    monkeypatch.setattr(trial, "paths", lambda *arguments: paths(*arguments, steps=20))
    monkeypatch.setattr("toy.paths.SAMPLES", 100)
    monkeypatch.setattr(trial, "align", lambda *arguments: align(*arguments, steps=4, batch=16))
    monkeypatch.setattr(trial, "MIDDLE", range(1, 3))
    monkeypatch.setattr(trial, "END", range(3, 5))
    monkeypatch.setattr(trial, "SAMPLES", 200)
    monkeypatch.setattr(trial, "PLACES", [("figure6", "flow")])


def test_the_page_is_one_file_that_needs_no_network(quick, tmp_path, capsys):
    (tmp_path / "mine.py").write_text("import torch\n\n\ndef bend(x):\n    return torch.sin(x)\n")
    spec = f"{tmp_path}/mine.py:bend"
    assert (
        main(["try", spec, "--report", "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "c")]) == 0
    )
    text = (tmp_path / "out" / "try.html").read_text("utf-8")
    said = capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "try-report.json").read_text())
    assert len(content["verdict"]) == 5 and all(sentence in said for sentence in content["verdict"])
    assert text.count("data:image/png;base64,") == text.count('alt="') == 5
    assert "http" not in text and "<script" not in text and 'name="viewport"' in text
    assert "color-scheme: light dark" in text and "bend has a negative slope" in text
    chosen = {row["seed"] for row in content["choosing"]}
    assert chosen == {0, 1} and not chosen & {row["seed"] for row in content["rows"]}
    assert {row["name"] for row in content["rows"]} == {"yours", "sft", *experiments.PAPER}
    walked = {(row["name"], row["seed"]) for row in content["paths"]}
    assert walked == set(product(("yours", trial.OTHER, "diffusion_dpo"), (2, 3, 4)))
    assert re.search("(can be pushed|did not break)", text)


def test_kahneman_tversky_is_told_from_itself_by_nothing(quick, tmp_path):
    result = trial.study(
        UTILITIES[trial.OTHER], data.figure6(), "diffusion", experiments.BETA, tmp_path, first=3
    )
    assert "gives the same numbers as" in trial.verdict(result["rows"], result["betas"])[0]
    page.write(tmp_path, "<b>", [], result, data.figure6())
    assert "<h1>&lt;b&gt;</h1>" in (tmp_path / "try.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "/proc/nowhere"], "cannot write to /proc/nowhere"),
        (["--cache", "/proc/nowhere"], "choose another --cache"),
        (["--beta", "4"], "leave out --beta"),
    ],
)
def test_what_cannot_be_is_said_in_one_line_before_any_training(
    options, message, capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trial, "study", None)  # calling it would fail
    assert main(["try", "loss_averse", "--report", *options]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and said.count("\n") == 1


def test_beta_is_a_number_or_auto(capsys):
    assert main(["try", "loss_averse", "--beta", "best"]) == 2
    assert "invalid number or auto value: 'best'" in capsys.readouterr().err
