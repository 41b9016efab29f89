"""How fast alignment trains: share of the machine's own matrix product rate, and against toy/plain.py.

A step costs 4 forward passes per example in matrix products: policy forward and backward (3) and
reference forward (1). That floor divided by the time is the rate; the machine's rate is measured
in between, because shared machines change speed.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from tqdm import tqdm

from toy import plain
from toy.data import feedback, figure6
from toy.model import WIDTH, Denoiser
from toy.objectives import Run
from toy.train import align

CASES = ((1, 32), (1, 256), (8, 32), (8, 256))  # runs, batch


def bench(seconds: float) -> list[Path]:
    """Measure every case for `seconds` and print the table; writes nothing."""
    model, likes = Denoiser(), feedback(figure6())
    inputs = model.weight1.shape[1]
    flop = 2 * (inputs * WIDTH + WIDTH * WIDTH + WIDTH * 2)  # of one example's forward pass
    size = f"{inputs}-{WIDTH}-{WIDTH}-2"
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, float32, {size}")
    print(f"{'':22}{'steps/s':>9}{'GFLOP/s':>9}{'of matmul':>11}{'matmul GFLOP/s':>16}")
    steps = {}
    for runs, batch in tqdm(CASES, desc="measuring", leave=False):
        states = align(model, likes, [Run(seed=seed) for seed in range(runs)], steps=10**9, batch=batch)
        steps[runs, batch], machine = _steps_per_second(states, seconds)
        name = f"{'one run' if runs == 1 else f'{runs} runs at once'}, batch {batch}"
        rate = 4 * flop * runs * batch * steps[runs, batch]
        shares = f"{rate / 1e9:9.1f}{rate / machine:11.2f}{machine / 1e9:16.1f}"
        tqdm.write(f"{name:22}{steps[runs, batch]:9.0f}{shares}")
    for batch in (32, 256):
        losses = plain.align(plain.Denoiser(), likes, steps=10**9, batch=batch)
        baseline, _ = _steps_per_second(losses, seconds)
        alone, together = steps[1, batch] / baseline, 8 * steps[8, batch] / baseline
        print(f"toy/plain.py, batch {batch}: {baseline:.0f} steps/s; toy/train.py is ", end="")
        print(f"{alone:.1f} times as fast with one run, {together:.1f} times with 8 runs at once")
    return []


def _steps_per_second(states: Iterator, seconds: float) -> tuple[float, float]:
    """Median steps per second, and the machine's FLOP/s in a 1024 x 1024 product, in turns."""
    a = torch.randn(1024, 1024)

    def timed(work: Callable[[], object]) -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    steps, products = [], []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(steps) < 3:
        products.append(timed(lambda: [a @ a for _ in range(3)]) / 3)
        steps.append(timed(lambda: list(itertools.islice(states, 32))) / 32)
    return 1 / statistics.median(steps), 2 * 1024**3 / statistics.median(products)
