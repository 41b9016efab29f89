"""Images from prompts, each from a starting noise of its own that is the same for every model.

python -m sd.sample --model DIR --prompts FILE --out DIR writes PNG files and index.csv, which names them.
The same command goes on after an interruption, to the same images.
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from PIL import Image, PngImagePlugin
from safetensors import SafetensorError
from torch import Tensor
from tqdm import tqdm

from sd import models
from sd.cache import UNREADABLE
from sd.prompts import Prompt, read_prompts
from toy.__main__ import Parser, number
from toy.data import generator
from toy.errors import InputError
from toy.files import output_folder, save_atomically, save_csv, save_json

COLUMNS = ("file_name", "prompt", "style", "number", "index")  # of index.csv
BATCH = 16


def draw(
    pipeline: DiffusionPipeline,
    prompts: list[str],
    *,
    steps: int = 20,
    guidance: float | None = None,
    seed: int = 0,
    batch: int = BATCH,
) -> Tensor:
    """One image per prompt, (n, 3, H, W) in [0, 1] on the CPU. Image i starts from the noise of its
    prompt, seed and how often that prompt came before it, whatever the model and the batch. Guidance
    None is the pipeline's own default."""
    noises, images = list(name_noises(prompts)), []
    for k in range(0, len(prompts), batch):
        chosen = slice(k, k + batch)
        images.append(_draw(pipeline, prompts[chosen], noises[chosen], steps, guidance, seed))
    return torch.cat(images)


def name_noises(prompts: list[str]) -> Iterator[str]:
    """What each image's starting noise is drawn by: its prompt, and how often that came before."""
    before: dict[str, int] = {}
    for prompt in prompts:
        before[prompt] = before.get(prompt, -1) + 1
        yield f"{prompt} {before[prompt]}"


def sample(
    pipeline: DiffusionPipeline,
    prompts: list[Prompt],
    out: Path,
    *,
    name: str,
    count: int = 5,
    seed: int = 0,
    steps: int = 20,
    guidance: float | None = None,
    batch: int = BATCH,
    prefix: str = "",
) -> Path:
    """`count` images per prompt into a folder, as PNG that say prompt, seed and model; returns index.csv,
    written last. A prefix goes before every prompt, but not into the index or the choice of noise.

    Batches are drawn whole or not at all, so that images are the same to the bit after an interruption.
    Raises InputError if the folder holds images of something else.
    """
    settings = {
        "model": name,
        "weights": [models.digest(part) for part in (pipeline.unet, *models.encoders(pipeline))],
        "scheduler": type(pipeline.scheduler).__name__,
        "device and precision": f"{pipeline.device.type}, {pipeline.unet.dtype}",
        "prompts": hashlib.sha256(json.dumps(prompts).encode()).hexdigest()[:16],
        "prefix": prefix,
        "count": count,
        "seed": seed,
        "steps": steps,
        "guidance": guidance,
        "batch": batch,
    }
    _claim(out, settings)
    rows = [(f"{p:05d}-{i}.png", *prompt, p, i) for p, prompt in enumerate(prompts) for i in range(count)]
    noises = list(name_noises([prompt for _, prompt, *_ in rows]))
    batches = [slice(k, k + batch) for k in range(0, len(rows), batch)]
    todo = [chosen for chosen in batches if not all(_readable(out / file) for file, *_ in rows[chosen])]
    for chosen in tqdm(todo, name, initial=len(batches) - len(todo), total=len(batches), leave=False):
        texts = [prefix + prompt for _, prompt, *_ in rows[chosen]]
        images = _draw(pipeline, texts, noises[chosen], steps, guidance, seed)
        for image, (file, prompt, *_) in zip(images, rows[chosen], strict=True):
            note = PngImagePlugin.PngInfo()
            for key, value in {"prompt": prefix + prompt, "seed": str(seed), "model": name}.items():
                note.add_itxt(key, value)
            pixels = Image.fromarray((255 * image.permute(1, 2, 0)).round().byte().numpy())
            save_atomically(out / file, lambda path, p=pixels, n=note: p.save(path, pnginfo=n))
    return save_csv(out / "index.csv", COLUMNS, rows)


def _draw(
    pipeline: DiffusionPipeline,
    prompts: list[str],
    noises: list[str],
    steps: int,
    guidance: float | None,
    seed: int,
) -> Tensor:
    """One batch of images (B, 3, H, W)."""
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": steps, "output_type": "pt"}
    options |= {} if guidance is None else {"guidance_scale": guidance}
    generators = [generator(name, seed) for name in noises]
    return pipeline(prompts, generator=generators, **options).images.cpu().float()


def _claim(out: Path, settings: dict) -> None:
    """Note what a folder's images are made with; refuse one whose images were made otherwise."""
    file = out / "sampling.json"
    if any(out.iterdir()):
        try:
            known = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"{out} holds something else than samples; choose another --out") from error
        other = ", ".join(key for key, value in settings.items() if known.get(key) != value)
        if other:
            raise InputError(f"{out} holds images made with another {other}; choose another --out")
    save_json(file, settings)


def _readable(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            image.verify()
    except UNREADABLE:
        return False
    return True


def load_lora(pipeline: DiffusionPipeline, folder: str | Path) -> None:
    """Add the adapters that sd.train --tune lora saved. Raises InputError if they are not of this model."""
    file = "pytorch_lora_weights.safetensors"
    if not (Path(folder) / file).is_file():
        raise InputError(f"no {file} in {folder}; --lora is the folder 'lora' of a run with --tune lora")
    try:
        pipeline.load_lora_weights(folder, weight_name=file, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{folder} does not fit the model: {reason}") from error
    if not pipeline.get_active_adapters():
        raise InputError(f"{folder} does not fit the model: it has no adapters of its UNet")


def model_name(folder: str | Path) -> str:
    """How a model is called in its images: its folder, or its run's, and never the path to it."""
    path = Path(folder).resolve()
    return path.parent.name if path.name in ("model", "lora") else path.name


def count_cut(pipeline: DiffusionPipeline, texts: list[str]) -> int:
    """How many texts are longer than a text encoder takes: of XL's two, either."""
    tokenizers = [pipeline.tokenizer] + ([pipeline.tokenizer_2] if models.is_xl(pipeline) else [])
    return sum(any(len(t(text).input_ids) > t.model_max_length for t in tokenizers) for text in texts)


def main(argv: list[str] | None = None) -> int:
    parser = Parser("python -m sd.sample", description="Images of prompts, to judge a model by.")
    parser.add_argument("--model", required=True, metavar="DIR", help="folder of a Stable Diffusion pipeline")
    parser.add_argument("--lora", metavar="DIR", help="folder with adapters to add, RUN/lora")
    parser.add_argument(
        "--prompts", required=True, metavar="FILE", help="text file, CSV or PartiPrompts' TSV"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the images and index.csv")
    count = number(0, 1_000_000, int)
    parser.add_argument("--count", type=count, default=5, metavar="N", help="images per prompt (5)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the starting noises (0)")
    parser.add_argument("--steps", type=count, default=20, metavar="N", help="denoising steps (20)")
    parser.add_argument(
        "--guidance", type=float, metavar="G", help="guidance scale (the pipeline's own; tiny's is 3)"
    )
    parser.add_argument(
        "--batch", type=count, default=BATCH, metavar="N", help=f"images drawn together ({BATCH})"
    )
    parser.add_argument(
        "--prefix", default="", metavar="TEXT", help="before each prompt: csft's 'good image, '"
    )
    parser.add_argument(
        "--precision", choices=models.PRECISIONS, default="fp32", help="of the weights (fp32)"
    )
    try:
        options = parser.parse_args(argv)
        prompts = read_prompts(options.prompts)
        out = output_folder(options.out)
        pipeline = models.load(options.model)
        name = model_name(options.model)
        if options.lora:
            load_lora(pipeline, options.lora)
            name += f" + {model_name(options.lora)}"
        device = "cuda" if torch.cuda.is_available() else "cpu"
        pipeline.to(device, models.PRECISIONS[options.precision])
        cut = count_cut(pipeline, [options.prefix + prompt.text for prompt in prompts])
        if cut:
            print(f"{cut} of {len(prompts)} prompts are cut, being longer than the text encoder takes")
        if repeated := len(prompts) - len({prompt.text for prompt in prompts}):
            print(f"{repeated} of {len(prompts)} prompts are repeated; each time they get other noise")
        settings = ("count", "seed", "steps", "guidance", "batch", "prefix")
        index = sample(pipeline, prompts, out, name=name, **{k: getattr(options, k) for k in settings})
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except torch.cuda.OutOfMemoryError:
        print("error: the GPU's memory does not hold a batch; use a smaller --batch", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nerror: interrupted; the same command goes on from here", file=sys.stderr)
        return 2
    print(f"wrote {len(prompts) * options.count} images and {index}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
