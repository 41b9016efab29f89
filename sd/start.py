"""What a run starts from: its devices, its model and its data; and what it will do, in words."""

from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import DiffusionPipeline

from sd import models
from sd.config import Config
from sd.feedback import cache, check
from sd.feedback.index import find_csv, open_index
from sd.machine import make_accelerator
from toy.alarms import one_class
from toy.errors import InputError
from toy.files import output_folder


def open_run(config: Config) -> tuple[Config, Accelerator, DiffusionPipeline, cache.Cache]:
    """Everything a run starts from: its settings with the batch of each process, the devices, the model, and
    the data with what was encoded before. Raises InputError for settings that do not fit the rest."""
    accelerator = make_accelerator(config)
    config = config.shared_by(accelerator.num_processes)
    if result_folder(config).resolve() == Path(config.model).resolve():
        raise InputError(f"--out {config.out} would put the result where --model is; choose another --out")
    output_folder(config.out)
    csv = find_csv(config.data, config.pairs)
    pipeline = models.load(config.model)
    folder = output_folder(config.cache or csv.parent / "cache", "--cache")
    with accelerator.main_process_first():
        place = output_folder(folder / csv.stem, "--cache")
        index = open_index(csv, place, config.intersections, config.threshold)
    check.refuse_missing(index, config, accelerator.num_processes)
    models.move_encoders(pipeline, accelerator.device)
    with accelerator.main_process_first():
        examples = cache.Cache(config, pipeline, index, folder)
    examples.find(accelerator.num_processes)
    return config, accelerator, pipeline, examples


def announce(config: Config, accelerator: Accelerator, examples: cache.Cache) -> list[str]:
    """Where a run works and what it has to do, in lines. Raises InputError if the disk is too small."""
    device, processes = accelerator.device, accelerator.num_processes
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{torch.get_num_threads()} threads"
    step = f"{config.total_batch} {'pairs' if config.pairs else 'images'}"
    if processes > 1:
        step += f", {config.batch} on each of {processes} processes"
    if config.accumulate > 1:
        step += f", in {config.accumulate} batches"
    lines = [f"{device.type} ({name}), {config.precision}, {config.tune}; {config.steps} steps of {step}"]
    if config.cached:
        images, captions = len(examples.lacking), len(examples.find_captions())
        size = examples.disk_space(images, captions)
        examples.images.refuse_too_large(size)
        text = f"{images} images and {captions} captions to encode, {size / 1e9:.1f} GB"
        lines.append(f"{text}, into {examples.images.folder.parent}")
    if config.run.needs.reference_point and config.reference_point == "batch":
        warning = one_class(config.gamma, config.batch * processes)
        lines += [f"warning: {warning}"] if warning else []
    return lines


def result_folder(config: Config) -> Path:
    return Path(config.out) / ("model" if config.tune == "full" else "lora")
