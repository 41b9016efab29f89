"""The GPU memory of a training step, counted without a GPU and without computing anything.

The step runs on fake tensors, which have shapes and types but no content. What is counted is what is alive at
once: weights, gradients, moments, and what the backward pass needs. A real device adds about 1 GB for its
libraries, and a little for fragmentation.
"""

import weakref
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sd import models
from sd.config import Config
from sd.families import family
from sd.trainer import make_optimizer
from toy.diffusion import flow


class Alive(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive, and the most there ever were."""

    def __init__(self):
        super().__init__()
        self.bytes, self.most, self.storages = 0, 0, weakref.WeakSet()

    def add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage not in self.storages:
            self.storages.add(storage)
            self.bytes += storage.nbytes()
            self.most = max(self.most, self.bytes)
            weakref.finalize(storage, self.remove, storage.nbytes())

    def remove(self, size: int) -> None:
        self.bytes -= size

    def __torch_dispatch__(self, operation, types, args=(), options=None):
        out = operation(*args, **(options or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                self.add(value)
        return out


def count_memory(denoiser: nn.Module, config: Config, side: int) -> int:
    """The most bytes that a step of a denoiser on the meta device holds at once, for latents with sides of
    this length: its second step, which finds the moments there."""
    kind, channels = family(denoiser), denoiser.config.in_channels
    with torch.device("meta"):
        policy, reference = models.policy_and_reference(denoiser.requires_grad_(False), config)
    images = config.batch * (1 + config.pairs)
    lower = config.precision != "fp32"
    with FakeTensorMode():
        process = flow()  # or diffusion: neither takes memory
        weights = [weight for model in filter(None, (policy, reference)) for weight in _fake(model)]
        trained = [weight for weight in weights if weight.requires_grad]
        optimizer = make_optimizer(config, tuple(trained))
        shapes = kind.condition_shapes(denoiser) | {"sizes": (6,)}
        xt, t = torch.empty(images, channels, side, side), torch.zeros(images, dtype=torch.long)
        condition = {name: torch.empty(images, *shape) for name, shape in shapes.items()}
        with Alive() as alive:
            for weight in weights:
                alive.add(weight)
            if config.ema:
                alive.bytes += sum(4 * weight.numel() for weight in trained)
            for _ in range(2):
                alive.most = alive.bytes
                for _ in range(min(config.accumulate, 2)):  # the second has the gradients of the first
                    with torch.autocast("cpu", models.DTYPES[config.precision], enabled=lower):
                        error = kind.predict(policy, xt, t, condition, process).square().mean()
                    with (
                        torch.autocast("cpu", models.DTYPES[config.precision], enabled=lower),
                        torch.no_grad(),
                    ):
                        kind.predict(reference or policy, xt, t, condition, process)
                    error.backward()
                optimizer.step()
                optimizer.zero_grad()
    return alive.most


def _fake(model: nn.Module) -> Iterator[Tensor]:
    """Replace the weights of a model by fake ones, and yield those."""
    for module in model.modules():
        for name, buffer in module._buffers.items():
            module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
        for name, weight in module._parameters.items():
            if weight is not None:
                fake = torch.empty(weight.shape, dtype=weight.dtype)
                module._parameters[name] = nn.Parameter(fake, weight.requires_grad)
                yield module._parameters[name]
