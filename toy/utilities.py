"""Utility functions U(x): how much a gain or a loss of x is worth to a person.

In Diffusion-KTO x = s * beta * (g - z0): how far an example's implicit reward g lies above the
reference point z0, with s = +1 for a liked example and -1 for a disliked one. Training maximises
the mean of U(x), so each example's gradient is weighed by the slope U'(x): the slope is what a
utility *does*. A utility takes one tensor and judges every entry alone, (B,) -> (B,).

Source of the first three: Li et al. 2024 (Diffusion-KTO), Figures 3 and 9.
"""

import importlib.util
import inspect
import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from toy.errors import InputError

Utility = Callable[[Tensor], Tensor]


def kahneman_tversky(x: Tensor) -> Tensor:
    """U(x) = sigmoid(x), the paper's choice. Slope U(1 - U): largest at 0, so examples that are
    already clearly won or clearly lost stop pulling (concave for gains, convex for losses)."""
    return torch.sigmoid(x)


def loss_averse(x: Tensor) -> Tensor:
    """U(x) = log sigmoid(x), concave; the one inside DPO. Slope sigmoid(-x): the worse the loss,
    the harder it pulls (up to 1), and gains count for less and less."""
    return F.logsigmoid(x)


def risk_seeking(x: Tensor) -> Tensor:
    """U(x) = -log sigmoid(-x), convex, as the paper prints it. Slope sigmoid(x): what is won already
    pulls hardest, what is lost no longer pulls. Pushing disliked examples away is won without end, and
    the liked ones that are harmed by it fall silent: it diverges."""
    return -F.logsigmoid(-x)


def risk_seeking_bounded(x: Tensor) -> Tensor:
    """The same U with the sign outside: the value is s * U(beta (g - z0)). A disliked example's is
    then -U(-x) = log sigmoid(x), the loss-averse one, so pushing it away has an upper bound: slope
    sigmoid(x) for liked examples, sigmoid(-x) for disliked ones. It trains."""
    return -F.logsigmoid(-x)


risk_seeking_bounded.sign_outside = True  # read by toy.losses.diffusion_kto


def linear(x: Tensor) -> Tensor:
    """U(x) = x, risk-neutral. Slope 1 everywhere: every example pulls alike, forever, so pushing
    disliked ones away has no end either; liked ones pull back, for a while."""
    return x


def prospect_theory(x: Tensor) -> Tensor:
    """U(x) = x^0.88 for gains, -2.25 (-x)^0.88 for losses (Tversky & Kahneman 1992). Slope: losses
    weigh 2.25 times as much as gains, everywhere. The true slope is infinite at x = 0, where
    training starts; |x| is shifted by 0.01 to make it 1.53 there (0.88 * 0.01^-0.12)."""
    shift, power = 0.01, 0.88

    def value(size: Tensor) -> Tensor:
        return (size + shift) ** power - shift**power

    # clamp: the branch that `where` drops must not produce NaN, which would survive in the gradient
    return torch.where(x >= 0, value(x.clamp(min=0)), -2.25 * value((-x).clamp(min=0)))


UTILITIES: dict[str, Utility] = {
    f.__name__: f
    for f in (kahneman_tversky, loss_averse, risk_seeking, risk_seeking_bounded, linear, prospect_theory)
}


def slope(utility: Utility, x: Tensor) -> Tensor:
    """U'(x) by automatic differentiation, same shape as x. No gradient flows through the result."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(utility(x).sum(), x)[0]


def load_utility(spec: str) -> Utility:
    """A built-in utility by its name, or the function `name` of the user's `file.py:name`.

    A user's function is checked first (see check_utility). Raises InputError in one line.
    """
    if spec in UTILITIES:
        return UTILITIES[spec]
    file, colon, name = spec.rpartition(":")
    if not colon or not file.endswith(".py"):
        raise InputError(f"unknown utility '{spec}': use file.py:name or one of {', '.join(UTILITIES)}")
    if not os.path.isfile(file):
        raise InputError(f"no file {file} (asked for as utility '{spec}')")
    module_spec = importlib.util.spec_from_file_location(f"utility {Path(file).stem}", file)
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module  # dataclasses look for their module there
    with _blame(f"{file} does not import"):
        module_spec.loader.exec_module(module)
        utility = getattr(module, name, None)
    if not callable(utility):
        others = ", ".join(k for k, v in vars(module).items() if inspect.isfunction(v)) or "none"
        raise InputError(f"{file} has no function '{name}'; its functions: {others}")
    check_utility(utility, spec)
    return utility


def check_utility(utility: Utility, name: str) -> list[str]:
    """Try a utility on x in [-50, 50] before any training depends on it; returns warnings.

    Raises InputError if it fails, returns no tensor, another shape or NaN, changes x, prints, depends on
    more than x (in some 30 calls) or mixes the examples of a batch, or has no usable slope at x = 0, where
    training starts (policy = reference, so g = 0). Only os._exit() and endless loops cannot be caught.
    """
    random, output = torch.get_rng_state(), io.StringIO()
    with _blame(f"utility {name} fails on a tensor, use torch functions only"), redirect_stdout(output):
        warnings = _check(utility, name)
    if output.getvalue():
        line = output.getvalue().strip().partition("\n")[0][:60]
        raise InputError(f"utility {name} prints '{line}': take that out, it would do so in every step")
    if not torch.equal(random, torch.get_rng_state()):
        raise InputError(f"utility {name} draws or seeds random numbers: it may depend on x only")
    return warnings


def _check(utility: Utility, name: str) -> list[str]:
    x = (torch.arange(-500, 501) / 10).requires_grad_()  # entry 500 is exactly 0
    before = x.detach().clone()
    end = torch.tensor([-1000.0, 1000.0], requires_grad=True)
    flipped = x.detach().flip(0)  # metrics, too, ask without a gradient
    u, turned, part, alone, far = map(utility, (x, flipped, x[:500], x[500:501], end))
    if not torch.equal(x, before):
        raise InputError(f"utility {name} changes x itself: return a new tensor")
    if not isinstance(u, Tensor) or not u.is_floating_point():
        kind = u.dtype if isinstance(u, Tensor) else type(u).__name__
        raise InputError(f"utility {name} returns {kind}, not a tensor of floats: keep to torch functions")
    if u.shape != x.shape or alone.shape != (1,):
        raise InputError(
            f"utility {name} turns shape {tuple(x.shape)} into {tuple(u.shape)}: one value per "
            "example, without mean() or sum()"
        )
    if not u.isfinite().all():
        bad = x[~u.isfinite()][0].item()
        raise InputError(f"utility {name} is not finite at x = {bad:g}: x in [-50, 50] does occur")
    again, seconds = _call_often(utility, x)
    if not all(torch.equal(u, value) for value in again):
        raise InputError(f"utility {name} has other values the next time: it may depend on x only")
    for value, expected in ((part, u[:500]), (turned, u.flip(0))):
        if not torch.allclose(value, expected, rtol=1e-4, atol=1e-5):
            raise InputError(f"utility {name} mixes examples: U(x[0]) changes with the rest of the batch")
    if not u.requires_grad:
        raise InputError(f"utility {name} has no gradient: no .item(), .detach(), numpy or comparison")
    slopes = torch.autograd.grad(u.sum(), x)[0]
    if not slopes.isfinite().all():
        bad = x[~slopes.isfinite()][0].item()
        raise InputError(f"utility {name} has no finite slope at x = {bad:g}")
    if slopes[500] == 0:
        raise InputError(f"utility {name} has slope 0 at x = 0, where training starts: it would never move")
    warnings = []
    if (slopes < 0).any():
        low, high = x[slopes < 0].min().item(), x[slopes < 0].max().item()
        warnings.append(f"{name} has a negative slope within x = {low:g} to {high:g}: it pulls the wrong way")
    if not (far.isfinite().all() and torch.autograd.grad(far.sum(), end)[0].isfinite().all()):
        warnings.append(f"{name} is not finite at x = -1000 or 1000: a run that gets there is stopped")
    times = seconds / _call_often(torch.sigmoid, x)[1]
    if times > 100:
        slow = f"{name} is {times:.0f} times as slow as the sigmoid: it adds at least"
        warnings.append(f"{slow} {seconds:.2g} s to each step on 1000 examples")
    return warnings


def _call_often(utility: Utility, x: Tensor) -> tuple[list[Tensor], float]:
    """The values of up to 30 calls, as many as a second allows, and the seconds of the fastest."""
    values, moments = [], [time.perf_counter()]
    while len(values) < 30 and moments[-1] - moments[0] < 1:
        values.append(utility(x))
        moments.append(time.perf_counter())
    return values, min(after - before for before, after in pairwise(moments))


@contextmanager
def _blame(text: str) -> Iterator[None]:
    """A context in which whatever the user's code raises becomes an InputError, sys.exit() too."""
    try:
        yield
    except (InputError, KeyboardInterrupt):
        raise
    except BaseException as error:
        what = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise InputError(f"{text}: {what}") from error
