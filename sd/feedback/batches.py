"""The examples of each step. Everything random in an example follows from (seed, step, slot).

A slot is the place of an example in the batch of all processes together. A run that is resumed, or that has
another number of processes, therefore draws the same numbers, and checkpoints need no data state.
"""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sd.config import Config
from sd.feedback.cache import Cache
from sd.feedback.images import read_image, to_unit

Batch = dict[str, Tensor | list[str]]


def draws(seed: int, step: int, slot: int) -> np.random.Generator:
    """The random generator of one example of one step."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, step, slot]))


class Batches(Dataset):
    """Batch k of this process: t (B,), eps and x0 (B, C, h, w), text (B, L, D), desirable (B,), score (B,),
    and for XL pooled and sizes. B pairs are 2B images, winners before losers; the two of a pair share t,
    eps and caption. Without a cache, pixels, noise and captions are in place of x0 and text."""

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
        numbers = self._choose(rng)
        common = {"t": rng.integers(self.timesteps), "eps": rng.standard_normal(self.cache.shape, np.float32)}
        drop = rng.random() < self.config.prompt_dropout
        return [common | self._image(number, drop, rng) for number in numbers]

    def _choose(self, rng: np.random.Generator) -> list[int]:
        """The two numbers of a pair; or that of an image, desirable with probability gamma and uniform within
        its class."""
        index, pairs = self.cache.index, self.config.pairs
        liked = pairs or rng.random() < self.config.run.gamma
        low, high = (0, index.liked) if liked else (index.liked, index.images)
        while True:  # until one can be read; check.refuse_unusable makes sure that there is one
            number = int(rng.integers(low, high))
            numbers = [2 * number, 2 * number + 1] if pairs else [number]
            if self.cache.usable(numbers[0]):
                return numbers

    def _image(self, number: int, drop: bool, rng: np.random.Generator) -> dict:
        index, cache, config = self.cache.index, self.cache, self.config
        image = index.image(number)
        score = 0.0 if image.score is None else index.normalised(image.score)
        out = {"desirable": np.bool_(image.desirable), "score": np.float32(score)}
        mirror = config.flip and rng.random() < 0.5
        noise = rng.standard_normal(cache.shape, np.float32)  # to be scaled by the VAE's deviation
        caption = 0 if drop else image.caption  # 0 is the empty one
        if config.cached:
            mean, deviation = np.split(cache.images["latents"][number, int(mirror)].astype(np.float32), 2)
            out["x0"] = mean + deviation * noise
            for name, texts in cache.texts.items():
                prefix = image.desirable if texts.shape[1] > 1 else 0
                out[name] = texts[caption, prefix].astype(np.float32)
            sizes = cache.images["sizes"][number]
        else:
            pixels, sizes = read_image(index.root / image.file, cache.pixels, config.crop, mirror, rng)
            out |= {"pixels": to_unit(pixels).numpy(), "noise": noise}
            prefixes = config.run.needs.captions if caption else ()
            out["captions"] = (prefixes[image.desirable] if prefixes else "") + index.caption(caption)
        return out | {"sizes": np.asarray(sizes, np.float32)}
