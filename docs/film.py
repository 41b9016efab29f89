"""The README's first picture: the same noise becomes images, before and after alignment. python docs/film.py

It teaches the tiny pipeline that red images are liked, as python -m sd figure7 does with Kahneman-Tversky's
utility, and writes figures/film.png, an animated PNG that shows the finished images where nothing moves.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from sd import models
from sd.tiny import shapes
from sd.tiny.runs import GUIDANCE, PIPELINE, configure
from sd.trainer import train
from toy import plots
from toy.files import output_folder, save_atomically
from toy.seeds import generator
from toy.train import last

ROOT = Path(__file__).parent.parent
STEPS, SHAPES = 20, 6
PAUSE, MOMENT = 3000, 150  # milliseconds for the finished images, and for a step
TITLES = ("before", "after learning that red is liked")


@torch.no_grad()
def denoise(pipeline: DiffusionPipeline, prompts: list[str]) -> list[Tensor]:
    """Images from the noise on, after each denoising step: STEPS + 1 of (n, 3, H, W) in [0, 1]."""
    size = pipeline.unet.config.sample_size
    noise = [torch.randn(1, 4, size, size, generator=generator(f"film {prompt}", 0)) for prompt in prompts]
    latents = [torch.cat(noise)]

    def watch(pipeline, step: int, t, values: dict) -> dict:
        latents.append(values["latents"])
        return values

    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "output_type": "latent"}
    pipeline(prompts, latents=latents[0], callback_on_step_end=watch, **options)
    decode = partial(pipeline.vae.decode, return_dict=False)
    return [(decode(x / pipeline.vae.config.scaling_factor)[0] / 2 + 0.5).clamp(0, 1) for x in latents]


def film(above: list[Tensor], below: list[Tensor]) -> list[Image.Image]:
    """A picture of each moment: images before alignment, and below them after it."""
    fig, axes = plots.figure(2, SHAPES, 1.4, 1.5)
    for row, title in enumerate(TITLES):
        axes[SHAPES * row].set_title(title, loc="left", fontsize=12)
    empty = np.zeros((shapes.PIXELS, shapes.PIXELS, 3))
    shown = [ax.imshow(empty, vmin=0, vmax=1, interpolation="nearest") for ax in axes]
    for ax in axes:
        ax.axis("off")
    moments = []
    for images in zip(above, below, strict=True):
        for picture, image in zip(shown, torch.cat(images), strict=True):
            picture.set_data(image.permute(1, 2, 0).numpy())
        fig.canvas.draw()
        moments.append(Image.fromarray(np.asarray(fig.canvas.buffer_rgba())).convert("RGB").quantize(128))
    plots.plt.close(fig)
    return moments


def main() -> None:
    captions = shapes.prompts("red")
    captions = [caption for caption in captions[:: len(captions) // 12] if "white" not in caption][:SHAPES]
    runs = output_folder(ROOT / "out" / "film")
    with last(train(configure("kahneman_tversky", "red", 0, PIPELINE, runs))).trainer.final() as pipeline:
        after = denoise(pipeline, captions)
    moments = film(denoise(models.load(PIPELINE), captions), after)
    moments = [moments[-1], *moments]  # the first one is what is shown where nothing moves
    times = [PAUSE] + [MOMENT] * (len(moments) - 2) + [PAUSE]
    options = {"save_all": True, "append_images": moments[1:], "duration": times, "loop": 0}
    save_atomically(ROOT / "figures" / "film.png", partial(moments[0].save, format="PNG", **options))


if __name__ == "__main__":
    main()
