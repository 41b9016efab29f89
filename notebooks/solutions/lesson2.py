import torch


def loss_aversion(x):
    return torch.where(x >= 0, x, 2.25 * x)


def slope(utility, x):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(utility(x).sum(), x)[0]
