"""Stable Diffusion pipelines: load, encode, prepare for training, save."""

import copy
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline
from diffusers.training_utils import cast_training_params
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from torch import Tensor, nn

from sd.config import PRECISIONS, Config
from sd.families import FAMILIES, Condition, family
from toy.cli import is_main_process
from toy.diffusion import Process
from toy.errors import InputError

DTYPES = dict(zip(PRECISIONS, (torch.float32, torch.bfloat16, torch.float16), strict=True))


def load(folder: str | Path) -> DiffusionPipeline:
    """The pipeline in a folder, in float32 (a T5, which is large, in bfloat16), from safetensors only. Raises
    InputError if there is none, or if it is of another kind or lacks a component."""
    quiet()
    path = Path(folder)
    try:
        index = json.loads((path / "model_index.json").read_text())
        name = index["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no folder of a diffusers pipeline: no usable model_index.json"
        ) from error
    if name not in FAMILIES:
        raise InputError(f"{path} holds a {name}; supported are {', '.join(FAMILIES)}")
    kind = FAMILIES[name]
    options = dict(kind.unused)
    for component in (kind.denoiser_name, *kind.encoders, *kind.others):
        if not (path / component).is_dir():
            if component not in kind.optional:
                raise InputError(f"{path} has no folder '{component}'; download the whole model")
            options[component] = None
            continue
        files = {file.name for file in (path / component).iterdir()}
        complete = {"vocab.json", "merges.txt"} <= files or "tokenizer.json" in files
        if component.startswith("tokenizer") and not complete:
            raise InputError(f"{path / component} has no vocab.json and merges.txt; download the whole model")
    if "text_encoder_3" in options and index.get("text_encoder_3", [None])[0] and is_main_process():
        print(f"note: {path} has no folder 'text_encoder_3' (T5): zeros stand in its place")
    weights = [file.name for file in (path / kind.denoiser_name).glob("*.safetensors*")]
    variant = "fp16" if weights and all(".fp16." in name for name in weights) else None
    try:
        pipeline = DiffusionPipeline.from_pretrained(
            path, local_files_only=True, use_safetensors=True, variant=variant, **options
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{path} does not load: {str(error).splitlines()[0]}") from error
    for module in (denoiser(pipeline), *encoders(pipeline)):
        module.to(torch.bfloat16 if isinstance(module, transformers.T5EncoderModel) else torch.float32)
        module.eval().requires_grad_(False)
    kind.prepare(denoiser(pipeline))
    try:
        kind.process(pipeline.scheduler)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return pipeline


def quiet() -> None:
    """Turn off the progress bars and warnings of the libraries, which would bury our own."""
    for library in (transformers, diffusers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


def denoiser(pipeline: DiffusionPipeline) -> nn.Module:
    """What is trained: the UNet, or the transformer of v3."""
    return getattr(pipeline, "transformer", None) or pipeline.unet


def process(pipeline: DiffusionPipeline) -> Process:
    """How noise is added, and what the denoiser predicts."""
    return family(denoiser(pipeline)).process(pipeline.scheduler)


def encoders(pipeline: DiffusionPipeline) -> list[nn.Module]:
    """The frozen models that encode images and captions. Cached examples do not need them."""
    parts = (getattr(pipeline, name) for name in family(denoiser(pipeline)).encoders)
    return [part for part in parts if part is not None]


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
    """Mean and standard deviation of the latents of images in [-1, 1], in the denoiser's scale:
    (B, 2C, h, w)."""
    latent, config = pipeline.vae.encode(pixels).latent_dist, pipeline.vae.config
    shift = getattr(config, "shift_factor", None) or 0.0
    return torch.cat([(latent.mean - shift) * config.scaling_factor, latent.std * config.scaling_factor], 1)


@torch.no_grad()
def encode_text(pipeline: DiffusionPipeline, captions: list[str]) -> Condition:
    """Captions as the pipeline itself encodes them: see sd.families."""
    return family(denoiser(pipeline)).encode_text(pipeline, captions)


def predict(pipeline: DiffusionPipeline, xt: Tensor, t: Tensor, condition: Condition) -> Tensor:
    """What the denoiser predicts of noisy latents xt at timesteps t, in float32."""
    model = denoiser(pipeline)
    return family(model).predict(model, xt, t, condition, process(pipeline))


def policy_and_reference(model: nn.Module, config: Config) -> tuple[nn.Module, nn.Module | None]:
    """The trainable denoiser, and its frozen copy if the objective needs a reference. LoRA needs no copy: its
    reference is the denoiser with the adapters switched off."""
    family(model).prepare(model)
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    if config.tune == "full":
        reference = None
        if config.run.needs.reference:
            reference = round_weights(copy.deepcopy(model), config.precision)
        return model.requires_grad_(True).train(), reference
    add_adapters(round_weights(model, config.precision), config)
    cast_training_params(model, torch.float32)
    return model.train(), None


def add_adapters(model: nn.Module, config: Config) -> None:
    """Add LoRA adapters to the attention layers."""
    layers = list(family(model).adapted)
    adapters = LoraConfig(r=config.lora_rank, lora_alpha=config.lora_rank, target_modules=layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model.add_adapter(adapters)


def round_weights(model: nn.Module, precision: str) -> nn.Module:
    """Store the weights of linear layers and convolutions in `precision`, to which autocast would round them
    at every use. That saves memory, and policy and reference still start equal to the bit."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.to(DTYPES[precision])
    return model


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """A context in which the adapters of a model do nothing. It sets peft's own flag, because
    disable_adapters() would also change requires_grad, which neither DDP nor a compiled graph expects."""
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
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
        model = denoiser(pipeline)
        layers = get_peft_model_state_dict(model)
        if family(model).denoiser_name == "unet":  # each as the training scripts of diffusers name its layers
            layers = convert_state_dict_to_diffusers(layers)
        type(pipeline).save_lora_weights(out, **{f"{family(model).denoiser_name}_lora_layers": layers})
