"""Diffusion-KTO in one loop: one model, one run, nothing hidden. Read this first, then change it.

A network learns to guess the noise in noisy points (pretrain). Then it becomes the policy and learns
from likes and dislikes, beside a frozen copy of itself, the reference (align). toy/train.py does the
same for many runs at once. `python -m toy.plain` runs it, in seconds.

B is the size of a batch: x0, xt and eps are (B, 2), t and desirable are (B,).
"""

import copy

import torch
from torch import nn

from toy import data
from toy.diffusion import add_noise, linear_schedule, sample, variance_preserving
from toy.utilities import kahneman_tversky  # the sigmoid

PROCESS = variance_preserving(linear_schedule())  # the shares of signal and noise at each of 1000 timesteps


class Denoiser(nn.Module):
    """Guesses the noise eps in noisy points xt at timesteps t."""

    def __init__(self, width=256):
        super().__init__()
        layers = nn.Linear(10, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2)
        self.layers = nn.Sequential(*layers)

    def forward(self, xt, t):
        # the time as four sines and four cosines, so that the network can tell timesteps apart
        angle = torch.pi * t[:, None] / (len(PROCESS) - 1) * torch.tensor([1, 2, 4, 8])
        return self.layers(torch.cat([xt, angle.sin(), angle.cos()], 1))


def error(model, xt, t, eps):
    """How far off the guess of the noise is: one number for each example, (B,)."""
    return (model(xt, t) - eps).square().mean(1)


def kto_loss(policy, reference, x0, desirable, t, eps, utility, beta):
    """The loss of Diffusion-KTO on a batch, one number (Li et al. 2024)."""
    xt = add_noise(x0, t, eps, PROCESS)  # both models see the same noisy points
    with torch.no_grad():
        reference_error = error(reference, xt, t, eps)
    g = reference_error - error(policy, xt, t, eps)  # reward: how much better the policy guesses
    z0 = g.mean().clamp(min=0).detach()  # reference point: the batch's mean reward, never below 0
    s = torch.where(desirable, 1.0, -1.0)  # sign: a liked example gains above z0, a disliked one below
    x = s * beta * (g - z0)  # what each example gained; it lost if x is negative
    return (1 - utility(x)).mean()  # the smaller the loss, the larger the mean utility


def align(policy, feedback, utility=kahneman_tversky, beta=4.0, gamma=0.8, steps=250, batch=128, lr=1e-3):
    """Train the policy on likes and dislikes; yields the loss of each step, which starts at 1 - U(0).

    beta: the larger it is, the smaller a gain that saturates the utility. gamma: the share of liked
    examples in a batch, whatever their share in the feedback.
    """
    reference = copy.deepcopy(policy).requires_grad_(False)
    liked, disliked = feedback.x0[feedback.desirable], feedback.x0[~feedback.desirable]
    optimizer = torch.optim.Adam(policy.parameters())
    for step in range(steps):
        desirable = torch.rand(batch) < gamma
        some_liked = liked[torch.randint(len(liked), (batch,))]
        some_disliked = disliked[torch.randint(len(disliked), (batch,))]
        x0 = torch.where(desirable[:, None], some_liked, some_disliked)
        t, eps = torch.randint(len(PROCESS), (batch,)), torch.randn(batch, 2)
        loss = kto_loss(policy, reference, x0, desirable, t, eps, utility, beta)
        update(optimizer, loss, lr * (1 - step / steps))
        yield loss.item()


def pretrain(model, points, steps=1000, batch=256, lr=2e-3):
    """Train a model on points (n, 2) of mean 0 and standard deviation 1; yields the loss of each step."""
    optimizer = torch.optim.Adam(model.parameters())
    for step in range(steps):
        x0 = points[torch.randint(len(points), (batch,))]
        t, eps = torch.randint(len(PROCESS), (batch,)), torch.randn(batch, 2)
        loss = error(model, add_noise(x0, t, eps, PROCESS), t, eps).mean()
        update(optimizer, loss, lr * (1 - step / steps))
        yield loss.item()


def update(optimizer, loss, lr):
    """One step of the optimizer."""
    optimizer.param_groups[0]["lr"] = lr
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def draw(model, n=3500):
    """Samples (n, 2): pure noise, cleaned in 20 strides, of which the last one counts."""
    *_, x0 = sample(lambda xt, t: model(xt, t.expand(n)), torch.randn(n, 2), PROCESS, steps=20)
    return x0


def main():
    torch.manual_seed(0)
    world = data.figure6()  # people like points around (0.3, 0.8) and dislike those around (0.3, 0.6)
    points, feedback = world.base(10_000, torch.default_generator), data.feedback(world)
    center = points.mean(0)
    scale = (points - center).std()
    feedback = feedback._replace(x0=(feedback.x0 - center) / scale)
    policy = Denoiser()

    def report(title, losses):
        samples = draw(policy) * scale + center
        liked, disliked = world.is_desirable(samples).float(), world.is_undesirable(samples).float()
        print(f"{title:10}  loss {losses[0]:.3f} to {losses[-1]:.3f}, ", end="")
        print(f"{liked.mean():.1%} of samples liked, {disliked.mean():.1%} disliked")

    report("pretrained", list(pretrain(policy, (points - center) / scale)))
    report("aligned", list(align(policy, feedback)))


if __name__ == "__main__":
    main()
