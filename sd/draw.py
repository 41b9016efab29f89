"""Draw images from prompts, each from a starting noise of its own that is the same for every model."""

from collections import Counter
from collections.abc import Iterator

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from sd import models
from sd.families import family
from toy.seeds import generator

BATCH = 16  # images drawn together


def draw(
    pipeline: DiffusionPipeline,
    prompts: list[str],
    *,
    steps: int = 20,
    guidance: float | None = None,
    seed: int = 0,
    batch: int = BATCH,
) -> Tensor:
    """One image per prompt, (n, 3, H, W) in [0, 1] on the CPU. Its noise depends on the prompt, the seed and
    how often the prompt came before. Guidance None stands for the pipeline's own default."""
    noises, images = list(name_noises(prompts)), []
    for k in range(0, len(prompts), batch):
        part = slice(k, k + batch)
        images.append(draw_batch(pipeline, prompts[part], noises[part], steps, guidance, seed))
    return torch.cat(images)


def name_noises(prompts: list[str]) -> Iterator[str]:
    """The name of each image's starting noise: its prompt, and how often that came before."""
    counts = Counter()
    for prompt in prompts:
        yield f"{prompt} {counts[prompt]}"
        counts[prompt] += 1


def draw_batch(
    pipeline: DiffusionPipeline,
    prompts: list[str],
    noises: list[str],
    steps: int,
    guidance: float | None,
    seed: int,
) -> Tensor:
    """One batch of images (B, 3, H, W), from the noises with these names."""
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": steps, "output_type": "pt"}
    denoiser = models.denoiser(pipeline)
    options |= family(denoiser).drawing(pipeline)
    options |= {} if guidance is None else {"guidance_scale": guidance}
    generators = [generator(name, seed) for name in noises]
    return pipeline(prompts, generator=generators, **options).images.cpu().float()
