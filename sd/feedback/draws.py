"""Which example each step draws. Everything random in an example follows from (seed, step, slot).

A slot is the place of an example in the batch of all processes together. A run that is resumed, or that has
another number of processes, therefore draws the same numbers, and checkpoints need no data state. It also
means that the images of a run are known before it starts.
"""

import numpy as np
from tqdm import tqdm

from sd.config import Config
from sd.feedback.index import Index
from toy.cli import is_main_process


def draws(seed: int, step: int, slot: int) -> np.random.Generator:
    """The random generator of one example of one step."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, step, slot]))


def choose(
    config: Config, index: Index, unreadable: np.ndarray, rng: np.random.Generator
) -> list[tuple[int, bool]]:
    """(number, mirrored) of an example's image, or of the two of its pair. An image is desirable with
    probability gamma and uniform within its class. `unreadable` (images,) are never chosen."""
    liked = config.pairs or rng.random() < config.run.gamma
    low, high = (0, index.liked) if liked else (index.liked, index.images)
    while True:  # until one can be read; the cache makes sure that there is one
        number = int(rng.integers(low, high))
        numbers = [2 * number, 2 * number + 1] if config.pairs else [number]
        if not any(unreadable[number] for number in numbers):
            return [(number, bool(config.flip and rng.random() < 0.5)) for number in numbers]


def find_drawn(config: Config, index: Index, unreadable: np.ndarray, processes: int) -> np.ndarray:
    """The images that a run will draw: bool (images, 2), plain and mirrored."""
    drawn, steps = np.zeros((index.images, 2), bool), range(config.steps * config.accumulate)
    about = "finding the images to encode"
    for step in tqdm(steps, about, leave=False) if is_main_process() else steps:
        for slot in range(config.batch * processes):
            for number, mirrored in choose(config, index, unreadable, draws(config.seed, step, slot)):
                drawn[number, int(mirrored)] = True
    return drawn
