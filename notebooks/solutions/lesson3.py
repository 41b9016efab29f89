import torch


def denoising_error(predicted, eps):
    return (predicted - eps).square().mean(-1)


def reference_point(policy_error, reference_error):
    return (reference_error - policy_error).mean().clamp(min=0).detach()


def kto_loss(policy_error, reference_error, desirable, beta, z0):
    g = reference_error - policy_error
    s = torch.where(desirable, 1.0, -1.0)
    return (1 - torch.sigmoid(s * beta * (g - z0))).mean()
