"""--shard: two processes with a part of the model each are one process with all of it and twice the batch."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor

from sd import trainer
from sd.config import Config
from sd.tiny.runs import PIPELINE
from sd.train import run
from toy.errors import InputError
from toy.objectives import OBJECTIVES

# batch 1 in each of two processes; the norms of the first gradients are above --clip
COMMON = {"model": str(PIPELINE), "beta": 30.0, "lr": 1e-4, "warmup": 0, "precision": "fp32", "workers": 0}
COMMON |= {"log_every": 1, "gamma": 0.5, "inversion_steps": 2, "steps": 2, "batch": 1}
RUNS = {name: {"objective": name} for name in OBJECTIVES}
RUNS["csft"] |= {"accumulate": 2, "gradient_checkpointing": True}
RUNS["adapters"] = {"objective": "smpo", "tune": "lora"}
LONG = {"steps": 4, "save_every": 2, "ema": 0.5}
PICTURES = {"validate_every": 3, "validation_prompts": ("a red circle on a gray background",)}


def train(**settings):
    """The states of a run, without its last checkpoint."""
    config, states = Config(**settings), []
    for state in trainer.train(config):
        states.append(state)
        if state.step == config.steps:
            return states


def tensors_of(result):
    """The weights and what the optimizer made of their gradients, by name."""
    moments = [result.optimizer.state[weight]["exp_avg"] for weight in result.weights]
    tensors = dict(zip(result.names, result.weights, strict=True))
    return tensors | {f"exp_avg.{name}": m for name, m in zip(result.names, moments, strict=True)}


def step(out, number):
    return out / f"checkpoints/step-{number:08d}"


def interrupt(out, copy):
    """Make a copy of a run as it was after two steps."""
    shutil.copytree(step(out, 2), step(copy, 2))


def main(base, out):
    """One process of two: leave the metrics of every run, and this process's part of its tensors."""
    out = Path(out)
    for name in RUNS:
        states = train(**base | RUNS[name] | {"out": str(out / name), "shard": True})
        result = states[-1].trainer
        parts = {name: tensor.to_local().detach() for name, tensor in tensors_of(result).items()}
        for i, weight in enumerate(result.aligner.reference.parameters() if result.aligner.reference else ()):
            assert isinstance(weight, DTensor)
            parts[f"reference.{i}"] = weight.to_local()
        save_file(parts, out / name / f"{result.accelerator.process_index}.safetensors")
        if result.accelerator.is_main_process:
            (out / name / "metrics.json").write_text(json.dumps([state.metrics for state in states[1:]]))
        if name == "adapters":
            result.export()
    long = base | LONG | {"shard": True}
    list(trainer.train(Config(**long | {"out": str(out / "two")})))
    if result.accelerator.is_main_process:
        interrupt(out / "two", out / "resumed")
    result.accelerator.wait_for_everyone()
    list(trainer.train(Config(**long | {"out": str(out / "from one to two")})))
    run(Config(**long | PICTURES | {"out": str(out / "resumed")}))  # last: it ends the group of processes


@pytest.fixture(scope="module")
def two(tmp_path_factory, red, two_processes):
    """Settings, and a folder with all runs of two processes, and a long one of one process."""
    out = tmp_path_factory.mktemp("two")
    base = COMMON | {"data": str(red), "cache": str(out / "cache")}
    run(Config(**base | LONG | PICTURES | {"out": str(out / "one"), "batch": 2}))
    interrupt(out / "one", out / "from one to two")
    two_processes("test_sd_sharding", base=base, out=str(out))
    return base, out


def assert_close(mine, theirs):
    """The tensors differ by rounding: Adam makes more of it where gradients are tiny."""
    assert mine.keys() == theirs.keys()
    for name in mine:
        tolerance = 1e-7 if "exp_avg" in name else 3e-5
        torch.testing.assert_close(mine[name], theirs[name], rtol=0, atol=tolerance, msg=name)


@pytest.mark.parametrize("name", RUNS)
def test_the_numbers_are_those_of_one_process_with_twice_the_batch(two, name, tmp_path):
    base, out = two
    states = train(**base | RUNS[name] | {"out": str(tmp_path), "batch": 2})
    theirs = json.loads((out / name / "metrics.json").read_text())
    for metrics, other in zip([state.metrics for state in states[1:]], theirs, strict=True):
        for key in metrics.keys() - {"images_per_second"}:
            assert metrics[key] == pytest.approx(other[key], rel=1e-5, abs=1e-5), key
    parts = [load_file(out / name / f"{i}.safetensors") for i in (0, 1)]
    mine = {key: tensor.detach() for key, tensor in tensors_of(states[-1].trainer).items()}
    assert_close(mine, {key: torch.cat([part[key] for part in parts]) for key in mine})


@pytest.mark.parametrize("name", ["diffusion_kto", "adapters"])
def test_each_process_stores_half_of_everything(two, name):
    """Of policy, reference, moments: that main() could save their parts, says that there are parts."""
    _, out = two
    sizes = [sum(t.numel() for t in load_file(out / name / f"{i}.safetensors").values()) for i in (0, 1)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)


def test_a_resumed_run_with_pictures_is_the_uninterrupted_one_to_the_bit(two):
    _, out = two
    whole, resumed = (load_file(step(out / name, 4) / "tensors.safetensors") for name in ("two", "resumed"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_checkpoints_are_those_of_one_process_and_resume_on_any_number(two):
    base, out = two
    interrupt(out / "two", out / "from two to one")
    list(trainer.train(Config(**base | LONG | {"out": str(out / "from two to one"), "batch": 2})))
    one, *others = (
        load_file(step(out / name, 4) / "tensors.safetensors")
        for name in ("one", "two", "from one to two", "from two to one")
    )
    for other in others:
        assert_close(one, other)


def test_the_result_is_the_pipeline_that_one_process_saves(two):
    _, out = two
    mine, theirs = (DiffusionPipeline.from_pretrained(out / name / "model") for name in ("one", "resumed"))
    assert_close(mine.unet.state_dict(), theirs.unet.state_dict())
    averages = load_file(step(out / "resumed", 4) / "tensors.safetensors")
    for name, weight in theirs.unet.state_dict().items():
        assert torch.equal(weight, averages[f"ema.{name}"]), name
    configs = [(out / name / "model/unet/config.json").read_text() for name in ("one", "resumed")]
    assert configs[0] == configs[1]


def test_adapters_are_saved_whole(two):
    _, out = two
    parts = [load_file(out / "adapters" / f"{i}.safetensors") for i in (0, 1)]
    saved = load_file(out / "adapters/lora/pytorch_lora_weights.safetensors")
    for name in (name for name in parts[0] if not name.startswith("exp_avg")):
        key = "unet." + name.replace("lora_A.default", "lora.down").replace("lora_B.default", "lora.up")
        assert torch.equal(saved.pop(key), torch.cat([part[name] for part in parts])), name
    assert not saved


def test_pictures_are_those_of_one_process(two):
    _, out = two
    files = (out / name / "validation/step-00000003.png" for name in ("one", "resumed"))
    mine, theirs = (np.asarray(Image.open(file)).astype(int) for file in files)
    assert abs(mine - theirs).max() <= 1


@pytest.mark.parametrize(
    "change, words",
    [
        ({}, "--shard splits a model over several processes; accelerate launch starts them"),
        ({"optimizer": "adafactor"}, "--shard works with --optimizer adamw only, not adafactor"),
    ],
)
def test_what_cannot_be_sharded_is_refused(config, change, words):
    with pytest.raises(InputError, match=words):
        next(trainer.train(config(shard=True, **change)))
