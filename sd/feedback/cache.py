"""Images and captions, encoded once and kept on disk for training.

Arrays are memory-mapped, so that memory does not grow with the data.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import DiffusionPipeline
from torch.utils.data import DataLoader, Dataset

from sd import models
from sd.config import Config
from sd.feedback.images import UNREADABLE, read_image
from sd.feedback.index import Index
from sd.feedback.store import Arrays, Chunks, fill
from toy.errors import InputError


@dataclass
class Cache:
    """The encoded images and captions of an index; with --no-cached, only what was checked of them."""

    folder: Path  # of the images' arrays
    index: Index
    pixels: int  # of an image's side
    shape: tuple[int, ...]  # (C, h, w) of its latents
    images: Arrays
    texts: Arrays

    def __getstate__(self) -> dict:
        """For other processes: the names of the arrays' files, which they open for themselves."""
        names = {
            k: {n: getattr(a, "filename", a) for n, a in getattr(self, k).items()}
            for k in ("images", "texts")
        }
        return vars(self) | names

    def __setstate__(self, state: dict) -> None:
        for k in ("images", "texts"):
            files = state[k].items()
            state[k] = {n: a if isinstance(a, np.ndarray) else np.load(a, mmap_mode="r") for n, a in files}
        vars(self).update(state)

    def usable(self, number: int) -> bool:
        """Whether an image can be read; of a pair, whether both can."""
        images = [number, self.index.partner(number)] if self.index.pairs else [number]
        return not self.images["unreadable"][images].any()


def build(
    config: Config, pipeline: DiffusionPipeline, index: Index, folder: Path, accelerator: Accelerator
) -> Cache:
    """Read every image and caption once, and encode them unless --no-cached. What was encoded before, with
    the same model, data and settings, is kept."""
    size, ratio = resolution(config, pipeline), vae_ratio(pipeline)
    shape = (pipeline.vae.config.latent_channels, size // ratio, size // ratio)
    place = folder / ("images" if config.cached else "checks")
    about = {"data": index.digest, "resolution": size, "flip": config.flip}
    arrays = {"unreadable": ((index.images,), "bool"), "digest": ((index.images,), "S16")}
    if config.cached:
        about["model"] = models.digest(pipeline.vae)
        moments = (index.images, 1 + config.flip, 2 * shape[0], *shape[1:])
        arrays |= {"latents": (moments, "float16"), "sizes": ((index.images, 6), "int32")}

    def encode_images(chunks: Chunks) -> Iterator[Arrays]:
        return _encoded_images(config, pipeline, _Files(index, size, chunks))

    chunk = min(64, max(1, 2**21 // size**2))  # the larger the images, the fewer fit into memory
    images = fill(place, about, arrays, chunk, encode_images, accelerator)
    if not config.cached:
        return Cache(place, index, size, shape, images, {})

    prefixes = config.run.needs.captions or ("",)
    encoders = [models.digest(encoder) for encoder in models.encoders(pipeline)[1:]]
    about = {"data": index.digest, "model": encoders}
    example = {k: v[0] for k, v in models.encode_text(pipeline, [""]).items()}
    arrays = {k: ((index.captions, len(prefixes), *v.shape), "float16") for k, v in example.items()}

    def encode_captions(chunks: Chunks) -> Iterator[Arrays]:
        return _encoded_captions(pipeline, index, prefixes, chunks)

    folder /= "captions-csft" if len(prefixes) > 1 else "captions"
    texts = fill(folder, about, arrays, 32, encode_captions, accelerator)
    return Cache(place, index, size, shape, images, texts)


def vae_ratio(pipeline: DiffusionPipeline) -> int:
    """Pixels per latent, along a side."""
    return 2 ** (len(pipeline.vae.config.block_out_channels) - 1)


def resolution(config: Config, pipeline: DiffusionPipeline) -> int:
    """Pixels of a side. Raises InputError for one that the model cannot work on."""
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
        """(pixels, sizes, digest) of each image, None for one that cannot be read."""
        images = []
        for number in self.chunks[k]:
            path = self.index.root / self.index.image(number).file
            try:
                content = hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
                images.append((*read_image(path, self.size), content))
            except UNREADABLE:
                images.append(None)
        return images


def _encoded_images(config: Config, pipeline: DiffusionPipeline, files: _Files) -> Iterator[Arrays]:
    blank = torch.zeros(3, files.size, files.size), [0] * 6, ""
    for images in DataLoader(files, None, num_workers=config.workers):
        pixels, sizes, digests = zip(*(image or blank for image in images), strict=True)
        values = {
            "unreadable": np.array([image is None for image in images]),
            "digest": np.array(digests, "S16"),
        }
        if config.cached:
            pixels = torch.stack(pixels).to(pipeline.vae.device)
            views = [pixels, pixels.flip(-1)] if config.flip else [pixels]
            latents = [models.encode_images(pipeline, view).cpu() for view in views]
            values |= {"latents": torch.stack(latents, 1).numpy(), "sizes": np.array(sizes)}
        yield values


def _encoded_captions(
    pipeline: DiffusionPipeline, index: Index, prefixes: tuple[str, ...], chunks: Chunks
) -> Iterator[Arrays]:
    for numbers in chunks:
        texts = [prefix + text if text else "" for text in map(index.caption, numbers) for prefix in prefixes]
        encoded = models.encode_text(pipeline, texts)
        yield {k: v.unflatten(0, (-1, len(prefixes))).cpu().numpy() for k, v in encoded.items()}
