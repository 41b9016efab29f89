"""Two processes with batch B are one with batch 2B: same losses, same gradients, for every objective."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from sd import trainer
from sd.tiny.runs import PIPELINE_SD3
from toy import objectives

# what both do; batch 1 for each of two processes: in most steps one of them has no desirable example
OBJECTIVES = {name: {"objective": name} for name in objectives.OBJECTIVES}
OBJECTIVES["adapters"] = {"tune": "lora", "lr": 1e-3}
OBJECTIVES["accumulated"] = {"accumulate": 2}
OBJECTIVES["mismatched"] = {"reference_point": "mismatched"}
OBJECTIVES["v3"] = {"model": str(PIPELINE_SD3), "objective": "smpo", "timesteps": "logit_normal"}
OBJECTIVES["v3, adapters"] = {"model": str(PIPELINE_SD3), "tune": "lora", "lr": 1e-3}


def settings(base, name, out, batch):
    changes = {"out": str(out / name), "batch": batch, "inversion_steps": 2, "steps": 5, "gamma": 0.5}
    return type(base)(**vars_of(base) | changes | OBJECTIVES[name])


def vars_of(config):
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


def main(config, out):
    """One process of two: run every objective and leave its weights and losses."""
    from pathlib import Path

    from sd.config import Config

    base, out = Config(**config), Path(out)
    for name in OBJECTIVES:
        rows = [s for s in trainer.train(settings(base, name, out, 1))]
        result = rows[-1].trainer
        if result.accelerator.is_main_process:
            assert result.accelerator.num_processes == 2
            weights = {n: w.detach().clone() for n, w in zip(result.names, result.weights, strict=True)}
            save_file(weights, out / f"{name}.safetensors")
            (out / f"{name}.json").write_text(json.dumps([row.metrics for row in rows[1:]]))


@pytest.fixture(scope="module")
def two(tmp_path_factory, red, two_processes):
    """What two processes found: (folder, config)."""
    from sd.config import Config
    from sd.tiny.runs import PIPELINE

    out = tmp_path_factory.mktemp("two")
    config = {"model": str(PIPELINE), "data": str(red), "out": str(out), "cache": str(out / "cache")}
    config |= {"beta": 30.0, "lr": 1e-4, "warmup": 0, "precision": "fp32", "workers": 0, "log_every": 1}
    two_processes("test_sd_distributed", config=config, out=str(out))
    return out, Config(**config)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_processes_are_one_with_twice_the_batch(two, name, tmp_path):
    out, base = two
    rows = list(trainer.train(settings(base, name, tmp_path, 2)))
    theirs = json.loads((out / f"{name}.json").read_text())
    for mine, other in zip([row.metrics for row in rows[1:]], theirs, strict=True):
        for key in set(mine) - {"images_per_second"}:
            assert mine[key] == pytest.approx(other[key], rel=2e-3, abs=2e-4), (name, key)
    weights = load_file(out / f"{name}.safetensors")
    for n, weight in zip(rows[-1].trainer.names, rows[-1].trainer.weights, strict=True):
        torch.testing.assert_close(weights[n], weight.detach(), rtol=0, atol=3e-5)


def test_some_process_had_no_desirable_example(two):
    out, _ = two
    counts = [row["desirable"] for row in json.loads((out / "diffusion_kto.json").read_text())]
    assert 1 in counts or 0 in counts
