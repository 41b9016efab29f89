"""Diffusion and flow matching, as functions of a process. They serve 2-D points and image latents alike.

Both mix data with noise, xt = signal[t] x0 + noise[t] eps. They differ in the shares, and in what the
network predicts. `x` is (B, ...) with t of shape (B,), or (runs, B, ...) with t of shape (runs, B), or
t is a single number. Timestep -1 means clean data. A model is any function predict(xt, t) of xt's shape.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

Predict = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Process:
    """The shares of signal and noise at each of T timesteps, and what the network predicts.

    The tables are (T + 1,): the last entry, which t = -1 finds, is that of clean data.
    """

    signal: Tensor
    noise: Tensor
    predicts: str = "eps"  # or "v" = signal eps - noise x0, or "flow", the velocity eps - x0

    def __len__(self) -> int:
        return len(self.signal) - 1

    def to(self, device: torch.device | str) -> "Process":
        return replace(self, signal=self.signal.to(device), noise=self.noise.to(device))

    def at(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise at t, shaped to broadcast over the dimensions of each example in x. In float32
        or better whatever x is: half precision would round a little noise to nothing."""
        dtype, dimensions = torch.promote_types(x.dtype, torch.float32), x.ndim - t.ndim if t.ndim else 0
        # table[t] would read a single t back from a GPU
        shares = (table.to(x.device, dtype).take(t) for table in (self.signal, self.noise))
        return tuple(share.reshape(t.shape + (1,) * dimensions) for share in shares)


def linear_schedule(timesteps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Tensor:
    """abar (T,) float32 of the linear beta schedule. Ho et al. 2020, section 4."""
    beta = torch.linspace(first, last, timesteps, dtype=torch.float64)
    return torch.cumprod(1 - beta, 0).float()


def variance_preserving(abar: Tensor, predicts: str = "eps") -> Process:
    """Diffusion: the variance stays 1, and abar (T,) is the share of it that is still signal."""
    abar = pad(abar, (0, 1), value=1.0)
    return Process(abar.sqrt(), (1 - abar).sqrt(), predicts)


def flow(timesteps: int = 1000, shift: float = 1.0) -> Process:
    """Flow matching: xt is on the straight line from x0 to eps, at sigma = (t + 1) / T of the way. A shift
    puts it at shift sigma / (1 + (shift - 1) sigma). Lipman et al. 2022; Esser et al. 2024, eq. 23."""
    sigma = pad(torch.arange(1, timesteps + 1, dtype=torch.float64) / timesteps, (0, 1))
    sigma = (shift * sigma / (1 + (shift - 1) * sigma)).float()
    return Process(1 - sigma, sigma, "flow")


def add_noise(x0: Tensor, t: Tensor, eps: Tensor, process: Process) -> Tensor:
    """xt = signal x0 + noise eps: the forward process, in one jump from x0 to t."""
    signal, noise = process.at(t, x0)
    return signal * x0 + noise * eps


def target(x0: Tensor, t: Tensor, eps: Tensor, process: Process) -> Tensor:
    """What the network should predict at t: eps, v (Salimans & Ho 2022), or a flow's velocity."""
    signal, noise = process.at(t, x0)
    return {"eps": eps, "v": signal * eps - noise * x0, "flow": eps - x0}[process.predicts]


def split(prediction: Tensor, xt: Tensor, t: Tensor, process: Process) -> tuple[Tensor, Tensor]:
    """The x0 and eps that a prediction at xt stands for: xt is their mix."""
    signal, noise = process.at(t, xt)
    if process.predicts == "eps":
        return (xt - noise * prediction) / signal, prediction
    if process.predicts == "v":
        return signal * xt - noise * prediction, signal * prediction + noise * xt
    return xt - noise * prediction, xt + signal * prediction


def error_weight(space: str, t: Tensor, process: Process) -> Tensor:
    """(B,): what a squared error of the prediction is multiplied by to be one of "eps" or of "x0". For v
    and a flow that is signal^2 or noise^2, for eps it is 1 or (noise / signal)^2."""
    share = {"eps": process.signal, "x0": process.noise}[space].take(t)
    return (share / process.signal.take(t) if process.predicts == "eps" else share).square()


def eps_between(xt: Tensor, t: Tensor, x0: Tensor, process: Process) -> Tensor:
    """The noise that leads from x0 to xt, (xt - signal x0) / noise: SmPO's target tau."""
    signal, noise = process.at(t, xt)
    return (xt - signal * x0) / noise


def move(xt: Tensor, t: Tensor, t_next: Tensor, prediction: Tensor, process: Process) -> Tensor:
    """Move xt from timestep t to t_next, in either direction: mix the predicted x0 and eps anew.

    For diffusion this is a DDIM step (Song et al. 2021, eq. 12), for a flow Euler's step,
    xt + (noise_next - noise) prediction.
    """
    x0, eps = split(prediction, xt, t, process)
    return add_noise(x0, t_next, eps, process)


def sample(predict: Predict, xt: Tensor, process: Process, steps: int = 50) -> Iterator[Tensor]:
    """Walk pure noise xt down to clean data in equal strides of t; yields x after every step. The last x
    yielded is the sample. Runs without gradient."""
    last = torch.tensor(len(process) - 1, device=xt.device)
    for k in range(steps, 0, -1):
        t, t_next = stride(last, k, steps), stride(last, k - 1, steps)
        with torch.no_grad():
            xt = move(xt, t, t_next, predict(xt, t), process)
        yield xt


@torch.no_grad()
def invert(predict: Predict, x0: Tensor, t: Tensor, process: Process, steps: int = 9) -> Tensor:
    """Walk clean x0 up to each example's own t, against the sampler: the xt that leads back to x0.

    The strides of each example are equal, and end exactly at its t, (B,). Makes 2 * steps model
    calls, without gradient. Lu et al. 2025 (SmPO).
    """
    xt = x0
    for k in range(steps):
        xt = move_up(predict, xt, stride(t, k, steps), stride(t, k + 1, steps), process)
    return xt


def move_up(predict: Predict, xt: Tensor, t: Tensor, t_next: Tensor, process: Process) -> Tensor:
    """One stride of the inversion: asks the model at its start, guesses its end, asks again there and
    goes with the mean of both (ReNoise, one round). Ask a model of v for eps: the v of one x0 and eps
    differs from t to t, and the mean of two is none."""
    prediction = predict(xt, t.clamp(min=0))
    guess = move(xt, t, t_next, prediction, process)
    prediction_next = predict(guess, t_next.clamp(min=0))
    return move(xt, t, t_next, (prediction + prediction_next) / 2, process)


def stride(t: Tensor, k: int | Tensor, steps: int | Tensor) -> Tensor:
    """The k-th of `steps` equal strides from -1 (clean, k = 0) to t (k = steps), exact at both ends."""
    return (t + 1) * k // steps - 1
