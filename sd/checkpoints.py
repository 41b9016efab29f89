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


def save(folder: Path, step: int, tensors: dict[str, Tensor], state: dict, keep: int) -> Path:
    """Write folder/step-N, under another name until it is whole, then drop all but the last `keep`."""
    path = folder / f"step-{step:08d}"
    half = folder / f".{path.name}"
    try:
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, half / "tensors.safetensors"
        )
        (half / "state.json").write_text(json.dumps(state | {"step": step}, indent=1))
        for file in half.iterdir():
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
        shutil.rmtree(path, ignore_errors=True)
        os.rename(half, path)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(half, ignore_errors=True)
        kept = latest(folder)
        safe = f"; {kept} is kept, and the same command goes on from it" if kept else ""
        raise InputError(f"cannot write the checkpoint {path}: {error}{safe}") from error
    for old in _all(folder)[:-keep]:
        shutil.rmtree(old)
    return path


def latest(folder: Path) -> Path | None:
    """The last complete checkpoint of a folder."""
    return _all(folder)[-1] if _all(folder) else None


def load(path: Path, settings: dict) -> tuple[dict[str, Tensor], dict]:
    """Tensors and state of a checkpoint. Raises InputError if it is of other settings, or damaged."""
    try:
        state = json.loads((path / "state.json").read_text())
        tensors = load_file(path / "tensors.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{path} is damaged ({error}): delete it to go on from the one before") from error
    for name, value in settings.items():
        if state["settings"].get(name) != value:
            was = state["settings"].get(name)
            raise InputError(f"{path} is of another run: {name} was {was}, now {value}; choose another --out")
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
                values[key] = torch.empty_like(weight).copy_(
                    value
                )  # in the weight's memory format, as before


def _all(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))
