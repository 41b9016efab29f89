"""sd.checkpoints: what is loaded is whole and of the same run, or refused in one line."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from sd import checkpoints
from toy.errors import InputError

TENSORS = {"policy.a": torch.ones(2, 3), "optimizer.0.step": torch.tensor(1.0)}
SHAPES = {"policy.a": torch.Size((2, 3))}


@pytest.fixture
def saved(tmp_path):
    return checkpoints.save(tmp_path / "100%d", 5, TENSORS, {"settings": {"seed": 0}}, keep=2)


def test_a_checkpoint_comes_back(saved):
    tensors, state = checkpoints.load(saved, {"seed": 0}, SHAPES)
    assert torch.equal(tensors["policy.a"], TENSORS["policy.a"]) and state["step"] == 5


@pytest.mark.parametrize(
    "text",
    [
        "", "{}", "[]", "null", "3", '{"step": 5}', '{"settings": [], "step": "5"}',
        '{"settings": 3, "step": 5}', '{"settings": {}, "step": NaN}', "[" * 100_000, "\x00"
    ],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_a_damaged_state_is_named_with_the_way_out(saved, text):
    (saved / "state.json").write_text(text)
    with pytest.raises(InputError, match=r"step-00000005 is damaged \(.*\): delete it to resume from"):
        checkpoints.load(saved, {}, SHAPES)


@pytest.mark.parametrize(
    "tensors", [{}, {"policy.a": torch.ones(3, 2)}, {"policy.b": torch.ones(2, 3)}], ids=str
)
def test_tensors_of_another_file_are_damage(saved, tensors):
    save_file(tensors, saved / "tensors.safetensors")
    with pytest.raises(InputError, match=r"is damaged \(no policy.a of shape \(2, 3\)\)"):
        checkpoints.load(saved, {"seed": 0}, SHAPES)
    with pytest.raises(InputError, match="seed was 0, now 1; choose another --out"):  # what comes first
        checkpoints.load(saved, {"seed": 1}, SHAPES)


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def test_what_a_run_left_that_was_killed_while_saving_is_cleared_by_the_next(tmp_path):
    script = f"""if True:
        import os
        from pathlib import Path
        from sd import checkpoints

        checkpoints.save_file = lambda tensors, path: (path.touch(), os.kill(os.getpid(), 9))
        checkpoints.save(Path({str(tmp_path)!r}), 3, {{}}, {{}}, 2)"""
    subprocess.run([sys.executable, "-c", script], check=False)
    assert len(list(tmp_path.iterdir())) == 1 and checkpoints.latest(tmp_path) is None
    path = checkpoints.save(tmp_path, 5, TENSORS, {"settings": {}}, keep=2)
    assert list(tmp_path.iterdir()) == [path] == [checkpoints.latest(tmp_path)]


def test_other_files_beside_the_checkpoints_are_left_alone(tmp_path):
    (tmp_path / "step-notes.txt").touch()
    for step in range(1, 5):
        checkpoints.save(tmp_path, step, {}, {}, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000003", "step-00000004", "step-notes.txt"]
    assert json.loads((checkpoints.latest(tmp_path) / "state.json").read_text()) == {"step": 4}
