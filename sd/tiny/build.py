"""Train a tiny but genuine Stable Diffusion pipeline from nothing, on a CPU in minutes, offline.

python -m sd tiny --out DIR draws the captioned images of sd.tiny.shapes, trains a tokenizer, a VAE, and a
UNet together with its text encoder, and saves a folder with the files and keys of a published checkpoint.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sd import models
from sd.draw import draw
from sd.tiny import shapes
from sd.tiny.runs import GUIDANCE
from toy.diffusion import add_noise
from toy.errors import InputError
from toy.files import output_folder, save_folder
from toy.seeds import generator

LENGTH = 16  # tokens of a prompt


def main(out: str, seed: int) -> list[Path]:
    """Build the pipeline, and print how well it follows prompts. Returns its folder."""
    folder = output_folder(out)
    if any(folder.iterdir()) and not (folder / "model_index.json").exists():
        raise InputError(f"{folder} holds something other than a pipeline; choose another --out")
    build(folder, seed=seed)
    training, held_out = following(folder, shapes.KNOWN), following(folder, shapes.HELD_OUT * 5)
    print(f"it follows {training:.1%} of its training prompts and {held_out:.1%} of the held-out ones")
    return [folder]


def build(
    out: Path, images: int = 4320, vae_steps: tuple = (1600, 1000), unet_steps: int = 2200, seed: int = 0
) -> None:
    """Draw images, train a pipeline on them and save it in `out`. The VAE's steps are on random crops, then
    on whole images."""
    models.quiet()
    x, captions = shapes.training_set(images, seed)
    x = 2 * x - 1
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer, vae, unet = _tokenizer(), _vae(), make_unet()
        text = _text_encoder(len(tokenizer))
    for _ in tqdm(train_vae(vae, x, vae_steps, seed), "VAE", total=sum(vae_steps)):
        pass
    with torch.no_grad():
        moments = torch.cat([vae.encode(part).latent_dist.parameters for part in x.split(240)])
    vae.register_to_config(scaling_factor=1 / moments[:, :4].std().item())
    tokens = torch.tensor(tokenizer(["", *captions], padding="max_length", truncation=True).input_ids)
    for ema in tqdm(train_unet(unet, text, vae, moments, tokens, unet_steps, seed), "UNet", total=unet_steps):
        pass
    for model, average in zip((unet, text), ema, strict=True):
        model.load_state_dict(average)
    save(assemble(tokenizer, vae, text, unet), out)


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


def train_unet(
    unet: nn.Module, text: nn.Module, vae: nn.Module, moments: Tensor, tokens: Tensor, steps: int, seed: int
) -> Iterator[list[dict[str, Tensor]]]:
    """Train UNet and text encoder to denoise latents under their captions, or in 10% of the cases under the
    empty one, tokens[0]. Yields the running average of both models' weights."""
    g = generator("unet", seed)
    models = [unet.train(), text.train()]
    weights = [p for model in models for p in model.parameters()]
    optimizer = torch.optim.AdamW(weights, fused=True)
    schedule = OneCycleLR(optimizer, 2e-3, steps)
    ema = [{k: v.clone() for k, v in model.state_dict().items()} for model in models]
    mean, std = moments[:, :4], (0.5 * moments[:, 4:]).exp()
    for _ in range(steps):
        i = torch.randint(len(mean), (32,), generator=g)
        x0, eps = (torch.randn(len(i), *mean.shape[1:], generator=g) for _ in range(2))
        x0 = (mean[i] + std[i] * x0) * vae.config.scaling_factor
        t = torch.randint(len(ABAR), (len(i),), generator=g)
        caption = torch.where(torch.rand(len(i), generator=g) < 0.1, 0, i + 1)
        hidden = text(tokens[caption]).last_hidden_state
        loss = F.mse_loss(unet(add_noise(x0, t, eps, ABAR), t, hidden).sample, eps)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        for average, model in zip(ema, models, strict=True):
            torch._foreach_lerp_(list(average.values()), list(model.state_dict().values()), 0.01)
        yield ema
    for model in models:
        model.eval()


def assemble(tokenizer, vae, text, unet) -> DiffusionPipeline:
    """The pipeline, with a scheduler that does not clip latents."""
    from diffusers import StableDiffusionPipeline  # here, because its import prints

    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    scheduler = DDIMScheduler(**schedule, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    parts = {"tokenizer": tokenizer, "vae": vae, "text_encoder": text, "unet": unet, "scheduler": scheduler}
    none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return StableDiffusionPipeline(**parts, **none)


def save(pipeline: DiffusionPipeline, out: Path) -> None:
    """Save with the layout of a published checkpoint, replacing what was there. VAE and UNet are saved in
    half precision, to be small; the text encoder is not, because transformers would then run it so."""
    for model in (pipeline.vae, pipeline.unet):
        model.half()

    def write(folder: Path) -> None:
        pipeline.save_pretrained(folder)
        pipeline.tokenizer._tokenizer.model.save(str(folder / "tokenizer"))  # vocab.json and merges.txt
        (folder / "tokenizer" / "tokenizer.json").unlink()
        weights = folder / "text_encoder" / "model.safetensors"
        tensors = {f"text_model.{k.removeprefix('text_model.')}": v for k, v in load_file(weights).items()}
        save_file(tensors, weights, metadata={"format": "pt"})  # published checkpoints have the prefix

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


def _text_encoder(vocabulary: int) -> CLIPTextModel:
    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"vocab_size": vocabulary, "max_position_embeddings": LENGTH, "projection_dim": 64}
    model = CLIPTextModel(CLIPTextConfig(bos_token_id=0, eos_token_id=1, pad_token_id=1, **sizes))
    nn.init.normal_(model.get_input_embeddings().weight)  # the usual 0.02 keeps words alike for too long
    return model


def _vae() -> AutoencoderKL:
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3}
    sizes = {"block_out_channels": (16, 24, 32), "norm_num_groups": 8, "sample_size": shapes.PIXELS}
    return AutoencoderKL(**blocks, **sizes)


def make_unet() -> UNet2DConditionModel:
    blocks = {"down_block_types": ["CrossAttnDownBlock2D"] * 2, "up_block_types": ["CrossAttnUpBlock2D"] * 2}
    sizes = {"block_out_channels": (32, 64), "norm_num_groups": 8, "sample_size": shapes.PIXELS // 4}
    sizes |= {"layers_per_block": 1, "attention_head_dim": 4, "cross_attention_dim": 64}
    return UNet2DConditionModel(**blocks, **sizes)
