"""The examples of each step."""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sd.config import Config
from sd.feedback.cache import Cache
from sd.feedback.draws import choose, draws
from sd.feedback.images import read_image

Batch = dict[str, Tensor | list[str]]


class Batches(Dataset):
    """Batch k of this process: t (B,), eps and x0 (B, C, h, w), desirable (B,), score (B,), and the condition
    of sd.families. B pairs are 2B images, winners before losers; the two of a pair share t, eps and caption.
    Without a cache, pixels, noise and captions are in place of x0 and the encoded text."""

    def __init__(self, cache: Cache, config: Config, timesteps: int, process: int = 0):
        self.cache, self.config, self.timesteps, self.process = cache, config, timesteps, process

    def __len__(self) -> int:
        return self.config.steps * self.config.accumulate

    def __getitem__(self, k: int) -> Batch:
        first = self.process * self.config.batch
        examples = [self.example(k, first + i) for i in range(self.config.batch)]
        images = [image for side in zip(*examples, strict=True) for image in side]
        batch = {}
        for name in images[0]:
            values = [image[name] for image in images]
            batch[name] = values if name == "captions" else torch.from_numpy(np.stack(values))
        return batch

    def example(self, step: int, slot: int) -> list[dict]:
        """The image of a slot, or the two images of its pair."""
        rng = draws(self.config.seed, step, slot)
        chosen = choose(self.config, self.cache.index, self.cache.unreadable, rng)
        common = {"t": self.timestep(rng), "eps": rng.standard_normal(self.cache.shape, np.float32)}
        drop = rng.random() < self.config.prompt_dropout
        return [common | self._image(number, mirrored, drop, rng) for number, mirrored in chosen]

    def timestep(self, rng: np.random.Generator) -> np.int64:
        if self.config.timesteps == "uniform":
            return rng.integers(self.timesteps)
        return np.int64(self.timesteps / (1 + np.exp(-rng.standard_normal())))  # Esser et al. 2024, eq. 19

    def _image(self, number: int, mirrored: bool, drop: bool, rng: np.random.Generator) -> dict:
        index, cache, config = self.cache.index, self.cache, self.config
        image = index.image(number)
        score = 0.0 if image.score is None else index.normalised(image.score)
        out = {"desirable": np.bool_(image.desirable), "score": np.float32(score)}
        noise = rng.standard_normal(cache.shape, np.float32)  # to be scaled by the VAE's deviation
        caption = cache.caption(0 if drop else image.caption, image.desirable)
        if config.cached:
            out["x0"], sizes = cache.latent(number, mirrored, noise)
            out |= cache.text(caption)
        else:
            path = index.root / image.file
            pixels, sizes = read_image(path, cache.pixels, config.crop, mirrored, rng)
            out |= {"pixels": pixels.numpy(), "noise": noise, "captions": caption}
        if config.sizes == "fixed":
            sizes = [cache.pixels, cache.pixels, 0, 0, cache.pixels, cache.pixels]
        return out | {"sizes": np.asarray(sizes, np.float32)}
