"""Draw images of prompts into a folder, to judge a model by: PNG files, and index.csv, which lists them.

After an interruption, the same command resumes and ends with the same images.
"""

import hashlib
import json
from pathlib import Path

from accelerate import PartialState
from diffusers import DiffusionPipeline
from PIL import Image, PngImagePlugin
from safetensors import SafetensorError
from tqdm import tqdm

from sd import models
from sd.draw import BATCH, draw_batch, name_noises
from sd.judging.prompts import Prompt, read_prompts
from sd.machine import gpu_memory, start_judging
from toy.errors import InputError
from toy.files import output_folder, save_atomically, save_csv, save_json

COLUMNS = ("file_name", "prompt", "style", "number", "index")  # of index.csv


@gpu_memory("use a smaller --batch")
def main(
    model: str, prompts: str, out: str, *, lora: str | None, prefix: str, precision: str | None, **options
) -> list[Path]:
    """Load a model, report what is unusual about the prompts, and draw. Returns index.csv."""
    state, device = start_judging()
    texts, folder = read_prompts(prompts), output_folder(out)
    pipeline, name = models.load(model), model_name(model)
    if lora:
        load_lora(pipeline, lora)
        name += f" + {model_name(lora)}"
    pipeline.to(device, models.DTYPES[precision or ("bf16" if device == "cuda" else "fp32")])
    if device == "cuda":
        pipeline.vae.enable_slicing()  # to decode a batch of XL at once would take 50 GB
    say = print if state.is_main_process else lambda text: None
    if too_long := count_too_long(pipeline, [prefix + prompt.text for prompt in texts]):
        say(f"{too_long} of {len(texts)} prompts are longer than the text encoder takes, and are cut")
    if repetitions := len(texts) - len({prompt.text for prompt in texts}):
        say(f"{repetitions} of {len(texts)} prompts repeat an earlier one; each has a noise of its own")
    index = sample(pipeline, texts, folder, name=name, prefix=prefix, **options)
    say(f"{len(texts) * options['count']} images of {len(texts)} prompts")
    return [index] if state.is_main_process else []


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
    """Draw `count` images per prompt into a folder, as PNG files that record prompt, seed and model. Returns
    index.csv, which is written last. Of n processes, each draws every n-th batch. A prefix goes before every
    prompt, but changes neither the index nor the noise. Raises InputError if the folder holds images made in
    another way, or if there are too many steps."""
    state, most = PartialState(), pipeline.scheduler.config.num_train_timesteps
    if steps >= most:
        raise InputError(f"--steps {steps} must be below {most}, the number of steps of the model's training")
    denoiser = models.denoiser(pipeline)
    settings = {
        "model": name,
        "weights": [models.digest(part) for part in (denoiser, *models.encoders(pipeline))],
        "scheduler": type(pipeline.scheduler).__name__,
        "device and precision": f"{pipeline.device.type}, {denoiser.dtype}",
        "prompts": hashlib.sha256(json.dumps(prompts).encode()).hexdigest()[:16],
    }
    settings |= {"prefix": prefix, "count": count, "seed": seed, "steps": steps, "guidance": guidance}
    with state.main_process_first():
        _claim(out, settings | {"batch": batch})
    rows = [(f"{p:05d}-{i}.png", *prompt, p, i) for p, prompt in enumerate(prompts) for i in range(count)]
    noises = list(name_noises([prompt for _, prompt, *_ in rows]))
    batches = [slice(k, k + batch) for k in range(0, len(rows), batch)]
    batches = batches[state.process_index :: state.num_processes]
    # a batch that lacks an image is drawn again as a whole, so that its images are the same to the bit
    todo = [part for part in batches if not all(_readable(out / file) for file, *_ in rows[part])]
    skip, quiet = len(batches) - len(todo), not state.is_main_process
    for part in tqdm(todo, name, initial=skip, total=len(batches), leave=False, disable=quiet):
        texts = [prefix + prompt for _, prompt, *_ in rows[part]]
        images = draw_batch(pipeline, texts, noises[part], steps, guidance, seed)
        for image, (file, prompt, *_) in zip(images, rows[part], strict=True):
            note = PngImagePlugin.PngInfo()
            for key, value in {"prompt": prefix + prompt, "seed": str(seed), "model": name}.items():
                note.add_itxt(key, value)
            pixels = Image.fromarray((255 * image.permute(1, 2, 0)).round().byte().numpy())
            save_atomically(out / file, lambda path, p=pixels, n=note: p.save(path, pnginfo=n))
    state.wait_for_everyone()
    return out / "index.csv" if quiet else save_csv(out / "index.csv", COLUMNS, rows)


def _claim(out: Path, settings: dict) -> None:
    """Record how the images of a folder are made. Raises InputError if they were made in another way."""
    file = out / "sampling.json"
    if any(out.iterdir()):
        try:
            theirs = {} | json.loads(file.read_text())
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{out} holds something other than samples; choose another --out") from error
        other = ", ".join(key for key, value in settings.items() if theirs.get(key) != value)
        if other:
            raise InputError(f"{out} holds images made with another {other}; choose another --out")
    save_json(file, settings)


def _readable(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            image.verify()
    except Exception:  # PIL's are of any kind
        return False
    return True


def load_lora(pipeline: DiffusionPipeline, folder: str | Path) -> None:
    """Add the adapters that `sd train --tune lora` saved. Raises InputError if they do not fit."""
    file = "pytorch_lora_weights.safetensors"
    if not (Path(folder) / file).is_file():
        raise InputError(f"no {file} in {folder}; --lora is the folder 'lora' of a run with --tune lora")
    try:
        pipeline.load_lora_weights(folder, weight_name=file, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise InputError(f"{folder} does not fit the model: {str(error).strip().splitlines()[0]}") from error
    if not pipeline.get_active_adapters():
        raise InputError(f"{folder} does not fit the model: it has no adapters for it")


def model_name(folder: str | Path) -> str:
    """The name of a model in its images: that of its folder or of its run, without the path."""
    path = Path(folder).resolve()
    return path.parent.name if path.name in ("model", "lora") else path.name


def count_too_long(pipeline: DiffusionPipeline, texts: list[str]) -> int:
    """The number of texts that are longer than a text encoder (of several, one) takes."""
    names = ("tokenizer", "tokenizer_2", "tokenizer_3")
    tokenizers = [t for t in (getattr(pipeline, name, None) for name in names) if t]
    return sum(any(len(t(text).input_ids) > t.model_max_length for t in tokenizers) for text in texts)
