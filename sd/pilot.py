"""--beta auto: beta from pilots, by the rule of toy/beta.py, before a run starts."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from sd.config import MOST, Config
from sd.trainer import settings, train
from toy.beta import SHARE, find_beta, liked_gains
from toy.cli import is_main_process
from toy.errors import InputError
from toy.files import output_folder, save_json


def settle(config: Config, tell: Callable[[str], None] = lambda line: None) -> Config:
    """The same settings with the beta that pilots find, if beta is auto and the objective reads it.

    A pilot is the run's own beginning, a sixth of its steps, without checkpoints. The beta is kept in
    out/beta.json, so that a run that resumes has the same. Raises InputError if a pilot breaks.
    """
    if config.beta or not config.run.needs.reference_point:
        return config
    file, identity = output_folder(config.out) / "beta.json", settings(config, 1)
    if file.exists():
        try:
            content = json.loads(file.read_text("utf-8"))
            beta, theirs = float(content["beta"]), content["settings"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise InputError(f"{file} is damaged: delete it, or give --beta the number of the run") from error
        if theirs == identity:
            return replace(config, beta=beta)
    steps = max(4, round(SHARE * config.steps))
    tell(f"beta: auto, from mostly one or two pilots of {steps} steps, before the {config.steps} of the run")
    quiet = replace(config, save_every=MOST, out=str(Path(config.out) / "pilot"))

    def gains(beta: float) -> Tensor:
        states = islice(train(replace(quiet, beta=beta)), steps + 1)  # the first is that of step 0
        bar = tqdm(states, f"pilot at beta {beta:.3g}", steps + 1, leave=False, disable=not is_main_process())
        return liked_gains([inputs for state in bar for inputs in state.inputs])

    beta, count = find_beta(config.run.utility, gains)
    shutil.rmtree(quiet.out, ignore_errors=True)
    tell(f"beta: {beta:g}, found by {count} pilot{'s' * (count > 1)} of {steps} steps")
    if is_main_process():
        save_json(file, {"beta": beta, "settings": identity})
    return replace(config, beta=beta)
