"""Diffusion, as functions of a noise schedule. They serve 2-D points and image latents alike.

A schedule is data: abar, shape (T,), the share of signal variance left at each timestep, so that
xt = sqrt(abar[t]) x0 + sqrt(1 - abar[t]) eps. Timestep -1 means clean data, abar = 1. `x` is
(B, ...) with t of shape (B,), or (runs, B, ...) with t of shape (runs, B), or t is a single number.
A model is any function predict_eps(xt, t) -> eps, same shape as xt.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

PredictEps = Callable[[Tensor, Tensor], Tensor]


def linear_schedule(timesteps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Tensor:
    """abar (T,) float32 of the linear beta schedule. Ho et al. 2020, section 4."""
    beta = torch.linspace(first, last, timesteps, dtype=torch.float64)
    return torch.cumprod(1 - beta, 0).float()


def scaled_linear_schedule(timesteps: int = 1000, first: float = 0.00085, last: float = 0.012) -> Tensor:
    """abar (T,) float32 of Stable Diffusion's schedule: sqrt(beta) is linear. Rombach et al. 2022."""
    beta = torch.linspace(first**0.5, last**0.5, timesteps, dtype=torch.float64) ** 2
    return torch.cumprod(1 - beta, 0).float()


def add_noise(x0: Tensor, t: Tensor, eps: Tensor, abar: Tensor) -> Tensor:
    """xt = sqrt(abar) x0 + sqrt(1 - abar) eps: the forward process, in one jump from x0 to t."""
    a = _signal(abar, t, x0)
    return a.sqrt() * x0 + (1 - a).sqrt() * eps


def velocity(x0: Tensor, t: Tensor, eps: Tensor, abar: Tensor) -> Tensor:
    """The v target, v = sqrt(abar) eps - sqrt(1 - abar) x0. Salimans & Ho 2022.

    ||v_hat - v||^2 = ||eps_hat - eps||^2 / abar, so a beta tuned for eps does not carry over.
    """
    a = _signal(abar, t, x0)
    return a.sqrt() * eps - (1 - a).sqrt() * x0


def eps_from_velocity(v: Tensor, t: Tensor, xt: Tensor, abar: Tensor) -> Tensor:
    """The noise that a predicted v stands for: eps = sqrt(abar) v + sqrt(1 - abar) xt."""
    a = _signal(abar, t, xt)
    return a.sqrt() * v + (1 - a).sqrt() * xt


def eps_between(xt: Tensor, t: Tensor, x0: Tensor, abar: Tensor) -> Tensor:
    """The noise that leads from x0 to xt, (xt - sqrt(abar) x0) / sqrt(1 - abar): SmPO's target tau."""
    a = _signal(abar, t, xt)
    return (xt - a.sqrt() * x0) / (1 - a).sqrt()


def move(
    xt: Tensor,
    t: Tensor,
    t_next: Tensor,
    eps: Tensor,
    abar: Tensor,
    eta: float = 0.0,
    noise: Tensor | None = None,
) -> Tensor:
    """Move xt from timestep t to t_next along the predicted eps, in either direction.

    eta = 0 is a DDIM step (towards t_next < t) or its inversion (t_next > t); eta = 1 with fresh
    noise is an ancestral DDPM step. Song et al. 2021 (DDIM), eqs. 12 and 16.
    """
    a, a_next = _signal(abar, t, xt), _signal(abar, t_next, xt)
    x0 = (xt - (1 - a).sqrt() * eps) / a.sqrt()
    if eta == 0:
        return a_next.sqrt() * x0 + (1 - a_next).sqrt() * eps
    variance = eta**2 * (1 - a_next) / (1 - a) * (1 - a / a_next)
    return a_next.sqrt() * x0 + (1 - a_next - variance).sqrt() * eps + variance.sqrt() * noise


def sample(
    predict_eps: PredictEps,
    xt: Tensor,
    abar: Tensor,
    steps: int = 50,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Walk pure noise xt down to clean data in equal strides of t; yields x after every step.

    eta = 0 is DDIM (no randomness), eta = 1 with steps = len(abar) is DDPM. The last x yielded is
    the sample. Runs without gradient.
    """
    last = torch.tensor(len(abar) - 1, device=xt.device)
    for k in range(steps, 0, -1):
        t, t_next = stride(last, k, steps), stride(last, k - 1, steps)
        with torch.no_grad():
            eps = predict_eps(xt, t)
            noise = torch.randn(xt.shape, generator=generator, dtype=xt.dtype).to(xt) if eta else None
            xt = move(xt, t, t_next, eps, abar, eta, noise)
        yield xt


@torch.no_grad()
def invert(predict_eps: PredictEps, x0: Tensor, t: Tensor, abar: Tensor, steps: int = 9) -> Tensor:
    """Walk clean x0 up to each example's own t, against the sampler: the xt that leads back to x0.

    The strides of each example are equal, and end exactly at its t, (B,). Makes 2 * steps model
    calls, without gradient. Lu et al. 2025 (SmPO).
    """
    xt = x0
    for k in range(steps):
        xt = move_up(predict_eps, xt, stride(t, k, steps), stride(t, k + 1, steps), abar)
    return xt


def move_up(predict_eps: PredictEps, xt: Tensor, t: Tensor, t_next: Tensor, abar: Tensor) -> Tensor:
    """One stride of the inversion: asks the model at its start, guesses its end, asks again there and
    goes with the mean of both (ReNoise, one round)."""
    eps = predict_eps(xt, t.clamp(min=0))
    guess = move(xt, t, t_next, eps, abar)
    eps_next = predict_eps(guess, t_next.clamp(min=0))
    return move(xt, t, t_next, (eps + eps_next) / 2, abar)


def stride(t: Tensor, k: int | Tensor, steps: int | Tensor) -> Tensor:
    """The k-th of `steps` equal strides from -1 (clean, k = 0) to t (k = steps), exact at both ends."""
    return (t + 1) * k // steps - 1


def _signal(abar: Tensor, t: Tensor, x: Tensor) -> Tensor:
    """abar[t], 1 for t = -1, shaped to broadcast over the dimensions of each example in x. In float32
    or better whatever x is: half precision would round 1 - abar to nothing at small t."""
    abar = abar.to(x.device, torch.promote_types(x.dtype, torch.float32))
    a = torch.where(t < 0, 1.0, abar.take(t.clamp(min=0)))  # abar[t] would read a single t back from a GPU
    return a.reshape(a.shape + (1,) * (x.ndim - a.ndim)) if a.ndim else a
