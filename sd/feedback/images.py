"""One image, read from its file."""

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

T = Image.Transpose
TURNS = {2: T.FLIP_LEFT_RIGHT, 3: T.ROTATE_180, 4: T.FLIP_TOP_BOTTOM, 5: T.TRANSPOSE}
TURNS |= {6: T.ROTATE_270, 7: T.TRANSVERSE, 8: T.ROTATE_90}  # by what the EXIF tag Orientation says


class UnreadableImage(ValueError):
    """The file is damaged, no image, or of a kind whose colours are not defined."""


UNREADABLE = (OSError, UnreadableImage)


def open_image(path: Path) -> Image.Image:
    """The image of a file, upright and in RGB, white where it is transparent. Gray values of more than 8 bits
    are scaled: integers from 0 to 65535, floats from 0 to 1. Raises UnreadableImage, also if one is outside.
    """
    try:
        with warnings.catch_warnings(), open(path, "rb") as file:
            warnings.simplefilter("ignore")  # about size and metadata
            with Image.open(file) as image:  # given a path, PIL 13 garbles a TIFF that is to be turned
                image.load()
                turn = _turn(image)
                return _rgb(image) if turn is None else _rgb(image).transpose(turn)
    except Exception as error:  # PIL raises exceptions of any kind for damaged files
        reason = "unknown format" if isinstance(error, UnidentifiedImageError) else error
        raise UnreadableImage(f"{path} cannot be read: {reason}") from error


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # damaged EXIF: the image stays as it is stored
        return None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode[0] in "IF":  # PIL would cut values off at 255
        values, white = np.asarray(image, np.float32), 1 if image.mode == "F" else 65535
        if not (values.min() >= 0 and values.max() <= white):  # also if one is nan
            raise ValueError(f"gray values must be between 0 and {white}")
        image = Image.fromarray((values * 255 / white).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def read_image(
    path: Path, resolution: int, crop: str = "center", mirror: bool = False, rng=None
) -> tuple[Tensor, list[int]]:
    """Pixels (3, R, R), uint8: the shorter side is resized to R, the longer one cropped. Also SDXL's six
    sizes: original height and width, top and left of the crop, target height and width."""
    image = open_image(path)
    if mirror:
        image = ImageOps.mirror(image)
    width, height = image.size
    scale = resolution / min(width, height)
    wide, high = (max(resolution, round(side * scale)) for side in (width, height))
    slack = (high - resolution, wide - resolution)
    top, left = (int(rng.integers(s + 1)) if crop == "random" else s // 2 for s in slack)
    # only what the crop shows is resized, because a thin image would become a huge one
    x, y = width / wide, height / high  # pixels of the file per pixel of the result
    box = (left * x, top * y, (left + resolution) * x, (top + resolution) * y)
    image = image.resize((resolution, resolution), Image.Resampling.LANCZOS, box)
    sizes = [height, width, top, left, resolution, resolution]
    return torch.from_numpy(np.array(image)).permute(2, 0, 1), sizes


def to_unit(pixels: Tensor) -> Tensor:
    """Pixels of uint8 as floats in [-1, 1]."""
    return pixels.float() / 127.5 - 1
