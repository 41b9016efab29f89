"""Images and captions, encoded once and kept on disk.

Their arrays are memory-mapped, so that memory does not grow with the data.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import DiffusionPipeline
from torch.utils.data import DataLoader, Dataset

from sd import models
from sd.config import Config
from sd.feedback.images import UNREADABLE, read_image, to_unit
from sd.feedback.index import Index
from sd.feedback.store import Arrays, Chunks, fill
from toy.errors import InputError


@dataclass
class Cache:
    """The encoded images and captions of an index; with --no-cached, only the checks of the images."""

    folder: Path  # of the arrays in `images`
    index: Index
    pixels: int  # side of an image
    shape: tuple[int, ...]  # (C, h, w) of its latents
    images: Arrays
    texts: Arrays

    def __getstate__(self) -> dict:
        """For other processes: memory-mapped arrays travel as the names of their files."""

        def names(arrays: Arrays) -> dict:
            return {name: getattr(array, "filename", array) for name, array in arrays.items()}

        return vars(self) | {"images": names(self.images), "texts": names(self.texts)}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        for arrays in (self.images, self.texts):
            for name, array in arrays.items():
                if not isinstance(array, np.ndarray):
                    arrays[name] = np.load(array, mmap_mode="r")

    def usable(self, number: int) -> bool:
        """Whether an image can be read; for one of a pair, whether both can."""
        first, count = (number // 2 * 2, 2) if self.index.pairs else (number, 1)
        return not self.images["unreadable"][first : first + count].any()


def build(
    config: Config, pipeline: DiffusionPipeline, index: Index, folder: Path, accelerator: Accelerator
) -> Cache:
    """Check every image and, unless --no-cached, encode images and captions. What an earlier run encoded with
    the same model, data and settings is used again."""
    size, ratio = resolution(config, pipeline), vae_ratio(pipeline)
    shape = (pipeline.vae.config.latent_channels, size // ratio, size // ratio)
    place = folder / ("images" if config.cached else "checks")
    about = {"data": index.digest, "resolution": size, "flip": config.flip}
    arrays = {"unreadable": ((index.images,), "bool"), "digest": ((index.images,), "S16")}
    if config.cached:
        about["model"] = models.digest(pipeline.vae)
        moments = (index.images, 1 + config.flip, 2 * shape[0], *shape[1:])
        arrays |= {"latents": (moments, "float16"), "sizes": ((index.images, 6), "int32")}
    chunk = min(64, max(1, 2**21 // size**2))  # the larger the images, the fewer fit into memory
    images = fill(place, about, arrays, chunk, partial(_images, config, pipeline, index, size), accelerator)
    if not config.cached:
        return Cache(place, index, size, shape, images, {})

    prefixes = config.run.needs.captions or ("",)
    encoders = [models.digest(encoder) for encoder in models.encoders(pipeline)[1:]]
    about = {"data": index.digest, "model": encoders}
    example = {k: v[0] for k, v in models.encode_text(pipeline, [""]).items()}
    arrays = {k: ((index.captions, len(prefixes), *v.shape), "float16") for k, v in example.items()}
    folder /= "captions-csft" if len(prefixes) > 1 else "captions"
    texts = fill(folder, about, arrays, 32, partial(_captions, pipeline, index, prefixes), accelerator)
    return Cache(place, index, size, shape, images, texts)


def vae_ratio(pipeline: DiffusionPipeline) -> int:
    """Pixels per latent along a side."""
    return 2 ** (len(pipeline.vae.config.block_out_channels) - 1)


def resolution(config: Config, pipeline: DiffusionPipeline) -> int:
    """The side of an image in pixels. Raises InputError for one that the model cannot work on."""
    step = vae_ratio(pipeline) * 2 ** (len(pipeline.unet.config.block_out_channels) - 1)
    if config.resolution % step or config.resolution < 0:
        raise InputError(f"--resolution must be a multiple of {step} for this model, not {config.resolution}")
    return config.resolution or pipeline.unet.config.sample_size * vae_ratio(pipeline)


class _Files(Dataset):
    """Images of an index, decoded in worker processes a chunk at a time."""

    def __init__(self, index: Index, size: int, chunks: Chunks):
        self.index, self.size, self.chunks = index, size, chunks

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, k: int) -> list[tuple | None]:
        """(pixels, sizes, digest) of each image of a chunk, or None for one that cannot be read."""
        images = []
        for number in self.chunks[k]:
            path = self.index.root / self.index.image(number).file
            try:
                content = hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
                pixels, sizes = read_image(path, self.size)
                images.append((to_unit(pixels), sizes, content))
            except UNREADABLE:
                images.append(None)
        return images


def _images(
    config: Config, pipeline: DiffusionPipeline, index: Index, size: int, chunks: Chunks
) -> Iterator[Arrays]:
    blank = torch.zeros(3, size, size), [0] * 6, ""
    for images in DataLoader(_Files(index, size, chunks), None, num_workers=config.workers):
        pixels, sizes, digests = zip(*(image or blank for image in images), strict=True)
        unreadable = [image is None for image in images]
        values = {"unreadable": np.array(unreadable), "digest": np.array(digests, "S16")}
        if config.cached:
            pixels = torch.stack(pixels).to(pipeline.vae.device)
            views = [pixels, pixels.flip(-1)] if config.flip else [pixels]
            latents = [models.encode_images(pipeline, view).cpu() for view in views]
            values |= {"latents": torch.stack(latents, 1).numpy(), "sizes": np.array(sizes)}
        yield values


def _captions(
    pipeline: DiffusionPipeline, index: Index, prefixes: tuple[str, ...], chunks: Chunks
) -> Iterator[Arrays]:
    for numbers in chunks:
        texts = [prefix + text if text else "" for text in map(index.caption, numbers) for prefix in prefixes]
        condition = models.encode_text(pipeline, texts)
        yield {k: v.unflatten(0, (-1, len(prefixes))).cpu().numpy() for k, v in condition.items()}
