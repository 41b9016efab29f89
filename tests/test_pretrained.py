"""Pretrained models: kept, found again, and trained anew where they do not fit."""

import pytest
import safetensors.torch
import torch

from toy import pretrained as p
from toy.data import figure6
from toy.errors import InputError


@pytest.fixture
def quick(monkeypatch):
    """Two steps of pretraining instead of a thousand."""
    pretrain = p.pretrain
    monkeypatch.setattr(p, "pretrain", lambda points, **options: pretrain(points, steps=2, **options))


def test_the_cached_model_is_the_trained_one(tmp_path, monkeypatch, quick):
    def forbidden(*_, **__):
        raise AssertionError("trained again")

    made = p.pretrained(figure6(), 0, tmp_path).state_dict()
    monkeypatch.setattr(p, "pretrain", forbidden)
    read = p.pretrained(figure6(), 0, tmp_path).state_dict()
    assert all(torch.equal(made[k], read[k]) for k in made)


@pytest.mark.parametrize("damage", ["truncated", "other configuration", "other shape"])
def test_a_cache_that_does_not_fit_is_rebuilt_and_said(tmp_path, quick, capsys, damage):
    expected = p.pretrained(figure6(), 0, tmp_path).state_dict()
    path = tmp_path / "figure6-0.safetensors"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "other configuration":
        safetensors.torch.save_file(expected, path, metadata={"world": "moons"})
    else:
        with p.safe_open(path, "pt") as file:
            metadata = file.metadata()
        safetensors.torch.save_file({"weight1": torch.ones(2)}, path, metadata=metadata)
    rebuilt = p.pretrained(figure6(), 0, tmp_path).state_dict()
    assert all(torch.equal(rebuilt[k], expected[k]) for k in expected)
    message = capsys.readouterr().out
    assert str(path) in message and "training it anew" in message and message.count("\n") == 1
    p.pretrained(figure6(), 0, tmp_path)
    assert capsys.readouterr().out == ""


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, quick, monkeypatch):
    def full(path, content):
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(p.Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"cannot write .*figure6-0.safetensors: No space left on device"):
        p.pretrained(figure6(), 0, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_cache_knows_how_its_model_was_made(tmp_path, quick):
    p.pretrained(figure6(), 0, tmp_path)
    with p.safe_open(tmp_path / "figure6-0.safetensors", "pt") as file:
        assert {"process", "steps", "batch", "lr", "seed", "points", "width"} == set(file.metadata())
