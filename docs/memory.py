"""The memory of every recipe, counted on fake tensors, as a table: python docs/memory.py (takes minutes)"""

from dataclasses import replace

from sd.bench import SIZES
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
    size = SIZES[recipe.rpartition("-")[2]]
    options = f" `{name}`" if name else ""
    return f"| `{recipe}`{options} | {config.batch} | {count_memory(size, config) / 1e9:.1f} |"


if __name__ == "__main__":
    print("| recipe | batch of a process | GB |\n|---|---:|---:|")
    for path in sorted(RECIPES.glob("*-*.toml")):
        for name, config in variants(path.stem).items():
            print(row(path.stem, name, config), flush=True)
