"""Does the plane predict images? The plane's half: python docs/predict.py

Paths of many utilities and objectives at the usual beta, in three worlds: how good each becomes, and how far
it can be pushed before it breaks. Ten minutes of CPU time; each world is kept in out/paths, and measured only if
it is not there. Writes figures/paths.json and figures/paths.png.
"""

import json
from pathlib import Path

from docs import more_utilities
from toy import data, paths, plots
from toy.__main__ import CACHE
from toy.experiments import BETA
from toy.files import output_folder, save_json
from toy.objectives import Run
from toy.utilities import UTILITIES

ROOT = Path(__file__).parent.parent
WORLDS, SEEDS = ("figure6", "moons", "grid"), 5
MORE = {f.__name__: f for f in vars(more_utilities).values() if callable(f)}
RUNS = {name: Run(name, beta=BETA["diffusion"]) for name in ("sft", "csft", "diffusion_dpo", "smpo")}
RUNS |= {name: Run(utility=utility, beta=BETA["diffusion"]) for name, utility in (UTILITIES | MORE).items()}


def measured(world: str) -> list[dict]:
    """The paths in a world, from out/paths or measured now."""
    file = output_folder(ROOT / "out" / "paths") / f"{world}.json"
    if not file.exists():
        save_json(file, {"rows": paths.paths(data.WORLDS[world](), list(RUNS.items()), SEEDS, CACHE)})
    return json.loads(file.read_text())["rows"]


if __name__ == "__main__":
    rows = {world: measured(world) for world in WORLDS}
