"""Scores of images under their prompts. A scorer is called with images and prompts, and says how good each is.

redness and following need nothing; the others read a local folder: clip=DIR, pickscore=DIR, aesthetic=DIR,
hpsv2=DIR, imagereward=DIR.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sd import shapes
from toy.errors import InputError


class Redness:
    """The mean of the red channel minus the mean of all channels (Li et al. 2024, Figure 7)."""

    name, truncated = "redness", 0

    def __call__(self, images: list[Image.Image], prompts: list[str]) -> Tensor:
        return torch.cat([shapes.redness(_pixels(image)) for image in images])


class Following:
    """1 where an image shows all that its caption of sd.shapes says, else 0."""

    name, truncated = "following", 0

    def __call__(self, images: list[Image.Image], prompts: list[str]) -> Tensor:
        for prompt in prompts:
            if prompt not in shapes.BY_CAPTION:
                raise InputError(
                    f"the scorer 'following' knows the captions of sd.shapes only, such as "
                    f"'{shapes.SCENES[0].caption}', not '{prompt}'"
                )
        side = (shapes.PIXELS, shapes.PIXELS)
        pixels = [_pixels(image if image.size == side else image.resize(side, Image.BOX)) for image in images]
        return shapes.follows(torch.cat(pixels), prompts).float()


SCORERS = {scorer.name: scorer for scorer in (Redness, Following)}


def load(spec: str, device: str = "cpu"):
    """The scorer that a `name` or `name=DIR` asks for. Raises InputError for an unknown name, for weights
    that are absent, and for those of another architecture."""
    name, _, folder = spec.partition("=")
    if name not in SCORERS:
        raise InputError(f"unknown scorer '{name}'; there are {', '.join(SCORERS)}")
    return SCORERS[name]()


def _pixels(image: Image.Image) -> Tensor:
    """(1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
