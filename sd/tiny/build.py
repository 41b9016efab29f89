"""Train a tiny but genuine Stable Diffusion pipeline from nothing, on a CPU in minutes, offline.

python -m sd tiny --out DIR draws the captioned images of sd.tiny.shapes, trains a tokenizer, a VAE, and a
UNet together with its text encoder, and saves a folder with the files and keys of a published checkpoint.
With --family sd3 it takes tokenizer and VAE from the committed pipeline, and trains a transformer together
with its two text encoders.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DiffusionPipeline
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import tqdm
from transformers import CLIPTokenizer

from sd import models
from sd.draw import draw
from sd.tiny import mmdit, shapes, unet
from sd.tiny.runs import GUIDANCE, PIPELINE
from sd.tiny.unet import LENGTH
from toy.diffusion import add_noise, target
from toy.errors import InputError
from toy.files import output_folder, save_folder
from toy.seeds import generator


def main(family: str, out: str, seed: int) -> list[Path]:
    """Build the pipeline, and print how well it follows prompts. Returns its folder."""
    folder = output_folder(out)
    if any(folder.iterdir()) and not (folder / "model_index.json").exists():
        raise InputError(f"{folder} holds something other than a pipeline; choose another --out")
    {"unet": build, "sd3": build_sd3}[family](folder, seed=seed)
    training, held_out = following(folder, shapes.KNOWN), following(folder, shapes.HELD_OUT * 5)
    print(f"it follows {training:.1%} of its training prompts and {held_out:.1%} of the held-out ones")
    return [folder]


def build(
    out: Path, images: int = 4320, vae_steps: tuple = (1600, 1000), steps: int = 2200, seed: int = 0
) -> None:
    """Draw images, train a pipeline on them and save it in `out`. The VAE's steps are on random crops, then
    on whole images."""
    models.quiet()
    x, captions = shapes.training_set(images, seed)
    x = 2 * x - 1
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer, vae = _tokenizer(), _vae()
        parts = unet.make(len(tokenizer))
    for _ in tqdm(train_vae(vae, x, vae_steps, seed), "VAE", total=sum(vae_steps)):
        pass
    moments = encode_images(vae, x)
    vae.register_to_config(scaling_factor=1 / moments[:, :4].std().item())
    tokens = encode_captions(tokenizer, captions)
    for _ in tqdm(train(unet, parts, vae, moments, tokens, steps, seed), "UNet", total=steps):
        pass
    save(unet.assemble(parts, tokenizer, vae), out)


def build_sd3(out: Path, images: int = 4320, steps: int = 1400, seed: int = 0) -> None:
    """The same for Stable Diffusion 3, with the committed pipeline's tokenizer and VAE."""
    committed = models.load(PIPELINE)
    tokenizer, vae = committed.tokenizer, committed.vae
    x, captions = shapes.training_set(images, seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = mmdit.make(len(tokenizer))
    moments, tokens = encode_images(vae, 2 * x - 1), encode_captions(tokenizer, captions)
    for _ in tqdm(train(mmdit, parts, vae, moments, tokens, steps, seed), "transformer", total=steps):
        pass
    save(mmdit.assemble(parts, tokenizer, vae), out)


def train_vae(vae: AutoencoderKL, x: Tensor, steps: tuple[int, int], seed: int) -> Iterator[float]:
    """Minimise L1 + squared error + a little KL, first on crops, which are many and cheap. Half of the images
    are tinted, so that the VAE can also show colours that the captions do not name. Yields the losses."""
    g = generator("vae", seed)
    optimizer = torch.optim.AdamW(vae.parameters(), fused=True)
    schedule = OneCycleLR(optimizer, 3e-3, sum(steps))
    for step in range(sum(steps)):
        real = x[torch.randint(len(x), (32,), generator=g)]
        if step < steps[0]:
            top, left = torch.randint(shapes.PIXELS // 2 + 1, (2,), generator=g).tolist()
            real = real[..., top : top + shapes.PIXELS // 2, left : left + shapes.PIXELS // 2]
        channel = F.one_hot(torch.randint(3, (32,), generator=g), 3)[..., None, None]
        amount = (torch.rand(32, 1, 1, 1, generator=g) - 0.5).clamp(min=0)
        real = real + channel * amount * (1 - real)
        latent = vae.encode(real).latent_dist
        copy = vae.decode(latent.mean + latent.std * torch.randn(latent.mean.shape, generator=g)).sample
        loss = F.l1_loss(copy, real) + F.mse_loss(copy, real) + 2e-6 * latent.kl().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        yield loss.item()


@torch.no_grad()
def encode_images(vae: AutoencoderKL, x: Tensor) -> Tensor:
    """Mean and logarithm of the variance of the latents of images in [-1, 1], (n, 8, 8, 8)."""
    return torch.cat([vae.encode(part).latent_dist.parameters for part in x.split(240)])


def encode_captions(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Tokens (1 + n, 16) of the empty caption and of all captions."""
    return torch.tensor(tokenizer(["", *captions], padding="max_length", truncation=True).input_ids)


def train(
    family: ModuleType,
    parts: list[nn.Module],
    vae: AutoencoderKL,
    moments: Tensor,
    tokens: Tensor,
    steps: int,
    seed: int,
) -> Iterator[float]:
    """Train a network and its text encoders to denoise latents under their captions, or in 10% of the cases
    under the empty one, tokens[0]. Yields the losses; at the end the weights are their running averages.
    `family` is sd.tiny.unet or sd.tiny.mmdit: which noise, which timesteps, and what is predicted."""
    g = generator("unet", seed)
    weights = [p for part in parts for p in part.train().parameters()]
    optimizer = torch.optim.AdamW(weights, fused=True)
    schedule = OneCycleLR(optimizer, family.RATE, steps, pct_start=family.WARMUP)
    ema = [{k: v.clone() for k, v in part.state_dict().items()} for part in parts]
    mean, std = moments[:, :4], (0.5 * moments[:, 4:]).exp()
    for _ in range(steps):
        i = torch.randint(len(mean), (32,), generator=g)
        x0, eps = (torch.randn(len(i), *mean.shape[1:], generator=g) for _ in range(2))
        x0 = (mean[i] + std[i] * x0) * vae.config.scaling_factor
        t = family.draw_t(len(i), g)
        caption = torch.where(torch.rand(len(i), generator=g) < 0.1, 0, i + 1)
        loss = error(family, parts, x0, t, eps, tokens[caption])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        for average, part in zip(ema, parts, strict=True):
            torch._foreach_lerp_(list(average.values()), list(part.state_dict().values()), 0.01)
        yield loss.item()
    for part, average in zip(parts, ema, strict=True):
        part.eval().load_state_dict(average)


def error(
    family: ModuleType, parts: list[nn.Module], x0: Tensor, t: Tensor, eps: Tensor, tokens: Tensor
) -> Tensor:
    """The mean squared error of the prediction for latents x0 with noise eps."""
    xt = add_noise(x0, t, eps, family.PROCESS)
    return F.mse_loss(family.predict(parts, xt, t, tokens), target(x0, t, eps, family.PROCESS))


def save(pipeline: DiffusionPipeline, out: Path) -> None:
    """Save with the layout of a published checkpoint, replacing what was there. VAE and network are saved in
    half precision, to be small; text encoders are not, because transformers would then run them so."""
    for name in {"vae", "unet", "transformer"} & set(pipeline.components):
        getattr(pipeline, name).half()

    def write(folder: Path) -> None:
        pipeline.save_pretrained(folder)
        for tokenizer in folder.glob("tokenizer*"):
            pipeline.tokenizer._tokenizer.model.save(str(tokenizer))  # vocab.json and merges.txt
            (tokenizer / "tokenizer.json").unlink()
        for weights in folder.glob("text_encoder*/model.safetensors"):
            tensors = {_published(name): tensor for name, tensor in load_file(weights).items()}
            save_file(tensors, weights, metadata={"format": "pt"})

    try:
        save_folder(out, write)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot write {out}: {error}") from error


def following(folder: Path, scenes: list[shapes.Scene]) -> float:
    """The share of scenes that the saved pipeline draws as their caption says, with one image each."""
    prompts = [scene.caption for scene in scenes]
    images = draw(models.load(folder), prompts, guidance=GUIDANCE)
    return shapes.follows(images, prompts).float().mean().item()


def _tokenizer() -> CLIPTokenizer:
    """Byte pairs of the captions, and every byte alone, so that any prompt can be written."""
    texts = [f"{mark} image, {c}" for c in shapes.BY_CAPTION for mark in ("good", "bad")]
    tokenizer = CLIPTokenizer().train_new_from_iterator(texts, vocab_size=800)
    model = json.loads(tokenizer._tokenizer.to_str())["model"]
    vocab, merges = model["vocab"], [tuple(merge) for merge in model["merges"]]
    for byte in sorted(ByteLevel.alphabet()):
        vocab.setdefault(f"{byte}</w>", len(vocab))
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)


def _vae() -> AutoencoderKL:
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3}
    sizes = {"block_out_channels": (16, 24, 32), "norm_num_groups": 8, "sample_size": shapes.PIXELS}
    return AutoencoderKL(**blocks, **sizes)


def _published(name: str) -> str:
    """A text encoder's key as in published checkpoints: all but the projection's have a prefix."""
    return name if name.startswith("text_projection.") else f"text_model.{name.removeprefix('text_model.')}"
