import math

import torch
from scipy.special import stdtrit


def undesirable_rate(samples):
    to_liked = (samples - torch.tensor([0.3, 0.8])).norm(dim=-1)
    to_disliked = (samples - torch.tensor([0.3, 0.6])).norm(dim=-1)
    return (to_disliked < to_liked).float().mean()


def balance(alignment, avoidance):
    if alignment <= 0 or avoidance <= 0:
        return 0.0
    return 2 * alignment * avoidance / (alignment + avoidance)


def half_width(values):
    n = len(values)
    mean = sum(values) / n
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    return stdtrit(n - 1, 0.975) * deviation / math.sqrt(n)
