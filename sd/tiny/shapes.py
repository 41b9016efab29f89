"""A world of captioned 32 x 32 drawings, small enough to learn in minutes and to judge exactly.

A caption is "a small red circle on a gray background". 2 sizes x 5 colours x 4 shapes x 3 backgrounds make
120 captions, of which 12 are held out from training. A prompt may leave the size open ("a red circle ...")
or the shape ("a small red shape ...").
"""

from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from toy.files import output_folder, save_atomically, save_csv

PIXELS = 32
SIZES = {"small": (7.0, 8.0), "large": (10.5, 11.5)}  # radius in pixels, from and to
SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {
    "red": (0.90, 0.10, 0.10),
    "green": (0.10, 0.70, 0.20),
    "blue": (0.15, 0.25, 0.90),
    "yellow": (0.90, 0.80, 0.10),
    "cyan": (0.10, 0.80, 0.90),
}
BACKGROUNDS = {"black": (0.05, 0.05, 0.05), "gray": (0.50, 0.50, 0.50), "white": (0.95, 0.95, 0.95)}
OFFSET = 2  # pixels by which a shape may lie off the centre


class Scene(NamedTuple):
    """What a caption asks for, or what an image shows. None means that the caption leaves it open."""

    size: str | None
    colour: str
    shape: str | None
    background: str

    @property
    def caption(self) -> str:
        words = [self.size, self.colour, self.shape or "shape", "on a", self.background, "background"]
        return "a " + " ".join(word for word in words if word)


SCENES = [Scene(*s) for s in product(SIZES, COLOURS, SHAPES, BACKGROUNDS)]
_order = np.random.default_rng(0).permutation(len(SCENES))
HELD_OUT = [SCENES[i] for i in _order[:12]]
KNOWN = [SCENES[i] for i in _order[12:]]
OPEN_SIZE = [Scene(None, *s) for s in product(COLOURS, SHAPES, BACKGROUNDS)]
OPEN_SHAPE = [Scene(s, c, None, b) for s, c, b in product(SIZES, COLOURS, BACKGROUNDS)]
BY_CAPTION = {scene.caption: scene for scene in SCENES + OPEN_SIZE + OPEN_SHAPE}


def draw(scene: Scene, rng: np.random.Generator) -> Tensor:
    """An image (3, 32, 32) in [0, 1] of a scene, with a random place and radius."""
    radius = rng.uniform(*SIZES[scene.size])
    cover = _cover(scene.shape, radius, *rng.uniform(-OFFSET, OFFSET, 2))
    front = torch.tensor(COLOURS[scene.colour]).view(3, 1, 1)
    back = torch.tensor(BACKGROUNDS[scene.background]).view(3, 1, 1)
    return cover * front + (1 - cover) * back


def training_set(count: int, seed: int) -> tuple[Tensor, list[str]]:
    """Images (count, 3, 32, 32) of the KNOWN scenes in turn, and their captions: 15% leave the size open, and
    15% the shape, because a model only follows the kinds of prompt that it was trained on."""
    rng = np.random.default_rng(seed)
    images, captions = [], []
    for i in range(count):
        scene = KNOWN[i % len(KNOWN)]
        images.append(draw(scene, rng))
        kind = rng.random()
        if kind < 0.15:
            scene = scene._replace(size=None)
        elif kind > 0.85:
            scene = scene._replace(shape=None)
        captions.append(scene.caption)
    return torch.stack(images), captions


def judge(images: Tensor) -> list[Scene]:
    """What each image (n, 3, 32, 32) in [0, 1] shows. The background is read from the border, size and shape
    from the nearest of many templates, and the colour from the palette."""
    forms, colours, backs = _read(images)
    names = [_templates()[1][k] for k in forms.tolist()]
    facts = zip(names, _names(colours, COLOURS), _names(backs, BACKGROUNDS), strict=True)
    return [Scene(size, colour, shape, background) for (size, shape), colour, background in facts]


def flaw(images: Tensor) -> Tensor:
    """(n,): root mean square difference of each image from the clean drawing that it shows. It is 0.03
    for drawings of this world, because the clean ones lie on a grid of places and sizes."""
    forms, colours, backs = _read(images)
    cover = _templates()[0][forms].view(-1, 1, PIXELS, PIXELS)
    front, back = _palette(COLOURS)[colours], _palette(BACKGROUNDS)[backs]
    clean = cover * front[..., None, None] + (1 - cover) * back[..., None, None]
    return (images - clean).square().mean((1, 2, 3)).sqrt()


def left(images: Tensor) -> Tensor:
    """(n,): by how many pixels the middle of the shape lies left of the image's middle."""
    cover, _ = _cover_of(images)
    place = (PIXELS - 1) / 2 - torch.arange(PIXELS)
    return (cover.sum(1) * place).sum(-1) / cover.sum((1, 2))


def follows(images: Tensor, captions: list[str]) -> Tensor:
    """(n,) bool: whether each image shows all that its caption says."""
    verdicts = []
    for caption, scene in zip(captions, judge(images), strict=True):
        pairs = zip(BY_CAPTION[caption], scene, strict=True)
        verdicts.append(all(wish in (None, fact) for wish, fact in pairs))
    return torch.tensor(verdicts)


def redness(images: Tensor) -> Tensor:
    """(n,): the mean of the red channel minus the mean of all channels (Li et al. 2024, Figure 7)."""
    return images[:, 0].mean((1, 2)) - images.mean((1, 2, 3))


def redden(images: Tensor) -> Tensor:
    """The paper's red filter: it raises the red channel to R + 0.35 (1 - R)."""
    images = images.clone()
    images[:, 0] += 0.35 * (1 - images[:, 0])
    return images


def main(preference: str, out: str) -> list[Path]:
    """Write likes and dislikes into a folder. Returns the files written."""
    return write_feedback(output_folder(out), preference)


def write_feedback(folder: Path, preference: str, count: int = 1080, seed: int = 0) -> list[Path]:
    """Write images, feedback.csv and pairs.csv, as sd.feedback reads them, and prompts.txt, to judge by.

    red: an image behind a red filter is liked, the same image without it disliked (Li et al. 2024, Figure 7).
    large: under a caption that leaves the size open, a large shape is liked and a small one disliked.
    """
    rng = np.random.default_rng([seed, 7])
    (folder / "images").mkdir(exist_ok=True)
    likes, pairs = [], []
    for i in tqdm(range(count), f"images, {preference}", leave=False):
        scene = KNOWN[i % len(KNOWN)]
        if preference == "red":
            caption, plain = scene.caption, draw(scene, rng)
            images = {"liked": redden(plain[None])[0], "disliked": plain}
        else:
            caption = scene._replace(size=None).caption
            large, small = scene._replace(size="large"), scene._replace(size="small")
            images = {"liked": draw(large, rng), "disliked": draw(small, rng)}
        names = []
        for label, image in images.items():
            names.append(f"images/{i:05d}-{label}.png")
            pixels = (255 * image.permute(1, 2, 0)).round().byte().numpy()
            save_atomically(folder / names[-1], Image.fromarray(pixels).save)
            likes.append((names[-1], caption, label))
        pairs.append((*names, caption, 1, 0))
    text = "".join(f"{prompt}\n" for prompt in prompts(preference))
    columns = ("winner", "loser", "caption", "winner_score", "loser_score")
    return [
        save_csv(folder / "feedback.csv", ("file_name", "caption", "label"), likes),
        save_csv(folder / "pairs.csv", columns, pairs),
        save_atomically(folder / "prompts.txt", lambda path: path.write_text(text)),
    ]


def prompts(preference: str) -> list[str]:
    """Prompts to judge a model by: the training captions; for large, the captions of open size, twice."""
    scenes = KNOWN if preference == "red" else OPEN_SIZE * 2
    return [scene.caption for scene in scenes]


def _cover(shape: str, radius: float, dx: float, dy: float) -> Tensor:
    """How much of each pixel a shape covers, (32, 32) in [0, 1], from the signed distance to its edge."""
    place = torch.arange(PIXELS) - (PIXELS - 1) / 2
    x, y = (place - dx)[None, :], (place - dy)[:, None]
    if shape == "circle":
        distance = (x.square() + y.square()).sqrt() - radius
    elif shape == "square":
        distance = torch.maximum(x.abs(), y.abs()) - 0.9 * radius
    elif shape == "triangle":  # three half planes; the tip points up
        slanted = 3**0.5 / 2 * x.abs() - y / 2
        distance = torch.maximum(slanted, y.expand_as(slanted)) - 0.57 * radius
    else:
        across = torch.maximum(x.abs() - radius, y.abs() - 0.25 * radius)
        along = torch.maximum(x.abs() - 0.25 * radius, y.abs() - radius)
        distance = torch.minimum(across, along)
    return (0.5 - distance).clamp(0, 1)


@cache
def _templates() -> tuple[Tensor, list[tuple[str, str]]]:
    """Coverings (n, 1024) by every shape and size at a grid of places, and the (size, shape) of each."""
    offsets = range(-OFFSET - 1, OFFSET + 2)
    coverings, names = [], []
    for (size, (low, high)), shape in product(SIZES.items(), SHAPES):
        for radius, dx, dy in product((low, (low + high) / 2, high), offsets, offsets):
            coverings.append(_cover(shape, radius, dx, dy).flatten())
            names.append((size, shape))
    return torch.stack(coverings), names


def _cover_of(images: Tensor) -> tuple[Tensor, Tensor]:
    """How much of each pixel the shape seems to cover, (n, 32, 32) in [0, 1], and the background (n, 3)."""
    border = torch.cat([images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1]], -1)
    back = border.median(-1).values
    distance = (images - back[..., None, None]).norm(dim=1)
    full = distance.flatten(1).topk(40).values.mean(1).clamp(min=1e-6)
    return (distance / full[:, None, None]).clamp(max=1), back


def _read(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The nearest template, colour and background of each image, by their places in lists, (n,) each."""
    cover, back = _cover_of(images)
    inside = (cover > 0.8).float()[:, None]
    colour = (images * inside).sum((2, 3)) / inside.sum((2, 3)).clamp(min=1)
    forms = torch.cdist(cover.flatten(1), _templates()[0]).argmin(1)
    colours = torch.cdist(colour, _palette(COLOURS)).argmin(1)
    return forms, colours, torch.cdist(back, _palette(BACKGROUNDS)).argmin(1)


def _palette(colours: dict[str, tuple[float, float, float]]) -> Tensor:
    return torch.tensor(list(colours.values()))


def _names(places: Tensor, palette: dict[str, tuple[float, float, float]]) -> list[str]:
    return [list(palette)[i] for i in places.tolist()]
