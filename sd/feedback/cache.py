"""The images and captions that a run draws, encoded once and kept on disk.

Images are found by file name, size and time, captions by their text. So the CSVs of a folder and all
objectives share what is encoded, and only what is new or was replaced is encoded later.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from diffusers import DiffusionPipeline
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from sd import models
from sd.config import Config
from sd.families import family
from sd.feedback.draws import find_drawn
from sd.feedback.images import UNREADABLE, read_image, to_unit
from sd.feedback.index import Index
from sd.feedback.store import Rows, Store, key
from toy.errors import InputError
from toy.files import save_json

PROBE = 16  # images that decide whether the deviation of latents is stored
MOST = 64  # images encoded together; fewer if they are large
CAPTIONS = 32  # encoded together


class Cache:
    """The images and captions that a run draws, and where they are encoded. With --no-cached, images are only
    checked, and captions left alone."""

    def __init__(self, config: Config, pipeline: DiffusionPipeline, index: Index, folder: Path):
        self.config, self.index, self.pixels = config, index, resolution(config, pipeline)
        side = self.pixels // vae_ratio(pipeline)
        self.shape = (pipeline.vae.config.latent_channels, side, side)
        vae, *encoders = map(models.digest, models.encoders(pipeline))
        if config.cached:
            name = f"images-{key(f'{vae} {self.pixels}'.encode()):016x}"
            self.deviation = _needs_deviation(folder / name, pipeline, index, self.pixels)
        else:
            name, self.deviation = "checks", False
        self.images = Store(folder / name)
        self.texts = Store(folder / f"captions-{key(' '.join(encoders).encode()):016x}")
        self.condition = {k: v[0].cpu() for k, v in models.encode_text(pipeline, [""]).items()}
        self.keys = np.zeros((index.images, 2), np.int64)  # of images drawn plain and mirrored; 0: not drawn
        self.unreadable = np.zeros(index.images, bool)
        self.lacking = np.zeros((0, 3), np.int64)  # to be encoded: rows (key, number, mirrored)

    def latent(self, number: int, mirrored: bool, noise: np.ndarray) -> tuple[np.ndarray, list[int]]:
        """x0 (C, h, w) of an image, sampled by this noise, and the image's six sizes."""
        place = int(self.keys[number, int(mirrored)])
        x0 = self.images.get("latents", place).astype(np.float32)
        if self.deviation:
            x0 += self.images.get("deviations", place).astype(np.float32) * noise
        return x0, self.images.get("sizes", place).tolist()

    def caption(self, number: int, desirable: int) -> str:
        """A caption with what the objective writes before it; the empty one, number 0, as it is."""
        prefixes = self.config.run.needs.captions if number else ()
        return (prefixes[desirable] if prefixes else "") + self.index.caption(number)

    def text(self, caption: str) -> dict[str, np.ndarray]:
        """A caption encoded: the condition of the model (sd.families), without sizes."""
        place = key(caption.encode())
        return {name: self.texts.get(name, place).astype(np.float32) for name in self.condition}

    def find(self, processes: int) -> None:
        """Find the images that the run draws, and of them those that are not encoded yet."""
        drawn = find_drawn(self.config, self.index, self.unreadable, processes)
        if not self.config.cached:
            drawn = np.stack([drawn.any(1), np.zeros(len(drawn), bool)], 1)
        for number, mirrored in np.argwhere(drawn & (self.keys == 0)).tolist():
            file = self.index.image(number).file
            try:  # so that a replaced file is encoded anew
                stat = (self.index.root / file).stat()
                version = f"{stat.st_size} {stat.st_mtime_ns}"
            except OSError:
                version = "gone"
            self.keys[number, mirrored] = key(f"{file}\0{version} {mirrored}".encode())
        places = np.argwhere(drawn)
        keys, first = np.unique(self.keys[drawn], return_index=True)
        lacking = np.isin(keys, self.images.missing(keys))
        self.lacking = np.column_stack([keys[lacking], places[first[lacking]]])

    def find_captions(self) -> list[str]:
        """The captions of the drawn images that are not encoded yet, and the empty one."""
        rows = (self.index.image(number) for number in np.flatnonzero(self.keys.any(1)).tolist())
        drawn = {(row.caption, row.desirable) for row in rows} | {(0, 0)}
        by_key = {key(text.encode()): text for text in (self.caption(*pair) for pair in drawn)}
        return [by_key[k] for k in self.texts.missing(np.array(list(by_key))).tolist()]

    def disk_space(self, images: int, captions: int) -> int:
        """The bytes that so many encoded images and captions take."""
        image = int(np.prod(self.shape)) * (2 + 2 * self.deviation) + 40
        return images * image + captions * sum(2 * v.numel() for v in self.condition.values())

    def encode(self, pipeline: DiffusionPipeline, accelerator: Accelerator) -> None:
        """Encode what the run draws and nobody has encoded yet, each process a part. Images that cannot be
        read are never drawn; raises InputError unless they may be left out and others remain."""
        processes, main = accelerator.num_processes, accelerator.is_main_process
        mine = slice(accelerator.process_index, None, processes)
        # the main process's lists, since other runs may add files between one process's look and another's
        while len(lacking := broadcast_object_list([self.lacking])[0]):
            self.images.add(self._encode_images(pipeline, lacking[mine], main))
            accelerator.wait_for_everyone()
            self.images.scan()
            [failures] = broadcast_object_list([self.images.missing(lacking[:, 0])])
            self.unreadable |= np.isin(self.keys, failures).any(1)
            self.keys[self.unreadable] = 0
            self._refuse_unreadable()
            self.lacking = self.lacking[:0]
            if len(failures):  # other images are drawn in their place
                self.find(processes)
        if self.config.cached:
            [captions] = broadcast_object_list([self.find_captions()])
            self.texts.add(_encode_captions(pipeline, captions[mine], main))
            accelerator.wait_for_everyone()
            self.texts.scan()

    def find_opposites(self) -> list[tuple[str, str]]:
        """Files that the run draws with the same content but opposite labels."""
        drawn = np.flatnonzero(self.keys.any(1))
        contents = self.images.column("contents", self.keys[drawn].max(1))
        liked, disliked = drawn < self.index.liked, drawn >= self.index.liked
        _, first, second = np.intersect1d(contents[liked], contents[disliked], return_indices=True)
        pairs = zip(drawn[liked][first].tolist(), drawn[disliked][second].tolist(), strict=True)
        return [tuple(sorted(self.index.image(number).file for number in pair)) for pair in pairs]

    def _encode_images(self, pipeline: DiffusionPipeline, images: np.ndarray, show: bool) -> Iterator[Rows]:
        chunk = min(MOST, max(1, 2**21 // self.pixels**2))
        parts = [images[k : k + chunk] for k in range(0, len(images), chunk)]
        files = _Files(self.index, self.pixels, parts)
        loader = DataLoader(files, None, num_workers=self.config.workers if len(parts) > 1 else 0)
        about = "encoding images" if self.config.cached else "checking images"
        for part in filter(None, tqdm(loader, about) if show else loader):
            keys, contents, sizes, pixels = zip(*part, strict=True)
            rows = {"keys": np.array(keys), "contents": np.array(contents)}
            if self.config.cached:
                moments = models.encode_images(pipeline, to_unit(torch.stack(pixels).to(pipeline.vae.device)))
                mean, deviation = (part.half().cpu().numpy() for part in moments.chunk(2, 1))
                rows |= {"latents": mean, "sizes": np.array(sizes, np.int32)}
                rows |= {"deviations": deviation} if self.deviation else {}
            yield rows

    def _refuse_unreadable(self) -> None:
        bad = np.flatnonzero(self.unreadable)
        if len(bad) and not self.config.skip_unreadable:
            text = f"{len(bad)} images cannot be read: {self.index.names(bad)}"
            raise InputError(f"{text}; replace them, or add --skip-unreadable")
        if self.index.pairs:
            kind, groups = "pair", [self.unreadable[::2] | self.unreadable[1::2]]
        else:
            kind, groups = "image of one class", np.split(self.unreadable, [self.index.liked])
        if any(len(group) and group.all() for group in groups):
            raise InputError(f"no {kind} in {self.index.source} can be read")


class _Files(Dataset):
    """Images decoded in worker processes, a part at a time."""

    def __init__(self, index: Index, size: int, parts: list[np.ndarray]):
        self.index, self.size, self.parts = index, size, parts

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, k: int) -> list[tuple]:
        """(key, digest of the file, sizes, pixels) of each image that can be read."""
        images = []
        for place, number, mirrored in self.parts[k].tolist():
            path = self.index.root / self.index.image(number).file
            try:
                pixels, sizes = read_image(path, self.size, mirror=bool(mirrored))
                images.append((place, key(path.read_bytes()), sizes, pixels))
            except UNREADABLE:
                continue
        return images


def _encode_captions(pipeline: DiffusionPipeline, captions: list[str], show: bool) -> Iterator[Rows]:
    starts = range(0, len(captions), CAPTIONS)
    for first in tqdm(starts, "encoding captions") if show else starts:
        part = captions[first : first + CAPTIONS]
        rows = {k: v.half().cpu().numpy() for k, v in models.encode_text(pipeline, part).items()}
        yield rows | {"keys": np.array([key(caption.encode()) for caption in part])}


def _needs_deviation(folder: Path, pipeline: DiffusionPipeline, index: Index, size: int) -> bool:
    """Whether latents are stored with their deviation. It is left out where storing the mean in half
    precision loses more than it amounts to, judged by the first images of the data."""
    about = folder / "about.json"
    try:
        return bool(json.loads(about.read_text())["deviation"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # nothing is encoded yet
    numbers = np.column_stack([np.zeros((PROBE, 1), int), np.arange(PROBE), np.zeros((PROBE, 1), int)])
    images = _Files(index, size, [numbers[: index.images]])[0]
    needed = True
    if images:
        pixels = (to_unit(pixels[None].to(pipeline.vae.device)) for *_, pixels in images)
        moments = torch.cat([models.encode_images(pipeline, image) for image in pixels])
        mean, deviation = moments.chunk(2, 1)
        needed = bool(deviation.square().mean() > (mean.half() - mean).square().mean())
    folder.mkdir(parents=True, exist_ok=True)
    save_json(about, {"vae": models.digest(pipeline.vae), "resolution": size, "deviation": needed})
    return needed


def vae_ratio(pipeline: DiffusionPipeline) -> int:
    """Pixels per latent along a side."""
    return 2 ** (len(pipeline.vae.config.block_out_channels) - 1)


def resolution(config: Config, pipeline: DiffusionPipeline) -> int:
    """The side of an image in pixels. Raises InputError for one that the model cannot work on."""
    denoiser = models.denoiser(pipeline)
    step = vae_ratio(pipeline) * family(denoiser).side_step(denoiser)
    if config.resolution % step or config.resolution < 0:
        raise InputError(f"--resolution must be a multiple of {step} for this model, not {config.resolution}")
    return config.resolution or denoiser.config.sample_size * vae_ratio(pipeline)
