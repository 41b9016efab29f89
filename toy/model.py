"""The denoiser of the 2-D laboratory: a small MLP, or many of them side by side."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from toy.diffusion import Process, flow, linear_schedule, variance_preserving

WIDTH = 256  # hidden units; two wide layers suit a CPU better than many narrow ones
OUTPUTS = 16  # of which two are used: a matrix product two columns wide takes three times as long
FREQUENCIES = (1, 2, 4, 8)  # of the sines and cosines that tell the network the time

DIFFUSION = variance_preserving(linear_schedule())
PROCESSES = {"diffusion": DIFFUSION, "flow": flow()}


class Denoiser(nn.Module):
    """What its process has it predict: independent MLPs, one per seed, in one batched product.

    A condition of +1 or -1 stands for the caption "good" or "bad" of CSFT, 0 for no caption; its
    weights start at 0, so captions mean nothing until somebody trains with them. Like the VAE of
    Stable Diffusion it also keeps the units of its data: encode() maps points to mean 0 and
    standard deviation 1, where a noise schedule made for such data belongs; decode() maps back.
    And like a pipeline with its scheduler, it keeps the process that it was trained with.
    """

    def __init__(self, seeds: Sequence[int] = (0,), process: Process = DIFFUSION):
        super().__init__()
        self.process = process
        angle = torch.linspace(0, torch.pi, len(process))[:, None] * torch.tensor(FREQUENCIES)
        self.register_buffer("time", torch.cat([angle.sin(), angle.cos()], 1))  # (T, 8)
        self.register_buffer("center", torch.zeros(len(seeds), 1, 2))
        self.register_buffer("scale", torch.ones(len(seeds), 1, 1))
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]

        def layer(fan_in: int, fan_out: int) -> tuple[nn.Parameter, nn.Parameter]:
            weight = torch.empty(len(seeds), fan_in, fan_out)
            for one, generator in zip(weight, generators, strict=True):
                one.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
            return nn.Parameter(weight), nn.Parameter(torch.zeros(len(seeds), 1, fan_out))

        inputs = 2 + self.time.shape[1] + 1
        self.weight1, self.bias1 = layer(inputs, WIDTH)
        self.weight2, self.bias2 = layer(WIDTH, WIDTH)
        self.weight3, self.bias3 = layer(WIDTH, OUTPUTS)
        with torch.no_grad():
            self.weight1[:, -1] = 0  # the condition's

    @property
    def runs(self) -> int:
        return len(self.weight1)

    def forward(self, xt: Tensor, t: Tensor, condition: Tensor | float = 0.0) -> Tensor:
        """xt (runs, B, 2), t and condition (runs, B) or one number for all -> the prediction (runs, B, 2)."""
        time = self.time[t].expand(*xt.shape[:-1], -1)
        condition = torch.as_tensor(condition, dtype=xt.dtype).expand(xt.shape[:-1])
        h = torch.cat([xt, time, condition[..., None]], -1)
        h = torch.baddbmm(self.bias1, h, self.weight1).relu_()
        h = torch.baddbmm(self.bias2, h, self.weight2).relu_()
        return torch.baddbmm(self.bias3, h, self.weight3)[..., :2]

    def encode(self, points: Tensor) -> Tensor:
        """From the data's units to the model's, (runs, n, 2): mean 0, standard deviation 1."""
        return (points - self.center) / self.scale

    def decode(self, x: Tensor) -> Tensor:
        """From the model's units back to the data's, (runs, n, 2)."""
        return x * self.scale + self.center

    def select(self, runs: list[int]) -> "Denoiser":
        """A new ensemble of copies of the given runs; naming one twice copies it twice."""
        state = {k: v if k == "time" else v[runs] for k, v in self.state_dict().items()}
        return _filled(state, self.process)


def stack(models: list[Denoiser]) -> Denoiser:
    """One ensemble of copies of the runs of several models."""
    states = [model.state_dict() for model in models]
    state = {k: v if k == "time" else torch.cat([s[k] for s in states]) for k, v in states[0].items()}
    return _filled(state, models[0].process)


def _filled(state: dict[str, Tensor], process: Process) -> Denoiser:
    """A model that takes these tensors for its own."""
    model = Denoiser((), process)
    for name, parameter in model.named_parameters():
        parameter.data = state[name]
    for name, _ in list(model.named_buffers()):
        setattr(model, name, state[name])
    return model
