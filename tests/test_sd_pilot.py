"""sd.pilot: beta auto, found before a run by the rule of toy/beta.py."""

import json
from dataclasses import replace
from itertools import islice

import pytest

from sd import pilot, trainer
from sd.__main__ import main
from sd.config import configure
from toy.beta import SHARE, find_beta, liked_gains
from toy.errors import InputError

FEW = {"steps": 50, "batch": 4, "save_every": 50, "lr": 1e-3}  # a pilot has 8 steps


@pytest.fixture
def auto(config):
    return config(beta=0.0, **FEW)


def test_beta_is_what_the_rule_says_of_the_runs_own_beginning(auto, tmp_path):
    told = []
    settled = pilot.settle(auto, told.append)

    def gains(beta):
        states = trainer.train(replace(auto, beta=beta, out=str(tmp_path / f"by-hand-{beta}")))
        return liked_gains([i for state in islice(states, 1 + round(50 * SHARE)) for i in state.inputs])

    beta, pilots = find_beta(auto.run.utility, gains)
    assert settled == replace(auto, beta=beta) and beta != 1
    assert told[0] == "beta: auto, from mostly one or two pilots of 8 steps, before the 50 of the run"
    assert told[1:] == [f"beta: {beta:g}, found by {pilots} pilot{'s' * (pilots > 1)} of 8 steps"]


def test_a_run_that_resumes_keeps_its_beta_and_another_one_looks_again(auto, monkeypatch):
    settled = pilot.settle(auto)
    calls = []

    def counted(utility, gains):
        calls.append(utility)
        return 3.0, 1

    monkeypatch.setattr(pilot, "find_beta", counted)
    assert pilot.settle(replace(auto, steps=60)) == replace(settled, steps=60) and not calls
    assert pilot.settle(replace(auto, lr=2e-3)).beta == 3.0 and len(calls) == 1


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"beta": "x", "settings": {}}', "\0"])
def test_a_damaged_beta_is_named(auto, text, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "beta.json").write_text(text)
    with pytest.raises(InputError, match=r"beta.json is damaged: delete it, or give --beta the number"):
        pilot.settle(auto)


def test_objectives_that_do_not_read_beta_need_no_pilot_and_those_on_pairs_a_number(auto, monkeypatch):
    monkeypatch.setattr(pilot, "train", lambda config: pytest.fail("trained"))
    assert pilot.settle(replace(auto, objective="sft")).beta == 0
    with pytest.raises(InputError, match="--beta auto learns from likes; diffusion_dpo needs a number"):
        replace(auto, objective="diffusion_dpo")


def test_auto_is_given_on_the_command_line_and_in_a_recipe(config, tmp_path, capsys):
    made = config(**FEW | {"steps": 6, "save_every": 6})
    (tmp_path / "mine.toml").write_text('beta = "auto"\n')
    places = {name: getattr(made, name) for name in ("model", "data")}
    assert configure(str(tmp_path / "mine.toml"), **places, out="o").beta == 0
    words = [f"--{name.replace('_', '-')}={getattr(made, name)}" for name in (*places, *FEW, "precision")]
    arguments = ["train", *words, "--workers", "0", "--log-every", "3", "--out", str(tmp_path / "run")]
    assert main([*arguments, "--beta", "auto"]) == 0
    output = capsys.readouterr().out
    beta = json.loads((tmp_path / "run/beta.json").read_text())["beta"]
    assert f"beta: {beta:g}, found by" in output
    assert not (tmp_path / "run/pilot").exists()
    assert main([*arguments, "--beta", "0"]) == 2
    assert "0 is no strength: give a number above 0, or auto" in capsys.readouterr().err
