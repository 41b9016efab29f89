"""Checkpoints: each is a folder with safetensors and JSON only, written completely or not at all."""

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sd.sharding import part
from toy.errors import InputError
from toy.files import save_folder

NAME = "step-" + 8 * "[0-9]"


def save(folder: Path, step: int, tensors: dict[str, Tensor], state: dict, keep: int) -> Path:
    """Write folder/step-N, then remove all but the last `keep` checkpoints."""

    def write(temporary: Path) -> None:
        save_file(tensors, temporary / "tensors.safetensors")
        (temporary / "state.json").write_text(json.dumps(state | {"step": step}, indent=1))
        for path in temporary.iterdir():
            with open(path, "rb") as file:
                os.fsync(file.fileno())

    try:
        path = save_folder(folder / f"step-{step:08d}", write)
    except (OSError, SafetensorError) as error:
        goal = f"resume from {latest(folder)}" if latest(folder) else "start over"
        raise InputError(
            f"cannot write the checkpoint of step {step} into {folder}: {error}; "
            f"make room and run the same command again, to {goal}"
        ) from error
    for old in sorted(folder.glob(NAME))[:-keep]:
        shutil.rmtree(old)
    return path


def latest(folder: Path) -> Path | None:
    """The last complete checkpoint in a folder, if any."""
    return max(folder.glob(NAME), default=None)


def load(path: Path, settings: dict, shapes: dict | None = None) -> tuple[dict[str, Tensor], dict]:
    """Tensors and state of a checkpoint. Raises InputError if its settings differ or if it is damaged: it
    must have tensors of these names and shapes."""

    def damaged(why: str) -> InputError:
        return InputError(f"{path} is damaged ({why}): delete it to resume from the one before")

    try:
        state = json.loads((path / "state.json").read_text())
        tensors = load_file(path / "tensors.safetensors")
        theirs, _ = dict(state["settings"]), range(state["step"])  # fails if that is no whole number
    except (OSError, ValueError, TypeError, KeyError, RecursionError, SafetensorError) as error:
        raise damaged(repr(error)) from error
    for name, value in settings.items():
        if theirs.get(name) != value:
            change = f"{name} was {theirs.get(name)}, now {value}"
            raise InputError(f"{path} belongs to another run: {change}; choose another --out")
    for name, shape in (shapes or {}).items():
        if name not in tensors or tensors[name].shape != shape:
            raise damaged(f"no {name} of shape {tuple(shape)}")
    return tensors, state


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as a flat dict."""
    tensors = {}
    for i, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{key}": torch.as_tensor(value) for key, value in values.items()}
    return tensors


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Load into the optimizer what optimizer_tensors() returned."""
    state: dict[int, dict[str, Tensor]] = {}
    weights = optimizer.param_groups[0]["params"]
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, i, key = name.split(".")
            state.setdefault(int(i), {})[key] = part(value, weights[int(i)])
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for weight, values in optimizer.state.items():
        for key, value in values.items():
            if value.shape == weight.shape and value.dtype == weight.dtype:
                values[key] = torch.empty_like(weight).copy_(value)  # in the weight's memory format
