"""Adam, against torch.optim.Adam, and holding runs."""

import pytest
import torch

from toy.optimizer import Adam


def parameters():
    g = torch.Generator().manual_seed(0)
    return [torch.randn(3, 4, generator=g).requires_grad_(), torch.randn(3, 2, generator=g).requires_grad_()]


@pytest.mark.filterwarnings("ignore")
def test_the_steps_are_torchs():
    mine, theirs = parameters(), parameters()
    adam, oracle = Adam(mine), torch.optim.Adam(theirs)
    for step in range(20):
        lr = 0.1 / (step + 1)
        for group in (mine, theirs):
            sum((p**4).sum() for p in group).backward()
        adam.step(lr)
        oracle.param_groups[0]["lr"] = lr
        oracle.step()
        oracle.zero_grad()
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_a_held_run_does_not_move_though_its_gradient_is_nan():
    ours = parameters()
    adam = Adam(ours)
    for step in range(5):
        before = [p.detach().clone() for p in ours]
        sum((p**2).sum() for p in ours).backward()
        if step >= 2:  # by then there is momentum
            for p in ours:
                p.grad[1] = float("nan")
            adam.hold([1])
        adam.step(0.1)
        for p, old in zip(ours, before, strict=True):
            assert torch.equal(p[1], old[1]) == (step >= 2)
            assert not torch.equal(p[0], old[0]) and p.isfinite().all()
