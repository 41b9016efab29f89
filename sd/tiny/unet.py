"""The tiny Stable Diffusion: a UNet that predicts the noise, and its text encoder."""

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sd.tiny import shapes
from toy.diffusion import variance_preserving

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SCHEDULER = DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
PROCESS = variance_preserving(SCHEDULER.alphas_cumprod)
RATE, WARMUP = 2e-3, 0.3  # the learning rate, and the share of the steps that it rises
LENGTH, TEXT = 16, 64  # tokens of a prompt, and the width of a text encoder


def make(vocabulary: int) -> list[nn.Module]:
    """What is trained: the UNet and its text encoder, with random weights."""
    return [make_unet(), make_text_encoder(vocabulary, CLIPTextModel)]


def make_unet() -> UNet2DConditionModel:
    blocks = {"down_block_types": ["CrossAttnDownBlock2D"] * 2, "up_block_types": ["CrossAttnUpBlock2D"] * 2}
    sizes = {"block_out_channels": (32, 64), "norm_num_groups": 8, "sample_size": shapes.PIXELS // 4}
    sizes |= {"layers_per_block": 1, "attention_head_dim": 4, "cross_attention_dim": TEXT}
    return UNet2DConditionModel(**blocks, **sizes)


def make_text_encoder(vocabulary: int, kind: type) -> nn.Module:
    sizes = {"hidden_size": TEXT, "intermediate_size": 4 * TEXT, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "projection_dim": TEXT}
    sizes |= {"vocab_size": vocabulary, "max_position_embeddings": LENGTH}
    model = kind(CLIPTextConfig(bos_token_id=0, eos_token_id=1, pad_token_id=1, **sizes))
    nn.init.normal_(model.get_input_embeddings().weight)  # the usual 0.02 keeps words alike for too long
    return model


def draw_t(count: int, g: torch.Generator) -> Tensor:
    """Timesteps (count,), all equally likely."""
    return torch.randint(len(PROCESS), (count,), generator=g)


def predict(models: list[nn.Module], xt: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
    """The noise."""
    unet, text = models
    return unet(xt, t, text(tokens).last_hidden_state).sample


def assemble(models: list[nn.Module], tokenizer: CLIPTokenizer, vae: AutoencoderKL) -> DiffusionPipeline:
    """The pipeline; its scheduler does not clip latents."""
    from diffusers import StableDiffusionPipeline  # here, because its import prints

    unet, text = models
    parts = {"tokenizer": tokenizer, "vae": vae, "text_encoder": text, "unet": unet, "scheduler": SCHEDULER}
    none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return StableDiffusionPipeline(**parts, **none)
