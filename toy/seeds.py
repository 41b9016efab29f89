"""Where random numbers come from: a generator for each purpose and seed."""

import zlib

import torch


def generator(purpose: str, seed: int) -> torch.Generator:
    """A generator for one purpose and seed: data and noise of the same seed must not repeat each
    other's numbers, as they would if both were seeded with the same integer."""
    return torch.Generator().manual_seed(zlib.crc32(f"{purpose} {seed}".encode()))
