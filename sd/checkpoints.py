"""Checkpoints: a folder each, complete or absent, in safetensors and JSON only."""

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from toy.errors import InputError
from toy.files import save_folder


def save(folder: Path, step: int, tensors: dict[str, Tensor], state: dict, keep: int) -> Path:
    """Write folder/step-N, then remove all but the last `keep` checkpoints."""

    def write(temporary: Path) -> None:
        plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        save_file(plain, temporary / "tensors.safetensors")
        (temporary / "state.json").write_text(json.dumps(state | {"step": step}, indent=1))
        for file in temporary.iterdir():
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())

    try:
        path = save_folder(folder / f"step-{step:08d}", write)
    except (OSError, SafetensorError) as error:
        last = latest(folder)
        safe = f"; {last} is kept: make room and run the same command again to resume from it" if last else ""
        raise InputError(
            f"cannot write the checkpoint of step {step} into {folder}: {error}{safe}"
        ) from error
    for old in _all(folder)[:-keep]:
        shutil.rmtree(old)
    return path


def latest(folder: Path) -> Path | None:
    """The last complete checkpoint in a folder, if any."""
    return _all(folder)[-1] if _all(folder) else None


def load(path: Path, settings: dict) -> tuple[dict[str, Tensor], dict]:
    """Tensors and state of a checkpoint. Raises InputError if it has other settings or is damaged."""
    try:
        state = json.loads((path / "state.json").read_text())
        tensors = load_file(path / "tensors.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{path} is damaged ({error}): delete it to resume from the one before") from error
    for name, value in settings.items():
        if state["settings"].get(name) != value:
            theirs = state["settings"].get(name)
            raise InputError(
                f"{path} belongs to another run: {name} was {theirs}, now {value}; choose another --out"
            )
    return tensors, state


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as a flat dict."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{i}.{k}": torch.as_tensor(v) for i, values in state.items() for k, v in values.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give the optimizer the state that optimizer_tensors() took."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, i, key = name.split(".")
            state.setdefault(int(i), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for weight, values in optimizer.state.items():
        for key, value in values.items():
            if value.shape == weight.shape and value.dtype == weight.dtype:
                values[key] = torch.empty_like(weight).copy_(value)  # in the weight's memory format


def _all(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))
