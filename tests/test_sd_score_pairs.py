"""sd.judging.score_pairs: a reward model's scores for SmPO, of every pair that can be read."""

import csv
import json
import shutil

import pytest
import torch

from sd.__main__ import main
from sd.feedback.images import read_image
from sd.feedback.index import find_csv, open_index
from sd.judging import score_pairs, scorers, scoring
from sd.tiny import shapes
from sd.trainer import train
from toy.train import last


@pytest.fixture
def data(red, tmp_path):
    """Pairs without scores, and what the scorer redness should find."""
    folder = tmp_path / "red"
    shutil.copytree(red / "images", folder / "images")
    lines = (red / "pairs.csv").read_text().splitlines()
    (folder / "pairs.csv").write_text("\n".join(line.rsplit(",", 2)[0] for line in lines))
    return folder


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def run(data, *arguments):
    return main(["score-pairs", str(data), "--scorer", "redness", *arguments])


def test_both_images_of_each_pair_get_their_score_and_the_bounds_are_known(data, capsys, tmp_path):
    assert run(data) == 0
    table = rows(data / "pairs-redness.csv")
    before = rows(data / "pairs.csv")
    assert [(r["winner"], r["loser"], r["caption"]) for r in table] == [tuple(r.values()) for r in before]
    scores = []
    for row in table:
        for side in ("winner", "loser"):
            pixels = read_image(data / row[side], shapes.PIXELS)[0] / 255
            scores.append(float(row[f"{side}_score"]))
            assert scores[-1] == pytest.approx(shapes.redness(pixels[None]).item(), abs=1e-6)
    about = json.loads((data / "pairs-redness.json").read_text())
    assert (about["lowest"], about["highest"]) == pytest.approx((min(scores), max(scores)), abs=1e-6)
    assert about["pairs"] == 24 and about["winner_scores_higher"] == 1
    index = open_index(find_csv(str(data / "pairs-redness.csv"), True), tmp_path)
    assert (index.lowest, index.highest) == pytest.approx((min(scores), max(scores)), rel=1e-12)
    assert "24 pairs, 0 left out" in capsys.readouterr().out


def test_smpo_trains_on_them(data, config):
    run(data)
    settings = config(objective="smpo", data=str(data / "pairs-redness.csv"), steps=1, batch=2)
    assert last(train(settings)).step == 1


class Counting(scorers.Redness):
    """redness, which counts images and is interrupted at one call."""

    def __init__(self, stop_at=0):
        self.images, self.calls, self.stop_at = 0, 0, stop_at

    def score(self, inputs, prompts):
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        self.images += len(inputs)
        return inputs


def test_an_interrupted_run_goes_on_and_ends_the_same(data, monkeypatch, capsys):
    assert run(data, "--out", str(data / "whole.csv")) == 0
    shutil.rmtree(data / "cache")
    first, second, third = Counting(stop_at=2), Counting(), Counting()
    for scorer, code in ((first, 2), (second, 0), (third, 0)):
        monkeypatch.setattr(score_pairs, "load", lambda spec, device, scorer=scorer: scorer)
        assert run(data) == code
        assert (data / "pairs-redness.csv").exists() == (code == 0)
    assert first.images == scoring.BATCH and first.images + second.images == 48 and third.images == 0
    assert (data / "pairs-redness.csv").read_text() == (data / "whole.csv").read_text()
    assert "run the same command again to resume" in capsys.readouterr().err


def test_other_weights_and_other_images_are_scored_anew(data, tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"1")
    before = score_pairs.fingerprint(f"clip={tmp_path}")
    weights.write_bytes(b"12")
    assert len({before, score_pairs.fingerprint(f"clip={tmp_path}"), score_pairs.fingerprint("redness")}) == 3
    run(data)
    shutil.copy(data / "images/00000-liked.png", data / "images/00001-liked.png")
    run(data)
    table = rows(data / "pairs-redness.csv")
    assert table[0]["winner_score"] == table[1]["winner_score"]


def test_nothing_is_replaced_but_what_score_pairs_wrote(data, red, capsys):
    assert run(data) == 0 and run(data) == 0
    capsys.readouterr()
    shutil.copy(red / "pairs.csv", data / "mine.csv")  # with scores
    shutil.copy(red / "pairs.csv", data / "about.csv")
    (data / "about.json").write_text('{"scorer": "mine"}')
    (data / "list.json").write_text("[]")
    (data / "pairs-edited.csv").write_text(
        (data / "pairs-redness.csv").read_text().replace("caption", "text")
    )
    shutil.copy(data / "pairs-redness.json", data / "pairs-edited.json")
    before = {path: path.read_bytes() for path in data.iterdir() if path.is_file()}
    for name in ("mine", "about", "list", "pairs-edited", "x" * 252):
        assert run(data, "--out", str(data / f"{name}.csv")) == 2
        assert ".json exists, but not from score-pairs: choose another --out" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in data.iterdir() if path.is_file()}


def test_corrupt_images_are_named_and_left_out_with_their_pair(data, capsys):
    whole = (data / "images/00003-disliked.png").read_bytes()
    (data / "images/00003-disliked.png").write_bytes(whole[: len(whole) // 2])
    (data / "images/00005-liked.png").write_bytes(b"no image")
    assert run(data) == 0
    output = capsys.readouterr()
    assert "images/00003-disliked.png" in output.err and "images/00005-liked.png" in output.err
    assert "22 pairs, 2 left out" in output.out
    table = rows(data / "pairs-redness.csv")
    assert [r["winner"][7:12] for r in table] == [f"{i:05d}" for i in range(24) if i not in (3, 5)]
    (data / "images/00003-disliked.png").write_bytes(whole)
    assert run(data) == 0 and "23 pairs, 1 left out" in capsys.readouterr().out


def test_what_is_wrong_is_reported_in_one_line(data, capsys, monkeypatch, tmp_path):
    def says(what, *arguments):
        assert main(["score-pairs", *arguments]) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
        assert len(lines) == 1 and what in lines[0]

    says("no folder or CSV file", str(tmp_path / "no"), "--scorer", "redness")
    says("unknown scorer 'beauty'", str(data), "--scorer", "beauty")
    says("the following arguments are required: --scorer", str(data))
    for out in (tmp_path / "x.csv", data / "pairs.csv", data / "images.png", data / "pairs", data):
        says("--out must be another CSV in", str(data), "--scorer", "redness", "--out", str(out))
    (data / "likes.csv").write_text("file_name,caption,label\nimages/00000-liked.png,a,liked\n")
    says("has likes and dislikes", str(data / "likes.csv"), "--scorer", "redness")
    monkeypatch.setattr(scorers.Redness, "score", lambda self, inputs, prompts: inputs * torch.nan)
    says("00000-liked.png as nan: check its weights", str(data), "--scorer", "redness")
    (data / "cache/pairs/scores-redness.sqlite").write_bytes(b"no database" * 999)
    says("cache/pairs: delete scores-redness*.sqlite to score", str(data), "--scorer", "redness")
    (data / "cache/pairs/scores-redness.sqlite").unlink()
    for path in (data / "images").iterdir():
        path.write_bytes(b"")
    says("has two images that can be read", str(data), "--scorer", "redness")
