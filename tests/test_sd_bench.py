"""sd.bench: the real step on UNets of published size."""

import pytest
import torch

from sd import bench
from sd.__main__ import main


@pytest.mark.parametrize(
    "size, parameters", [("sd15", 859_520_964), ("sd21", 865_910_724), ("sdxl", 2_567_463_684)]
)
def test_sizes_are_the_published_ones(size, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in bench.make_unet(size).parameters()) == parameters


@pytest.mark.parametrize("size, tflop", [("sd15", 0.80), ("sd21", 2.15), ("sdxl", 6.76)])
def test_a_forward_pass_costs_what_is_known(size, tflop):
    assert bench.forward_flop(size) / 1e12 == pytest.approx(tflop, rel=0.02)


def test_the_command_prints_a_row_for_full_and_lora(capsys):
    assert main(["bench", "--model", "tiny", "--batch", "2", "--seconds", "0.1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[4:-1]] == ["full", "lora"]
    assert all(0 < float(line.split()[-1]) < 2 for line in lines[4:-1])


def test_what_cannot_be_is_refused(capsys):
    assert main(["bench", "--model", "sd99"]) == 2 and "invalid choice: 'sd99'" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert main(["bench", "--model", "sd15"]) == 2 and "needs a GPU; on a CPU" in capsys.readouterr().err
