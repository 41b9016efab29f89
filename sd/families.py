"""What differs between the families of Stable Diffusion: v1 and v2, XL, and 3. One more is one more class.

The denoiser is what is trained: a UNet, or in v3 a transformer. A condition is what it is told beside xt and
t: text (B, L, D); for XL and v3 pooled (B, D2) too; for XL sizes (B, 6); for v3 with a T5 its text, t5.
"""

from typing import ClassVar

import torch
from diffusers import DiffusionPipeline, SD3Transformer2DModel
from torch import Tensor, nn
from torch.nn.functional import pad

from sd.attention import OneForMany
from toy.diffusion import Process, flow, variance_preserving
from toy.errors import InputError

Condition = dict[str, Tensor]
CONDITION = ("text", "pooled", "sizes", "t5")  # all names
TOKENS = 77  # of a caption in CLIP
T5_TOKENS = 256  # of a caption in T5, as the pipeline draws


class StableDiffusion:
    """v1 and v2: a UNet under the text of one CLIP, with diffusion in eps or v."""

    denoiser_name = "unet"
    encoders = ("vae", "text_encoder")
    others = ("tokenizer", "scheduler")
    optional = ()  # components that may be missing
    unused: ClassVar = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    adapted = ("to_q", "to_k", "to_v", "to_out.0")  # the layers that adapters are added to

    def process(self, scheduler) -> Process:
        """The noise of a pipeline's scheduler. Raises InputError for one of another family."""
        kinds = {"epsilon": "eps", "v_prediction": "v"}
        kind = scheduler.config.get("prediction_type")
        if not hasattr(scheduler, "alphas_cumprod") or kind not in kinds:
            what = f"a {type(scheduler).__name__} that predicts '{kind}'"
            raise InputError(
                f"the scheduler is {what}; this model needs diffusion in epsilon or v_prediction"
            )
        return variance_preserving(scheduler.alphas_cumprod.float(), kinds[kind])

    def prepare(self, denoiser: nn.Module) -> None:
        """Make the denoiser ready for predict() and drawing()."""

    def drawing(self, pipeline: DiffusionPipeline) -> dict:
        """Options of the pipeline's call."""
        return {}

    def side_step(self, denoiser: nn.Module) -> int:
        """The side of latents must be a multiple of this."""
        return 2 ** (len(denoiser.config.block_out_channels) - 1)

    def condition_shapes(self, denoiser: nn.Module) -> dict[str, tuple[int, ...]]:
        """Of one caption, in published models."""
        return {"text": (TOKENS, denoiser.config.cross_attention_dim)}

    def encode_text(self, pipeline: DiffusionPipeline, captions: list[str]) -> Condition:
        """Captions as the pipeline itself encodes them."""
        return {"text": _encode_prompt(pipeline, captions)[0]}

    def predict(
        self, denoiser: nn.Module, xt: Tensor, t: Tensor, condition: Condition, process: Process
    ) -> Tensor:
        """What the denoiser predicts of xt at timesteps t, in float32."""
        return denoiser(xt, t, condition["text"], return_dict=False)[0].float()


class StableDiffusionXL(StableDiffusion):
    """XL: two CLIPs, their pooled text, and the sizes of the image."""

    encoders = ("vae", "text_encoder", "text_encoder_2")
    others = ("tokenizer", "tokenizer_2", "scheduler")
    unused: ClassVar = {}

    def condition_shapes(self, denoiser: nn.Module) -> dict[str, tuple[int, ...]]:
        return super().condition_shapes(denoiser) | {"pooled": (1280,)}

    def encode_text(self, pipeline: DiffusionPipeline, captions: list[str]) -> Condition:
        text, _, pooled, _ = _encode_prompt(pipeline, captions)
        if pipeline.config.force_zeros_for_empty_prompt:  # as the sampler does for guidance
            empty = torch.tensor([not caption for caption in captions], device=text.device)
            text, pooled = text.masked_fill(empty[:, None, None], 0), pooled.masked_fill(empty[:, None], 0)
        return {"text": text, "pooled": pooled}

    def predict(
        self, denoiser: nn.Module, xt: Tensor, t: Tensor, condition: Condition, process: Process
    ) -> Tensor:
        told = {"text_embeds": condition["pooled"], "time_ids": condition["sizes"]}
        return denoiser(xt, t, condition["text"], added_cond_kwargs=told, return_dict=False)[0].float()


class StableDiffusion3(StableDiffusion):
    """3 and 3.5: a transformer under two CLIPs and a T5, with flow matching. In place of a missing T5 stand
    zeros, as in the pipeline; see sd.attention."""

    denoiser_name = "transformer"
    encoders = ("vae", "text_encoder", "text_encoder_2", "text_encoder_3")
    others = ("tokenizer", "tokenizer_2", "tokenizer_3", "scheduler")
    optional = ("text_encoder_3", "tokenizer_3")
    unused: ClassVar = {}
    adapted = (*StableDiffusion.adapted, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")

    def process(self, scheduler) -> Process:
        config = scheduler.config
        if "shift" not in config or config.get("use_dynamic_shifting"):
            kind = type(scheduler).__name__
            raise InputError(f"the scheduler is a {kind}; this model needs flow matching with a fixed shift")
        return flow(config.num_train_timesteps, config.shift)

    def prepare(self, denoiser: nn.Module) -> None:
        denoiser.set_attn_processor(OneForMany())

    def drawing(self, pipeline: DiffusionPipeline) -> dict:
        [kind] = set(map(type, pipeline.transformer.attn_processors.values()))
        if pipeline.text_encoder_3 or kind is not OneForMany:
            return {}
        return {"max_sequence_length": 1, "joint_attention_kwargs": {"copies": T5_TOKENS}}

    def side_step(self, denoiser: nn.Module) -> int:
        return denoiser.config.patch_size

    def condition_shapes(self, denoiser: nn.Module) -> dict[str, tuple[int, ...]]:
        pooled = denoiser.config.pooled_projection_dim
        return {"text": (TOKENS, pooled), "pooled": (pooled,)}

    def encode_text(self, pipeline: DiffusionPipeline, captions: list[str]) -> Condition:
        text, _, pooled, _ = _encode_prompt(pipeline, captions, prompt_2=None, prompt_3=None)
        clips = pipeline.text_encoder, pipeline.text_encoder_2
        length, width = pipeline.tokenizer_max_length, sum(clip.config.hidden_size for clip in clips)
        condition = {"text": text[:, :length, :width], "pooled": pooled}  # the rest are zeros, or T5's
        return condition | ({"t5": text[:, length:]} if pipeline.text_encoder_3 else {})

    def predict(
        self, denoiser: nn.Module, xt: Tensor, t: Tensor, condition: Condition, process: Process
    ) -> Tensor:
        text, pooled, options = condition["text"], condition["pooled"], {"return_dict": False}
        if "t5" in condition:
            text = pad(text, (0, condition["t5"].shape[-1] - text.shape[-1]))
            text = torch.cat([text, condition["t5"]], 1)
        else:
            config = getattr(denoiser, "module", denoiser).config  # also inside DDP
            text = pad(text, (0, config.joint_attention_dim - text.shape[-1], 0, 1))
            options["joint_attention_kwargs"] = {"copies": T5_TOKENS}
        sigma = process.noise.take(t.expand(len(xt)))
        return denoiser(xt, text, pooled, 1000 * sigma, **options)[0].float()


FAMILIES = {
    "StableDiffusionPipeline": StableDiffusion(),
    "StableDiffusionXLPipeline": StableDiffusionXL(),
    "StableDiffusion3Pipeline": StableDiffusion3(),
}


def family(denoiser: nn.Module) -> StableDiffusion:
    """The family that a denoiser belongs to."""
    if isinstance(denoiser, SD3Transformer2DModel):
        return FAMILIES["StableDiffusion3Pipeline"]
    return FAMILIES[f"StableDiffusion{'XL' if denoiser.config.addition_embed_type else ''}Pipeline"]


def _encode_prompt(pipeline: DiffusionPipeline, captions: list[str], **options):
    device = next(pipeline.text_encoder.parameters()).device
    options |= {"device": device, "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    return pipeline.encode_prompt(captions, **options)
