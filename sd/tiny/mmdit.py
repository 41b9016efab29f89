"""The tiny Stable Diffusion 3: a transformer that predicts a flow's velocity, and its two text encoders.

Esser et al. 2024. Image and text are tokens of one sequence, with weights of their own and joint attention.
"""

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DiffusionPipeline, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from sd.tiny import shapes, unet
from toy.diffusion import flow

PROCESS = flow()
RATE, WARMUP = 4e-3, 0.1  # the learning rate, and the share of the steps that it rises
ZEROS = 256  # tokens of zeros behind the text, where the published model has its third text encoder's


def make(vocabulary: int) -> list[nn.Module]:
    """What is trained: the transformer and its two text encoders, with random weights."""
    text = [unet.make_text_encoder(vocabulary, CLIPTextModelWithProjection) for _ in range(2)]
    return [make_transformer(), *text]


def make_transformer() -> SD3Transformer2DModel:
    sizes = {"sample_size": shapes.PIXELS // 4, "pos_embed_max_size": shapes.PIXELS // 4, "patch_size": 1}
    sizes |= {"num_layers": 4, "num_attention_heads": 2, "attention_head_dim": 32, "in_channels": 4}
    sizes |= {"out_channels": 4, "caption_projection_dim": 64}
    text = {"joint_attention_dim": 2 * unet.TEXT, "pooled_projection_dim": 2 * unet.TEXT}
    return SD3Transformer2DModel(**sizes, **text)


def draw_t(count: int, g: torch.Generator) -> Tensor:
    """Timesteps (count,), most of them in the middle, where there is most to learn: logit-normal."""
    return (len(PROCESS) * torch.randn(count, generator=g).sigmoid()).long()


def encode(text: list[nn.Module], tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Text (B, 16 + 256, D) and pooled text (B, D) as the pipeline encodes them: both text encoders' last
    states but one, side by side, before the tokens of zeros."""
    outputs = [model(tokens, output_hidden_states=True) for model in text]
    states = torch.cat([output.hidden_states[-2] for output in outputs], -1)
    return F.pad(states, (0, 0, 0, ZEROS)), torch.cat([output.text_embeds for output in outputs], -1)


def predict(models: list[nn.Module], xt: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
    """The velocity. The transformer's own timesteps are 1000 sigma, hence t + 1."""
    transformer, *text = models
    return transformer(xt, *encode(text, tokens), t + 1).sample


def assemble(models: list[nn.Module], tokenizer: CLIPTokenizer, vae: AutoencoderKL) -> DiffusionPipeline:
    """The pipeline. Its sampler spends more steps on much noise, as the published one does: shift 3."""
    from diffusers import StableDiffusion3Pipeline  # here, because its import prints

    vae.register_to_config(shift_factor=0.0, _name_or_path="")  # it needs a number; and says not where it lay
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    parts = dict(zip(("transformer", "text_encoder", "text_encoder_2"), models, strict=True))
    parts |= {"tokenizer": tokenizer, "tokenizer_2": tokenizer, "vae": vae, "scheduler": scheduler}
    return StableDiffusion3Pipeline(**parts, text_encoder_3=None, tokenizer_3=None)
