"""Scorers rate images under their prompts: load("redness"), load("pickscore=DIR").

redness, following and left need no files. The others read published weights from a folder: clip, pickscore,
aesthetic, hpsv2 and imagereward. Weights are read from safetensors only, and used in float32. A scorer takes
a batch of RGB images with their prompts and returns scores (n,) on the CPU.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from PIL import Image, ImageOps
from torch import Tensor, nn

from sd import models
from sd.judging.weights import BLIP, find, fit, from_open_clip, head, part, read, rename
from sd.tiny import shapes
from toy.errors import InputError

Images = list[Image.Image]
VISION = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "layer_norm_eps": 1e-6}
VISION |= {"num_attention_heads": 16, "image_size": 224, "patch_size": 16}  # sizes of ImageReward
LANGUAGE = {"num_attention_heads": 12, "encoder_hidden_size": 1024}  # its other sizes are BERT's


class Scorer:
    """Scores what it has prepared. To prepare images takes no weights, and may be done in another process.
    Prompts that are cut, because they are longer than the text encoder takes, are added to `too_long`."""

    device, too_long = "cpu", frozenset()

    def __call__(self, images: Images, prompts: list[str]) -> Tensor:
        return self.score(self.prepare(images), prompts)


class Redness(Scorer):
    """The mean of the red channel minus the mean of all channels (Li et al. 2024, Figure 7)."""

    name = "redness"

    def prepare(self, images: Images) -> Tensor:
        return torch.cat([shapes.redness(_pixels(image)) for image in images])

    def score(self, inputs: Tensor, prompts: list[str]) -> Tensor:
        return inputs


class Following(Scorer):
    """1 if an image shows all that its prompt, a caption of the tiny world, asks for; else 0."""

    name = "following"

    def prepare(self, images: Images) -> Tensor:
        size = (shapes.PIXELS, shapes.PIXELS)
        images = [image if image.size == size else image.resize(size, Image.BOX) for image in images]
        return torch.cat([_pixels(image) for image in images])

    def score(self, inputs: Tensor, prompts: list[str]) -> Tensor:
        for prompt in prompts:
            if prompt not in shapes.BY_CAPTION:
                captions = f"captions of the tiny world, such as '{shapes.SCENES[0].caption}'"
                raise InputError(f"the scorer 'following' knows only {captions}, not '{prompt}'")
        return shapes.follows(inputs, prompts).float()


class Left(Following):
    """By how many pixels the shape lies left of the middle: a taste of the tiny world (see sd.tiny.votes)."""

    name = "left"

    def score(self, inputs: Tensor, prompts: list[str]) -> Tensor:
        return shapes.left(inputs)


class Published(Scorer):
    """A scorer with published weights and a tokenizer."""

    def __init__(self, folder: Path, device: str):
        self.folder, self.device, self.too_long = folder, device, set()

    def __getstate__(self) -> dict:
        """For processes that prepare images: all but the weights."""
        return {name: part for name, part in vars(self).items() if not isinstance(part, nn.Module)}

    def prepare(self, images: Images) -> Tensor:
        """(n, 3, H, W): the shorter side resized, the centre cropped, and the colours normalised."""
        return self.processor([_middle(image) for image in images], return_tensors="pt").pixel_values

    def file(self, pattern: str) -> Path:
        return find(self.folder, pattern, f"{self.name} reads {self.source}")

    def tokens(self, prompts: list[str]) -> dict[str, Tensor]:
        """input_ids and attention_mask (n, L), cut to the length that the text encoder takes."""
        lengths = [len(ids) for ids in self.tokenizer(prompts).input_ids]
        self.too_long |= {p for p, length in zip(prompts, lengths, strict=True) if length > self.limit}
        options = {"padding": True, "truncation": True, "max_length": self.limit, "return_tensors": "pt"}
        tokens = self.tokenizer(prompts, **options).to(self.device)
        return {k: tokens[k] for k in ("input_ids", "attention_mask")}


class CLIPScore(Published):
    """max(100 cos, 0) between the embeddings of image and text, as in torchmetrics (Hessel et al. 2021)."""

    name = "clip"
    source = "the files of a CLIP, such as openai/clip-vit-large-patch14 on Hugging Face"

    def __init__(self, folder: Path, device: str):
        super().__init__(folder, device)
        self.tokenizer = self._read(transformers.CLIPTokenizer, "tokenizer.json", "vocab.json")
        self.processor = self._read(_image_processor(), "preprocessor_config.json")
        config = self._read(transformers.CLIPConfig, "config.json")
        self.limit, self.side = config.text_config.max_position_embeddings, config.vision_config.image_size
        weights, state = self.weights()
        self.model = fit(transformers.CLIPModel, config, state, weights).to(device)

    def _read(self, kind: type, *needed: str):
        """An object of transformers, read from the folder, which must have one of the needed files."""
        if not any((self.folder / name).is_file() for name in needed):
            self.file(needed[-1])
        try:
            return kind.from_pretrained(self.folder, local_files_only=True)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"{self.folder / needed[-1]}: {str(error).splitlines()[0]}") from error

    def weights(self) -> tuple[Path, dict[str, Tensor]]:
        path = self.file("model.safetensors")
        return path, read(path)

    def image(self, pixels: Tensor) -> Tensor:
        """Embeddings (n, D) of length 1."""
        features = self.model.vision_model(pixel_values=pixels.to(self.device)).pooler_output
        return F.normalize(self.model.visual_projection(features), dim=-1)

    def text(self, prompts: list[str]) -> Tensor:
        """Embeddings (n, D) of length 1."""
        features = self.model.text_model(**self.tokens(prompts)).pooler_output
        return F.normalize(self.model.text_projection(features), dim=-1)

    def scale(self, cosine: Tensor) -> Tensor:
        return (100 * cosine).clamp(min=0)

    @torch.no_grad()
    def score(self, inputs: Tensor, prompts: list[str]) -> Tensor:
        return self.scale((self.image(inputs) * self.text(prompts)).sum(-1)).cpu()


class PickScore(CLIPScore):
    """exp(logit_scale) cos: a CLIP fine-tuned on Pick-a-Pic (Kirstain et al. 2023)."""

    name, source = "pickscore", "the files of yuvalkirstain/PickScore_v1 on Hugging Face"

    def scale(self, cosine: Tensor) -> Tensor:
        return self.model.logit_scale.exp() * cosine


class HPSv2(CLIPScore):
    """cos, by a CLIP fine-tuned on human preferences (Wu et al. 2023); its weights have open_clip's names."""

    name = "hpsv2"
    source = (
        "HPS_v2_compressed or HPS_v2.1_compressed of xswu/HPSv2 as safetensors, and beside it the "
        "configuration and tokenizer of laion/CLIP-ViT-H-14-laion2B-s32B-b79K, both on Hugging Face"
    )

    def weights(self) -> tuple[Path, dict[str, Tensor]]:
        path = self.file("HPS*.safetensors")
        return path, from_open_clip(read(path))

    def prepare(self, images: Images) -> Tensor:
        """(n, 3, H, W): the longer side resized, the rest black, and the colours normalised."""
        side = self.side
        mean = torch.tensor(self.processor.image_mean).view(3, 1, 1)
        std = torch.tensor(self.processor.image_std).view(3, 1, 1)
        out = torch.zeros(len(images), 3, side, side)
        for k, image in enumerate(images):
            high, wide = (max(round(side / max(image.size) * x), 1) for x in image.size[::-1])
            # no antialias: torchvision had none for tensors when these weights and their scores were made
            small = F.interpolate(_pixels(image), (high, wide), mode="bicubic")
            top, left = (side - high) // 2, (side - wide) // 2
            out[k, :, top : top + high, left : left + wide] = small[0]
        return (out - mean) / std

    def scale(self, cosine: Tensor) -> Tensor:
        return cosine


class Aesthetic(CLIPScore):
    """LAION's aesthetic score, about 1 to 10: a linear head, or an MLP, on the image's CLIP embedding."""

    name = "aesthetic"
    source = (
        "the files of openai/clip-vit-large-patch14 on Hugging Face, and beside them a head as safetensors: "
        "sa_0_4_vit_l_14_linear of LAION-AI/aesthetic-predictor on GitHub, or "
        "sac+logos+ava1-l14-linearMSE of christophschuhmann/improved-aesthetic-predictor on GitHub"
    )

    def __init__(self, folder: Path, device: str):
        super().__init__(folder, device)
        path = self.file("*linear*.safetensors")
        self.head = head(read(path), self.model.config.projection_dim, path).to(device)

    @torch.no_grad()
    def score(self, inputs: Tensor, prompts: list[str]) -> Tensor:
        return self.head(self.image(inputs))[:, 0].cpu()


class ImageReward(Published):
    """ImageReward-v1.0 (Xu et al. 2023): BLIP's text encoder attends to the image; an MLP reads [CLS]."""

    name, limit = "imagereward", 35
    source = (
        "ImageReward of THUDM/ImageReward as safetensors, and beside it vocab.txt of "
        "google-bert/bert-base-uncased, both on Hugging Face"
    )
    mean, std = 0.16717362830052426, 1.0333394966054072  # of its rewards, as published

    def __init__(self, folder: Path, device: str):
        super().__init__(folder, device)
        path, vocabulary = self.file("ImageReward*.safetensors"), self.file("vocab.txt")
        self.tokenizer = transformers.BertTokenizer.from_pretrained(vocabulary.parent, local_files_only=True)
        side = VISION["image_size"]
        sizes = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
        self.processor = _image_processor()(**sizes)
        state = read(path)
        config = transformers.BlipVisionConfig(**VISION)
        weights = rename(part(state, "blip.visual_encoder."), BLIP)
        self.vision_model = fit(transformers.BlipVisionModel, config, weights, path).to(device)
        config, kind = transformers.BlipTextConfig(**LANGUAGE), transformers.BlipTextModel
        weights = part(state, "blip.text_encoder.")
        self.text_model = fit(kind, config, weights, path, add_pooling_layer=False).to(device)
        self.head = head(part(state, "mlp."), config.hidden_size, path).to(device)

    @torch.no_grad()
    def score(self, inputs: Tensor, prompts: list[str]) -> Tensor:
        image = self.vision_model(pixel_values=inputs.to(self.device)).last_hidden_state
        text = self.text_model(**self.tokens(prompts), encoder_hidden_states=image).last_hidden_state
        reward = self.head(text[:, 0])[:, 0]
        return ((reward - self.mean) / self.std).cpu()


KINDS = (Redness, Following, Left, CLIPScore, PickScore, Aesthetic, HPSv2, ImageReward)
SCORERS = {kind.name: kind for kind in KINDS}


def load(spec: str, device: str = "cpu") -> Scorer:
    """The scorer for `name` or `name=DIR`. Raises InputError for an unknown name, for missing files (telling
    what to download), and for weights of another architecture."""
    models.quiet()
    name, folder = split(spec)
    kind = SCORERS[name]
    if not issubclass(kind, Published):
        if folder:
            raise InputError(f"the scorer '{name}' needs no folder: leave out '={folder}'")
        return kind()
    if not folder or not Path(folder).is_dir():
        raise InputError(f"no folder '{folder}': use {name}=DIR, where DIR holds {kind.source}")
    return kind(Path(folder), device)


def split(spec: str) -> tuple[str, str]:
    """Name and folder of a scorer. Raises InputError for an unknown name."""
    name, _, folder = spec.partition("=")
    if name not in SCORERS:
        raise InputError(f"unknown scorer '{name}': use one of {', '.join(SCORERS)}")
    return name, folder


def fingerprint(spec: str) -> str:
    """A scorer's name and the names, sizes and times of its weights: by these, scores are told apart."""
    name, folder = split(spec)
    files = sorted(Path(folder).glob("*.safetensors")) if folder else []
    return " ".join([name, *(f"{f.name} {f.stat().st_size} {f.stat().st_mtime_ns}" for f in files)])


def _pixels(image: Image.Image) -> Tensor:
    """(1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255


def _middle(image: Image.Image) -> Image.Image:
    """The middle of a long image: what is cropped anyway would fill the memory when it is resized."""
    margins = [max(0, side - 16 * min(image.size)) // 2 for side in image.size]
    return ImageOps.crop(image, (*margins, *margins)) if any(margins) else image


def _image_processor() -> type:
    """CLIP's preprocessing with PIL, as when the scores were published; transformers 5 renamed it."""
    return getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
