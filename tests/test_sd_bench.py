"""sd.bench: the real step on UNets of published size."""

from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel

from sd import bench
from sd.__main__ import main
from sd.config import Config
from sd.memory import count_memory


@pytest.mark.parametrize(
    "size, parameters", [("sd15", 859_520_964), ("sd21", 865_910_724), ("sdxl", 2_567_463_684)]
)
def test_sizes_are_the_published_ones(size, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in bench.make_denoiser(size).parameters()) == parameters


@pytest.mark.parametrize("size, tflop", [("sd15", 0.80), ("sd21", 2.15), ("sdxl", 6.76)])
def test_a_forward_pass_costs_what_is_known(size, tflop):
    assert bench.forward_flop(size) / 1e12 == pytest.approx(tflop, rel=0.02)


def test_the_command_prints_a_row_for_full_and_lora(capsys):
    assert main(["bench", "--model", "tiny", "--batch", "2", "--seconds", "0.1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[4:-1]] == ["full", "lora"]
    assert all(0 < float(line.split()[-1]) < 2 for line in lines[4:-1])


def test_a_row_that_does_not_fit_leaves_the_others(monkeypatch, capsys):
    measure = bench.measure

    def full(pipeline, config, *arguments):
        if config.tune == "full":
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return measure(pipeline, config, *arguments)

    monkeypatch.setattr(bench, "measure", full)
    assert main(["bench", "--model", "tiny", "--batch", "2", "--seconds", "0.1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "out of memory: try a smaller --batch" in lines[4] and lines[5].startswith("lora")


def test_the_memory_of_a_step_is_what_is_alive_in_it():
    """Weights, gradients and two moments of 4 bytes, the reference in 2, and little else for one image."""
    config = Config(model="-", data="-", out="-", batch=1, accumulate=1, gradient_checkpointing=True)
    small = {"sample_size": 8, "block_out_channels": (64, 128), "layers_per_block": 1}
    small |= {"down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "cross_attention_dim": 64}
    small |= {"up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]}

    def count(config):
        with torch.device("meta"):
            unet = UNet2DConditionModel(**small)
        return count_memory(unet, config, 8)

    with torch.device("meta"):
        weights = sum(p.numel() for p in UNet2DConditionModel(**small).parameters())
    full = count(config)
    assert 18 * weights < full < 18.6 * weights
    assert 4 * weights < count(replace(config, objective="sft")) - 2 * weights < full
    assert count(replace(config, batch=8)) > full
    assert count(replace(config, batch=8, gradient_checkpointing=False)) > full
    assert count(replace(config, tune="lora")) < 3 * weights
    assert count(replace(config, accumulate=2)) > full
    assert count(replace(config, ema=0.9)) == full + 4 * weights


def test_what_cannot_be_is_refused(capsys):
    assert main(["bench", "--model", "sd99"]) == 2 and "invalid choice: 'sd99'" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert main(["bench", "--model", "sd15"]) == 2 and "needs a GPU; on a CPU" in capsys.readouterr().err
