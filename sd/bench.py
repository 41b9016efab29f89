"""Measure how fast a training step is, on denoisers of published sizes with random weights.

It is the real step of sd.trainer with its loader, on random examples. The measures are images per second,
peak memory, and the share of the device's own matrix product rate in the same run. Nothing is downloaded.
"""

import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from diffusers import (
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sd import models
from sd.config import Config
from sd.families import family
from sd.feedback.index import Row
from sd.machine import make_accelerator
from sd.trainer import Trainer
from toy.diffusion import flow
from toy.errors import InputError

# published configurations: what differs from the defaults of their class
SD15 = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
SD21 = {"sample_size": 96, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20)}
SDXL = {
    "sample_size": 128,
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SD3 = {
    "num_layers": 24,
    "num_attention_heads": 24,
    "caption_projection_dim": 1536,
    "pos_embed_max_size": 192,
}
SD35_MEDIUM = SD3 | {"pos_embed_max_size": 384, "dual_attention_layers": tuple(range(13))}
SD35_LARGE = SD3 | {"num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432}
LINEAR, NORMED = {"use_linear_projection": True}, {"qk_norm": "rms_norm"}
TRANSFORMERS = {"sd3": SD3, "sd35-medium": SD35_MEDIUM | NORMED, "sd35-large": SD35_LARGE | NORMED}
UNETS = {"tiny": None, "sd15": SD15, "sd21": SD21 | LINEAR, "sdxl": SDXL | LINEAR}
MODELS = UNETS | TRANSFORMERS
# batches that fit a card of 80 GB without checkpointing
BATCHES = {"tiny": 32, "sd15": 8, "sd21": 4, "sdxl": 2, "sd3": 2, "sd35-medium": 2, "sd35-large": 1}
GPU = torch.cuda.is_available()


def bench(
    model: str | None,
    batch: int | None,
    precision: str | None,
    gradient_checkpointing: bool,
    compile: bool,
    seconds: float,
) -> list[Path]:
    """Measure full fine-tuning and LoRA, if asked also with torch.compile, and print a row for each."""
    size, precision = model or ("sd15" if GPU else "tiny"), precision or ("bf16" if GPU else "fp32")
    if not GPU and MODELS[size]:
        raise InputError(f"--model {size} needs a GPU; on a CPU use --model tiny")
    batch = batch or BATCHES[size]
    name = torch.cuda.get_device_name() if GPU else f"{torch.get_num_threads()} CPU threads"
    print(f"{size}, batch {batch}, {precision}, torch {torch.__version__}, {name}")
    print(f"forward pass: {forward_flop(size) / 1e12:.4f} TFLOP per image")
    print(f"{'':18}{'images/s':>10}{'ms/step':>10}{'GB':>8}{'of matmul':>11}")
    config = Config(
        model="-", data="-", out="-", batch=batch, accumulate=1, precision=precision, warmup=0,
        workers=4 if GPU else 0, gradient_checkpointing=gradient_checkpointing
    )  # fmt: skip
    for with_compile, tune in product([False, True] if compile else [False], ("full", "lora")):
        row = f"{tune}, compiled" if with_compile else tune
        try:
            rate, memory, share = measure_share(
                size, replace(config, tune=tune, compile=with_compile), seconds
            )
        except torch.cuda.OutOfMemoryError:  # this row's failure is not the next one's
            print(f"{row:18}  out of memory: try a smaller --batch, or --gradient-checkpointing")
            continue
        print(f"{row:18}{rate:10.1f}{1000 * batch / rate:10.1f}{memory:8.1f}{share:11.2f}")
    return []


def make_denoiser(size: str) -> nn.Module:
    """A UNet or transformer of this size with random weights."""
    if size == "tiny":
        from sd.tiny import unet

        return unet.make_unet()
    if size in TRANSFORMERS:
        return SD3Transformer2DModel(**TRANSFORMERS[size])
    return UNet2DConditionModel(**UNETS[size])


class MadeUp:
    """A cache of random examples, and their index."""

    images, liked, threshold = 64, 32, None

    def __init__(self, denoiser: nn.Module, config: Config, side: int):
        rng = np.random.default_rng(0)
        self.index, self.pairs, self.pixels = self, config.pairs, 8 * side
        self.shape = (denoiser.config.in_channels, side, side)
        self.unreadable = np.zeros(self.images, bool)
        self.latents = rng.standard_normal((self.images, *self.shape), np.float32)
        shapes = family(denoiser).condition_shapes(denoiser)
        self.condition = {k: rng.standard_normal(shape, np.float32) for k, shape in shapes.items()}

    def image(self, number: int) -> Row:
        liked = number % 2 == 0 if self.pairs else number < self.liked
        return Row("", 1, int(liked), 0.5, number)

    def normalised(self, score: float) -> float:
        return score

    def latent(self, number: int, mirrored: bool, noise: np.ndarray) -> tuple[np.ndarray, list[int]]:
        return self.latents[number], [self.pixels, self.pixels, 0, 0, self.pixels, self.pixels]

    def caption(self, number: int, desirable: int) -> str:
        return ""

    def text(self, caption: str) -> dict[str, np.ndarray]:
        return self.condition


def forward_flop(size: str) -> int:
    """Floating-point operations of one image's forward pass, which torch counts without computing it."""
    with torch.device("meta"):
        denoiser, process = make_denoiser(size), flow()
        kind, side = family(denoiser), denoiser.config.sample_size
        kind.prepare(denoiser)
        shapes = kind.condition_shapes(denoiser) | {"sizes": (6,)}
        xt = torch.empty(1, denoiser.config.in_channels, side, side)
        condition = {name: torch.empty(1, *shape) for name, shape in shapes.items()}
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            kind.predict(denoiser.to("meta"), xt, torch.zeros(1, dtype=torch.long), condition, process)
    return counter.get_total_flops()


def duration(work: Callable[[], object]) -> float:
    """Seconds until `work` is done, on the device too."""
    if GPU:
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if GPU:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def machine_rate(precision: str) -> float:
    """FLOP/s of a large matrix product in the training precision: the median of several."""
    side, device = (8192, "cuda") if GPU else (1024, "cpu")
    a = torch.randn(side, side, device=device, dtype=models.DTYPES[precision])
    durations = [duration(lambda: a @ a) for _ in range(12)]
    return 2 * side**3 / statistics.median(durations[2:])


def measure_share(size: str, config: Config, seconds: float) -> tuple[float, float, float]:
    """(images per second, peak memory in GB, share of the machine's matrix product rate)."""
    denoiser = make_denoiser(size)
    scheduler = DDIMScheduler(prediction_type="v_prediction" if size == "sd21" else "epsilon")
    if size in TRANSFORMERS:
        scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipeline = SimpleNamespace(**{family(denoiser).denoiser_name: denoiser}, scheduler=scheduler)
    before = machine_rate(config.precision)
    rate, memory = measure(pipeline, config, make_accelerator(config), denoiser.config.sample_size, seconds)
    machine = statistics.median([before, machine_rate(config.precision)])
    # in forward passes, a step is the policy's, its backward pass (2, or 1 with frozen weights), the
    # reference's, and with checkpointing the policy's again
    passes = (4 if config.tune == "full" else 3) + config.gradient_checkpointing
    return rate, memory, rate * passes * forward_flop(size) / machine


def measure(
    pipeline, config: Config, accelerator: Accelerator, side: int, seconds: float
) -> tuple[float, float]:
    """(images or pairs per second and process, peak memory in GB) of a run's steps, on random latents with
    sides of this length."""
    gc.collect()  # the models of the row before refer to themselves, and so hold their memory
    torch.cuda.empty_cache()
    rates, endless = [], {"steps": 10**7, "save_every": 10**7, "log_every": 10**7}
    with tempfile.TemporaryDirectory() as out:
        config = replace(config, out=out, **endless)
        trainer = Trainer(config, accelerator, pipeline, MadeUp(models.denoiser(pipeline), config, side), {})
        if GPU:
            torch.cuda.reset_peak_memory_stats()
        steps = trainer.steps()
        for _ in range(3 if seconds < 10 else 5):  # to compile, tune and fill the loader
            next(steps)
        count = max(3, int(seconds / duration(lambda: next(steps))))
        for _ in range(broadcast_object_list([count])[0]):  # processes must take equally many steps
            rates.append(config.batch * config.accumulate / duration(lambda: next(steps)))
    return statistics.median(rates), torch.cuda.max_memory_allocated() / 1e9 if GPU else float("nan")
