"""Images from prompts, each from a starting noise of its own that is the same for every model."""

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from toy.data import generator


def draw(
    pipeline: DiffusionPipeline,
    prompts: list[str],
    *,
    steps: int = 20,
    guidance: float | None = None,
    seed: int = 0,
    batch: int = 16,
) -> Tensor:
    """One image per prompt, (n, 3, H, W) in [0, 1] on the CPU. Image i starts from the noise of its
    prompt, seed and how often that prompt came before it, whatever the model and the batch. Guidance
    None is the pipeline's own default."""
    before: dict[str, int] = {}
    generators = []
    for prompt in prompts:
        before[prompt] = before.get(prompt, -1) + 1
        generators.append(generator(f"{prompt} {before[prompt]}", seed))
    pipeline.set_progress_bar_config(disable=True)
    images = []
    for k in range(0, len(prompts), batch):
        chosen = slice(k, k + batch)
        options = {"num_inference_steps": steps, "output_type": "pt"}
        options |= {} if guidance is None else {"guidance_scale": guidance}
        images.append(pipeline(prompts[chosen], generator=generators[chosen], **options).images.cpu())
    return torch.cat(images).float()
