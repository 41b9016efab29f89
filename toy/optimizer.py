"""Adam for an ensemble, whose runs can be held one by one."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.adam import adam


class Adam:
    """torch's fused Adam, by its functional form. torch.optim.Adam, the same numbers, imports torch's
    compiler when it is made: a second, where a whole figure may take five."""

    def __init__(self, parameters: Iterable[Tensor]):
        self.parameters = list(parameters)
        self.mean = [torch.zeros_like(p) for p in self.parameters]
        self.square = [torch.zeros_like(p) for p in self.parameters]
        self.steps = [torch.zeros((), device=p.device) for p in self.parameters]

    def hold(self, runs: list[int]) -> None:
        """Make the next step leave these runs where they are: no gradient, no momentum."""
        for parameter, mean in zip(self.parameters, self.mean, strict=True):
            parameter.grad[runs] = 0
            mean[runs] = 0

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """One step, after which the gradients are gone."""
        gradients = [p.grad for p in self.parameters]
        state = (self.mean, self.square, [], self.steps)
        settings = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
        adam(self.parameters, gradients, *state, fused=True, amsgrad=False, lr=lr, maximize=False, **settings)
        for parameter in self.parameters:
            parameter.grad = None
