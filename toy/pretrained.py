"""Pretrained models, kept in a folder, so that the next command need not train them again."""

from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from toy.data import World
from toy.errors import InputError
from toy.files import save_atomically
from toy.model import PROCESSES, WIDTH, Denoiser
from toy.seeds import generator
from toy.train import PRETRAIN_STEPS, last, pretrain

POINTS = 10_000  # pretraining points
SETTINGS = pretrain.__kwdefaults__  # a kept model must have been made with these


def pretrained(world: World, seed: int, cache: Path, process: str = "diffusion") -> Denoiser:
    """The model pretrained on a world with a seed: from the cache, or trained now and put there."""
    name = world.name if process == "diffusion" else f"{world.name}-{process}"
    path = cache / f"{name}-{seed}.safetensors"
    points = world.base(POINTS, generator("pretraining points", seed))
    settings = SETTINGS | {
        "process": process,
        "seed": seed,
        "points": points.double().sum().item(),
        "width": WIDTH,
    }
    settings = {key: str(value) for key, value in settings.items()}
    model = Denoiser(process=PROCESSES[process])
    if path.exists():
        try:
            with safe_open(path, "pt") as file:
                theirs = file.metadata()
            if theirs == settings:
                model.load_state_dict(safetensors.torch.load_file(path))
                return model
            tqdm.write(f"{path} was pretrained with other settings: training it anew")
        except (SafetensorError, RuntimeError, OSError) as error:
            tqdm.write(f"{path} is damaged ({InputError(str(error))}): training it anew")
    states = tqdm(
        pretrain(points, process=model.process, seed=seed),
        f"pretraining, seed {seed}",
        PRETRAIN_STEPS,
        leave=False,
    )
    model = last(states).policy
    content = safetensors.torch.save(model.state_dict(), settings)  # save_file hides what a full disk says
    save_atomically(path, lambda temporary: temporary.write_bytes(content))
    return model
