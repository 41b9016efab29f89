"""What several tests share: a small pretrained model, made once."""

import pytest
import torch

from toy import data
from toy.model import Denoiser
from toy.train import last, pretrain


@pytest.fixture(autouse=True)
def two_threads():
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def world() -> data.World:
    return data.figure6()


@pytest.fixture(scope="session")
def points(world) -> data.Feedback:
    return data.feedback(world, 1000)


@pytest.fixture(scope="session")
def pretrained(world) -> Denoiser:
    """Trained briefly: enough to start from, not to judge."""
    return last(pretrain(world.base(5000, data.generator("test", 0)), steps=200)).policy
