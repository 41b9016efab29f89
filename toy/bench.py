"""How fast alignment trains: share of the machine's own matrix product rate, and against a plain loop.

A step costs 4 forward passes per example in matrix products: policy forward and backward (3) and
reference forward (1). That floor divided by the time is the rate; the machine's rate is measured
in between, because shared machines change speed.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from toy.data import Feedback, feedback, figure6
from toy.diffusion import add_noise
from toy.losses import diffusion_kto, reference_point
from toy.model import WIDTH, Denoiser
from toy.runs import Run
from toy.train import ABAR, align

CASES = ((1, 32), (1, 256), (8, 32), (8, 256))  # runs, batch


def main(seconds: float) -> None:
    """Measure every case for `seconds` and print the table."""
    model, points = Denoiser(), feedback(figure6())
    inputs = model.weight1.shape[1]
    flop = 2 * (inputs * WIDTH + WIDTH * WIDTH + WIDTH * 2)  # of one example's forward pass
    print(
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, float32, {inputs}-{WIDTH}-{WIDTH}-2"
    )
    print(f"{'':22}{'steps/s':>9}{'GFLOP/s':>9}{'of matmul':>11}{'matmul GFLOP/s':>16}")
    rates = {}
    for runs, batch in tqdm(CASES, desc="measuring", leave=False):
        ours = align(model, points, [Run(seed=seed) for seed in range(runs)], steps=10**9, batch=batch)
        rates[runs, batch], machine = _steps_per_second(ours, seconds)
        name = f"{'one run' if runs == 1 else f'{runs} runs at once'}, batch {batch}"
        rate = 4 * flop * runs * batch * rates[runs, batch]
        line = (
            f"{name:22}{rates[runs, batch]:9.0f}{rate / 1e9:9.1f}{rate / machine:11.2f}{machine / 1e9:16.1f}"
        )
        tqdm.write(line)
    for batch in (32, 256):
        plain, _ = _steps_per_second(plain_loop(model, points, batch), seconds)
        alone, together = rates[1, batch] / plain, 8 * rates[8, batch] / plain
        print(f"plain loop, batch {batch}: {plain:.0f} steps/s; ", end="")
        print(f"ours is {alone:.1f} times as fast alone, {together:.1f} times with 8 runs at once")


def plain_loop(reference: Denoiser, points: Feedback, batch: int) -> Iterator[float]:
    """The same alignment as a textbook writes it: DataLoader, nn.Linear, AdamW, loss.item()."""
    policy, frozen = PlainDenoiser(reference), PlainDenoiser(reference).requires_grad_(False)
    loader = DataLoader(TensorDataset(points.x0, points.desirable), batch, shuffle=True, drop_last=True)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3, foreach=False, fused=False)
    for x0, desirable in itertools.chain.from_iterable(itertools.repeat(loader)):
        t = torch.randint(len(ABAR), (batch,))
        eps = torch.randn_like(x0)
        xt = add_noise(x0, t, eps, ABAR)
        policy_error = (policy(xt, t) - eps).square().mean(-1)
        with torch.no_grad():
            reference_error = (frozen(xt, t) - eps).square().mean(-1)
        z0 = reference_point(policy_error, reference_error)
        options = {"beta": 4.0, "reference_point": z0, "watch": False}
        loss, _ = diffusion_kto(policy_error, reference_error, desirable, **options)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


class PlainDenoiser(nn.Module):
    """The network of toy.model for one run, in nn.Linear layers."""

    def __init__(self, model: Denoiser):
        super().__init__()
        self.register_buffer("time", model.time)
        layers = [nn.Linear(*weight.shape[1:]) for weight in (model.weight1, model.weight2)]
        self.layers = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), nn.Linear(WIDTH, 2))

    def forward(self, xt: Tensor, t: Tensor) -> Tensor:
        return self.layers(torch.cat([xt, self.time[t], torch.zeros(len(xt), 1)], -1))


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
