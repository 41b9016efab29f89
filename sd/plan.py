"""The command python -m sd plan RECIPE ...: what a run will take, before it starts."""

from dataclasses import replace
from pathlib import Path

import torch

from sd import bench, machine, models
from sd.config import configure
from sd.machine import TRAINING, gpu_memory
from sd.memory import count_memory
from sd.start import announce, open_run
from toy.beta import SHARE

SECONDS = 10.0  # of training, to measure its speed


@gpu_memory(TRAINING)
def plan(**options) -> list[Path]:
    """Print where a run would work, what it would encode and write, its memory, and how long it would take on
    this machine. Raises InputError if it does not fit."""
    config, accelerator, pipeline, examples = open_run(configure(**options))
    tell = print if accelerator.is_main_process else lambda line: None
    for line in announce(config, accelerator, examples):
        tell(line)
    if not config.beta and config.run.needs.reference_point:
        tell(f"beta: auto, from mostly one or two pilots, each {SHARE:.0%} of the time to train on top")
    denoiser = models.denoiser(pipeline)
    weights = sum(weight.numel() for weight in denoiser.parameters())
    if config.tune == "full":
        copies = (3 if config.optimizer == "adamw" else 1) + (config.ema > 0)
        others = sum(w.nbytes for part in models.encoders(pipeline) for w in part.parameters())
        sizes = 4e-9 * copies * weights, 4e-9 * weights + 1e-9 * others
        tell("disk: {} checkpoints of {:.1f} GB, and a result of {:.1f} GB".format(config.keep + 1, *sizes))
    if not config.cached:
        tell("memory and time: not measured with --no-cached, which encodes while it trains")
        return []
    if accelerator.device.type == "cpu" and weights > machine.LARGE:
        with torch.device("meta"):
            counted = type(denoiser).from_config(denoiser.config)
        need = count_memory(counted, config, examples.shape[-1]) / 1e9
        tell(f"memory: {need:.1f} GB on a GPU, and about 1 GB for its libraries")
        tell("time: not measured, since this is not a GPU")
        return []
    images = torch.zeros(4, 3, examples.pixels, examples.pixels, device=accelerator.device)
    models.encode_images(pipeline, images)
    encoding = len(examples.lacking) / accelerator.num_processes / len(images)
    encoding *= bench.duration(lambda: models.encode_images(pipeline, images))
    models.move_encoders(pipeline, "cpu")
    few = replace(config, accumulate=min(config.accumulate, 4))  # a step of hundreds would take too long
    rate, memory = bench.measure(pipeline, few, accelerator, examples.shape[-1], SECONDS)
    training = config.steps * config.batch * config.accumulate / rate
    if bench.GPU:
        tell(f"memory: {memory:.1f} of {torch.cuda.mem_get_info()[1] / 1e9:.1f} GB")
    tell(f"time: {_long(encoding)} to encode the images, without reading them; {_long(training)} to train")
    return []


def _long(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
