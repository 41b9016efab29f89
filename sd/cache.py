"""Images and captions encoded once, on disk: latents, text embeddings, and what is wrong with the data.

Arrays are memory-mapped, so that memory does not grow with the data, and written in chunks that are
marked when done: the work can stop at any moment and be shared by any number of processes.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import DiffusionPipeline
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from sd import models
from sd.config import Config
from sd.data import Index
from toy.errors import InputError
from toy.files import save_json

CSFT = ("bad image, ", "good image, ")  # what a caption is prefixed with, by desirable
UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    Image.DecompressionBombError,
)  # what PIL raises on broken files
Arrays = dict[str, np.ndarray]


def read_image(
    path: Path, resolution: int, crop: str = "center", mirrored: bool = False, rng=None
) -> tuple[Tensor, list[int]]:
    """Pixels (3, R, R) in [-1, 1], the shorter side resized to R and the rest cropped; and SDXL's six
    sizes: original height and width, top and left of the crop, target height and width."""
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file).convert("RGB")
    if mirrored:
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


@dataclass
class Cache:
    """What training reads: encoded images and captions of an index, or with --no-cached their checks only."""

    folder: Path  # of the images' arrays
    index: Index
    pixels: int  # of an image's side
    shape: tuple[int, ...]  # (C, h, w) of its latents
    images: Arrays
    texts: Arrays

    def __getstate__(self) -> dict:
        """For other processes: arrays by the names of their files, which they open for themselves."""
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
        twin = number ^ 1 if self.index.paired else number
        return not (self.images["unreadable"][number] or self.images["unreadable"][twin])


def prepare(
    config: Config, pipeline: DiffusionPipeline, index: Index, folder: Path, accelerator: Accelerator
) -> Cache:
    """Read every image and caption once, and encode them unless --no-cached. What is there already, of the
    same model, data and settings, is kept."""
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

    chunk = min(64, max(1, 2**21 // size**2))  # fewer large images than small ones fit into memory
    images = _fill(place, about, arrays, chunk, encode_images, accelerator)
    if not config.cached:
        return Cache(place, index, size, shape, images, {})

    prefixes = CSFT if config.objective == "csft" else ("",)
    encoders = [models.digest(encoder) for encoder in models.encoders(pipeline)[1:]]
    about = {"data": index.digest, "model": encoders}
    example = {k: v[0] for k, v in models.encode_text(pipeline, [""]).items()}
    arrays = {k: ((index.captions, len(prefixes), *v.shape), "float16") for k, v in example.items()}

    def encode_captions(chunks: Chunks) -> Iterator[Arrays]:
        return _encoded_captions(pipeline, index, prefixes, chunks)

    folder /= "captions-csft" if len(prefixes) > 1 else "captions"
    texts = _fill(folder, about, arrays, 32, encode_captions, accelerator)
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


@dataclass
class Chunks:
    """Chunks of numbers below `count`, those of them that are still to do."""

    todo: np.ndarray
    size: int
    count: int

    def __len__(self) -> int:
        return len(self.todo)

    def __getitem__(self, k: int) -> range:
        first = int(self.todo[k]) * self.size
        return range(first, min(self.count, first + self.size))


def _fill(
    folder: Path,
    about: dict,
    arrays: dict[str, tuple],
    size: int,
    encode: Callable[[Chunks], Iterator[Arrays]],
    accelerator: Accelerator,
) -> Arrays:
    """The arrays of a folder, {name: (shape, dtype)}, completed in chunks of `size` by all processes of the
    first machine: arrays on a shared disk must not be written from several."""
    count = next(iter(arrays.values()))[0][0]
    kinds = arrays | {"done": ((-(-count // size),), "bool")}
    about = json.loads(json.dumps(about | {"arrays": kinds}))
    if accelerator.is_main_process:
        _create(folder, about, kinds)
    accelerator.wait_for_everyone()
    stored = {name: np.load(folder / f"{name}.npy", mmap_mode="r+") for name in kinds}
    todo = np.flatnonzero(~stored["done"])
    if "unreadable" in arrays:  # look at those again: they may have been replaced
        todo = np.union1d(todo, np.flatnonzero(stored["unreadable"]) // size)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes))
    mine = todo[accelerator.process_index :: processes] if accelerator.process_index < processes else todo[:0]
    chunks = Chunks(mine, size, count)
    accelerator.wait_for_everyone()  # all have seen the same list before anyone shortens it
    if len(todo):
        for old in folder.glob("report-*.json"):
            old.unlink(missing_ok=True)
    progress = tqdm(total=len(chunks), desc=f"encoding {folder.name}", disable=not len(chunks))
    finished = []
    for k, values in enumerate(encode(chunks) if len(chunks) else ()):
        for name, value in values.items():
            stored[name][chunks[k].start : chunks[k].stop] = value
        finished.append(mine[k])
        if len(finished) == 100 or k == len(chunks) - 1:  # on disk before they are marked as done
            for array in stored.values():
                array.flush()
            stored["done"][finished] = True
            finished = []
        progress.update()
    progress.close()
    accelerator.wait_for_everyone()
    opened = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in kinds}
    if json.loads((folder / "about.json").read_text()) != about or not opened.pop("done").all():
        raise InputError(f"another run is writing to {folder}: give this one a --cache of its own")
    return opened


def _create(folder: Path, about: dict, arrays: dict) -> None:
    """Make the arrays, of zeros, unless they are there, of the same model, data and settings."""
    if folder.exists():
        try:
            known = json.loads((folder / "about.json").read_text())
        except (OSError, ValueError):
            known = {}
        if known == about:
            return
        other = [key for key in about if known.get(key) != about[key] and key != "arrays"]
        print(f"{folder} was made with other {' and '.join(other) or 'settings'}: encoding anew")
        shutil.rmtree(folder)
    half = folder.with_name(f".{os.getpid()}-{folder.name}")
    try:
        half.mkdir(parents=True)
        for name, (shape, kind) in arrays.items():
            path = half / f"{name}.npy"
            array = np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape)
            if hasattr(os, "posix_fallocate"):  # where it is, a full disk is an error here, not a crash later
                with open(path, "r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, array.nbytes)
        save_json(half / "about.json", about)
        os.rename(half, folder)
    except OSError as error:
        shutil.rmtree(half, ignore_errors=True)
        if (folder / "about.json").exists():  # another run was faster; its arrays are as good
            return
        size = sum(int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in arrays.values())
        raise InputError(
            f"cannot make {size / 1e9:.1f} GB in {folder}: {error.strerror}; "
            "use another --cache or --no-cached"
        ) from error


class _Files(Dataset):
    """Images of an index, decoded in worker processes a chunk at a time."""

    def __init__(self, index: Index, size: int, chunks: Chunks):
        self.index, self.size, self.chunks = index, size, chunks

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, k: int) -> list[tuple | None]:
        """(pixels, sizes, digest) of each image, None for one that cannot be read."""
        found = []
        for number in self.chunks[k]:
            path = self.index.root / self.index.image(number).file
            try:
                content = hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
                found.append((*read_image(path, self.size), content))
            except UNREADABLE:
                found.append(None)
        return found


def _encoded_images(config: Config, pipeline: DiffusionPipeline, files: _Files) -> Iterator[Arrays]:
    blank = torch.zeros(3, files.size, files.size), [0] * 6, ""
    for found in DataLoader(files, None, num_workers=config.workers):
        pixels, sizes, digests = zip(*(f or blank for f in found), strict=True)
        values = {"unreadable": np.array([f is None for f in found]), "digest": np.array(digests, "S16")}
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
        said = [prefix + text if text else "" for text in map(index.caption, numbers) for prefix in prefixes]
        encoded = models.encode_text(pipeline, said)
        yield {k: v.unflatten(0, (-1, len(prefixes))).cpu().numpy() for k, v in encoded.items()}


def refuse_missing(index: Index, config: Config, processes: int) -> None:
    """Raises InputError for data, or a batch, that the objective cannot learn from."""
    gamma, source = config.run.mix, index.source
    if index.paired != config.paired:
        need = "winner, loser and caption" if config.paired else "file_name, caption and label"
        raise InputError(f"{config.objective} needs the columns {need}, and {source} has others")
    if config.objective == "smpo" and index.lowest is None:
        raise InputError(
            f"smpo needs the columns winner_score and loser_score in {source}; diffusion_dpo does not"
        )
    if not index.paired and gamma > 0 and not index.liked:
        raise InputError(f"none of the {index.images} images in {source} is desirable")
    if not index.paired and gamma < 1 and index.liked == index.images:
        raise InputError(
            f"none of the {index.images} images in {source} is undesirable; sft alone needs none"
        )
    if (
        config.objective == "diffusion_kto"
        and config.reference_point == "batch"
        and config.batch * processes == 1
    ):
        raise InputError(
            "one example's own reward is no reference point: raise --batch, or --reference-point none"
        )


def refuse_unusable(cache: Cache, config: Config) -> None:
    """Raises InputError for unreadable images, unless they are to be left out and there are others."""
    index, unreadable = cache.index, cache.images["unreadable"]
    bad = np.flatnonzero(unreadable)
    if len(bad) and not config.skip_unreadable:
        names = _named(index, bad)
        raise InputError(f"{len(bad)} images cannot be read: {names}; replace them, or --skip-unreadable")
    if index.paired:
        left = [not (unreadable[::2] | unreadable[1::2]).all()]
    else:
        left = [not part.all() for part in np.split(unreadable, [index.liked]) if len(part)]
    if not all(left):
        raise InputError(
            f"of {index.source} no {'pair' if index.paired else 'image of one class'} can be read"
        )


def report(cache: Cache, pipeline: DiffusionPipeline) -> list[str]:
    """What a person should know of the data, in lines; looked for once and kept beside the images."""
    index, limit = cache.index, models.token_limit(pipeline)
    file = cache.folder / f"report-{limit}.json"
    if file.exists():
        return json.loads(file.read_text())["lines"]
    disliked = index.images - index.liked
    counts = (
        f"{index.liked} pairs" if index.paired else f"{index.liked} desirable, {disliked} undesirable images"
    )
    lines = [f"{counts}, {index.captions - 1} captions"]
    bad = np.flatnonzero(cache.images["unreadable"])
    if len(bad):
        lines.append(f"{len(bad)} images cannot be read and are left out: {_named(index, bad)}")
    texts = (text for text in map(index.caption, range(1, index.captions)) if len(text) > limit)
    long = [text[:40] for text in texts if len(pipeline.tokenizer(text).input_ids) > limit]
    if long:
        lines.append(f"{len(long)} captions are cut, being longer than {limit} tokens, as '{long[0]}...'")
    opposites = [] if index.paired else index.find_opposites(cache.images["digest"])
    if opposites:
        names = ", ".join(" = ".join(sorted(set(pair))) for pair in opposites[:5])
        lines.append(f"{len(opposites)} images are both liked and disliked: {names}")
    save_json(file, {"lines": lines})
    return lines


def _named(index: Index, numbers: np.ndarray) -> str:
    rows = [index.image(int(i)) for i in numbers[:20]]
    return ", ".join(f"{r.file} (row {r.row})" for r in rows) + (", ..." if len(numbers) > 20 else "")
