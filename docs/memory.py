"""The memory of every recipe, counted on fake tensors, as a table: python docs/memory.py (takes minutes)"""

from dataclasses import replace

import torch

from sd.bench import MODELS, make_denoiser
from sd.config import RECIPES, Config, configure
from sd.memory import count_memory


def variants(recipe: str) -> dict[str, Config]:
    """A recipe on one GPU as it is, and in the smallest form that keeps its objective."""
    config = configure(recipe, model="-", data="-", out="-").shared_by(1)
    batch = 1 if config.pairs else 2
    small = replace(config, batch=batch, gradient_checkpointing=True)
    return (
        {"": config} if small == config else {"": config, f"--batch {batch} --gradient-checkpointing": small}
    )


def row(recipe: str, name: str, config: Config) -> str:
    size = next(size for size in MODELS if size in recipe)
    with torch.device("meta"):
        denoiser = make_denoiser(size)
    need = count_memory(denoiser, config, denoiser.config.sample_size)
    options = f" `{name}`" if name else ""
    return f"| `{recipe}`{options} | {config.batch} | {need / 1e9:.1f} |"


if __name__ == "__main__":
    print("| recipe | batch of a process | GB |\n|---|---:|---:|")
    for path in sorted(RECIPES.glob("*-sd*.toml")):
        if path.stem == "tiny-sd3":
            continue
        for name, config in variants(path.stem).items():
            print(row(path.stem, name, config), flush=True)
