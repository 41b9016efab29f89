"""Stable Diffusion pipelines (v1, v2, XL): load, encode, predict, prepare for training, save."""

import copy
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import cast_training_params
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from torch import Tensor, nn

from sd.config import PRECISIONS, Config
from toy.diffusion import eps_from_velocity
from toy.errors import InputError

SD = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
KINDS = {"StableDiffusionPipeline": SD, "StableDiffusionXLPipeline": (*SD, "text_encoder_2", "tokenizer_2")}
DTYPES = dict(zip(PRECISIONS, (torch.float32, torch.bfloat16, torch.float16), strict=True))
Condition = dict[str, Tensor]  # text (B, L, D); for XL also pooled (B, D2) and sizes (B, 6)


def load(folder: str | Path) -> DiffusionPipeline:
    """The pipeline in a folder, in float32, from safetensors only. Raises InputError if there is none, or
    if it is of another kind or lacks a component."""
    quiet()
    path = Path(folder)
    try:
        kind = json.loads((path / "model_index.json").read_text())["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no folder of a diffusers pipeline: no usable model_index.json"
        ) from error
    if kind not in KINDS:
        raise InputError(f"{path} holds a {kind}; supported are {' and '.join(KINDS)}")
    for component in KINDS[kind]:
        if not (path / component).is_dir():
            raise InputError(f"{path} has no folder '{component}'; download the whole model")
        files = {file.name for file in (path / component).iterdir()}
        complete = {"vocab.json", "merges.txt"} <= files or "tokenizer.json" in files
        if component.startswith("tokenizer") and not complete:
            raise InputError(f"{path / component} has no vocab.json and merges.txt; download the whole model")
    weights = [file.name for file in (path / "unet").glob("*.safetensors*")]
    variant = "fp16" if weights and all(".fp16." in name for name in weights) else None
    unused = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    options = unused if KINDS[kind] == SD else {}
    try:
        pipeline = DiffusionPipeline.from_pretrained(
            path, local_files_only=True, use_safetensors=True, variant=variant, **options
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{path} does not load: {str(error).splitlines()[0]}") from error
    for name in KINDS[kind]:
        if isinstance(module := getattr(pipeline, name), nn.Module):
            module.float().eval().requires_grad_(False)
    return pipeline


def quiet() -> None:
    """Turn off the progress bars and warnings of the libraries, which would bury our own."""
    for library in (transformers, diffusers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


def is_xl(pipeline: DiffusionPipeline) -> bool:
    return hasattr(pipeline, "text_encoder_2")


def predicts_velocity(pipeline: DiffusionPipeline) -> bool:
    kind = pipeline.scheduler.config.prediction_type
    if kind not in ("epsilon", "v_prediction"):
        raise InputError(f"the scheduler predicts '{kind}'; supported are epsilon and v_prediction")
    return kind == "v_prediction"


def encoders(pipeline: DiffusionPipeline) -> list[nn.Module]:
    """The frozen models that encode images and captions. Cached examples do not need them."""
    names = ("vae", "text_encoder", "text_encoder_2")
    return [getattr(pipeline, name) for name in names if hasattr(pipeline, name)]


def move_encoders(pipeline: DiffusionPipeline, device: torch.device | str) -> None:
    for module in encoders(pipeline):
        module.to(device)


def digest(module: nn.Module) -> str:
    """A short fingerprint of a module's weights."""
    state, total = module.state_dict(), hashlib.blake2b(digest_size=8)
    for name in sorted(state):
        total.update(name.encode())
        total.update(state[name].detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return total.hexdigest()


@torch.no_grad()
def encode_images(pipeline: DiffusionPipeline, pixels: Tensor) -> Tensor:
    """Mean and standard deviation of the latents of images in [-1, 1], in the UNet's scale: (B, 2C, h, w)."""
    latent, config = pipeline.vae.encode(pixels).latent_dist, pipeline.vae.config
    shift = getattr(config, "shift_factor", None) or 0.0
    return torch.cat([(latent.mean - shift) * config.scaling_factor, latent.std * config.scaling_factor], 1)


@torch.no_grad()
def encode_text(pipeline: DiffusionPipeline, captions: list[str]) -> Condition:
    """Text (B, L, D), and for XL pooled (B, D2), as the pipeline itself encodes captions."""
    device = next(pipeline.text_encoder.parameters()).device
    options = {"device": device, "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    if not is_xl(pipeline):
        return {"text": pipeline.encode_prompt(captions, **options)[0]}
    text, _, pooled, _ = pipeline.encode_prompt(captions, **options)
    if pipeline.config.force_zeros_for_empty_prompt:  # as the sampler does for guidance
        empty = torch.tensor([not caption for caption in captions], device=device)
        text, pooled = text.masked_fill(empty[:, None, None], 0), pooled.masked_fill(empty[:, None], 0)
    return {"text": text, "pooled": pooled}


def predict(unet: nn.Module, xt: Tensor, t: Tensor, condition: Condition) -> Tensor:
    """What the UNet predicts, eps or v, in float32."""
    xl = None
    if "pooled" in condition:
        xl = {"text_embeds": condition["pooled"], "time_ids": condition["sizes"]}
    return unet(xt, t, condition["text"], added_cond_kwargs=xl, return_dict=False)[0].float()


def predict_eps(
    unet: nn.Module, xt: Tensor, t: Tensor, condition: Condition, abar: Tensor, velocity: bool
) -> Tensor:
    """The noise eps that the UNet's prediction, eps or v, stands for."""
    out = predict(unet, xt, t, condition)
    return eps_from_velocity(out, t, xt, abar) if velocity else out


def policy_and_reference(unet: UNet2DConditionModel, config: Config) -> tuple[nn.Module, nn.Module | None]:
    """The trainable UNet, and its frozen copy if the objective needs a reference. LoRA needs no copy: its
    reference is the UNet with the adapters switched off."""
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    if config.tune == "full":
        reference = None
        if config.run.needs.reference:
            reference = round_weights(copy.deepcopy(unet), config.precision)
        return unet.requires_grad_(True).train(), reference
    add_adapters(round_weights(unet, config.precision), config)
    cast_training_params(unet, torch.float32)
    return unet.train(), None


def add_adapters(unet: UNet2DConditionModel, config: Config) -> None:
    """Add LoRA adapters to the attention layers."""
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    adapters = LoraConfig(r=config.lora_rank, lora_alpha=config.lora_rank, target_modules=targets)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        unet.add_adapter(adapters)


def round_weights(unet: nn.Module, precision: str) -> nn.Module:
    """Store the weights of linear layers and convolutions in `precision`, to which autocast would round them
    at every use. That saves memory, and policy and reference still start equal to the bit."""
    for module in unet.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.to(DTYPES[precision])
    return unet


@contextmanager
def without_adapters(unet: nn.Module) -> Iterator[None]:
    """A context in which the adapters of the UNet do nothing. It sets peft's own flag, because
    disable_adapters() would also change requires_grad, which neither DDP nor a compiled graph expects."""
    layers = [module for module in unet.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def save_weights(pipeline: DiffusionPipeline, config: Config, out: Path) -> None:
    """Save a folder that diffusers can load: the whole pipeline, or the LoRA file."""
    if config.tune == "full":
        pipeline.save_pretrained(out)
    else:
        layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(pipeline.unet))
        type(pipeline).save_lora_weights(out, unet_lora_layers=layers)
