import torch


def cautious(x):
    return torch.where(x >= 0, 1.0, 2.0) * torch.tanh(x)
