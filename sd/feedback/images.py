"""One image, read from its file."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

# the exceptions of PIL for broken files
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


def read_image(
    path: Path, resolution: int, crop: str = "center", mirror: bool = False, rng=None
) -> tuple[Tensor, list[int]]:
    """Pixels (3, R, R) in [-1, 1]: the shorter side is resized to R, the longer one cropped. Also SDXL's six
    sizes: original height and width, top and left of the crop, target height and width."""
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file).convert("RGB")
    if mirror:
        image = ImageOps.mirror(image)
    width, height = image.size
    scale = resolution / min(width, height)
    wide, high = (max(resolution, round(side * scale)) for side in (width, height))
    slack = (high - resolution, wide - resolution)
    top, left = (int(rng.integers(s + 1)) if crop == "random" else s // 2 for s in slack)
    image = image.resize((wide, high), Image.Resampling.LANCZOS)
    image = image.crop((left, top, left + resolution, top + resolution))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1
    return pixels, [height, width, top, left, resolution, resolution]
