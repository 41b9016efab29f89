"""Votes on drawings of the tiny pipeline, as people give them: noisy, and not all of one taste.

The pipeline draws two images of each prompt, and a judge votes for one. Three judges in four like a shape the
more the farther left it lies; the fourth likes large shapes. A vote is a coin flip that favours the image
that the judge likes more, so similar images are found among the liked and the disliked.
"""

import io
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from sd.draw import draw
from sd.feedback.prepare import prepare
from sd.tiny import shapes
from toy.files import save_atomically
from toy.seeds import generator

PAIRS, SEED = 600, 1000  # of the images; those that judge have others
LEFT = 0.75  # the share of judges who like what lies to the left
CERTAINTY = 1.0  # of a vote for the image that is better by 1: sigmoid(CERTAINTY * 1)


def taste(images: Tensor) -> Tensor:
    """(n, 2): how much each of the two kinds of judge likes an image. The pretrained pipeline's images have a
    standard deviation of about 1 by either."""
    large = torch.tensor([scene.size == "large" for scene in shapes.judge(images)])
    return torch.stack([shapes.left(images), 2.0 * large], -1)


def vote(first: Tensor, other: Tensor) -> Tensor:
    """(n,) bool: whether the first image wins its vote, with the probability sigmoid(CERTAINTY * difference)
    for the judge that is asked (Bradley & Terry 1952)."""
    g = generator("votes", SEED)
    judge = (torch.rand(len(first), generator=g) >= LEFT).long()
    difference = (taste(first) - taste(other)).gather(1, judge[:, None])[:, 0]
    return torch.rand(len(first), generator=g) < (CERTAINTY * difference).sigmoid()


def write_votes(pipeline: DiffusionPipeline, folder: Path, guidance: float) -> list[Path]:
    """Draw pairs of images, have them voted on, save them as Pick-a-Pic v2 is saved, and prepare them as one
    would. Returns the files that training reads."""
    import pyarrow
    from pyarrow import parquet

    captions = [scene.caption for scene in shapes.OPEN_SIZE] * (PAIRS // len(shapes.OPEN_SIZE))
    images = []
    for k in tqdm(range(0, 2 * PAIRS, 60), "images to vote on", leave=False):
        part = (captions * 2)[k : k + 60]
        images.append(draw(pipeline, part, guidance=guidance, seed=SEED + k, batch=60))
    first, other = torch.cat(images).chunk(2)
    rows = {
        "caption": captions,
        "jpg_0": [_png(image) for image in first],
        "jpg_1": [_png(image) for image in other],
        "image_0_uid": [f"{i:04d}-0" for i in range(PAIRS)],
        "image_1_uid": [f"{i:04d}-1" for i in range(PAIRS)],
        "label_0": vote(first, other).double().tolist(),
        "has_label": [True] * PAIRS,
    }
    file = folder / "votes.parquet"
    save_atomically(file, lambda path: parquet.write_table(pyarrow.table(rows), path))
    return prepare(str(file), str(folder))


def _png(image: Tensor) -> bytes:
    content = io.BytesIO()
    Image.fromarray((255 * image.permute(1, 2, 0)).round().byte().numpy()).save(content, "PNG")
    return content.getvalue()
