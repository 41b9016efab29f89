"""The command python -m sd train RECIPE ...; on many GPUs, accelerate launch -m sd train RECIPE ...

After an interruption, the same command resumes from the last complete checkpoint. On a CPU it ends with the
same weights.
"""

import json
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from sd import trainer
from sd.config import Config, configure
from sd.machine import TRAINING, gpu_memory, only_run
from sd.pilot import settle
from toy.alarms import alarms
from toy.cli import is_main_process
from toy.files import save_atomically
from toy.utilities import check_utility


@gpu_memory(TRAINING)
def train(**options) -> list[Path]:
    """Train with the settings of a command line. Returns the files written."""
    return run(configure(**options))


def run(config: Config) -> list[Path]:
    """Train with progress, a log, pictures and advice, and write the weights. Returns the files written."""
    with only_run(config.out):
        return _run(config)


def _run(config: Config) -> list[Path]:
    for warning in check_utility(config.run.utility, config.utility) if is_main_process() else ():
        print(f"warning: {warning}")
    config = settle(config, tell=print if is_main_process() else lambda line: None)
    states = trainer.train(config, tell=print)
    live = next(states).trainer
    main = live.accelerator.is_main_process
    together = main or config.shard  # it takes every process to draw, or save, what is in parts
    log = live.out / "log.jsonl"
    if main:
        if live.step == config.steps:
            print(f"all {live.step} steps are done; raise --steps for more")
        elif live.step:
            print(f"resuming after step {live.step}")
        rows = log.read_text(errors="replace").splitlines(True) if log.exists() else []
        rows = [row for row in rows if 0 < _step(row) <= live.step]
        save_atomically(log, lambda path: path.write_text("".join(rows)))
    if config.tracker:
        prompts = {"validation_prompts": str(config.validation_prompts)}  # trackers know no tuples
        live.accelerator.init_trackers("diffusion-kto", asdict(config) | prompts)
    progress = tqdm(states, "aligning", config.steps, initial=live.step, disable=not main)
    history, told = [], set()
    for state in progress:
        if together and config.validate_every and state.step % config.validate_every == 0:
            live.picture(list(config.validation_prompts))
        if not state.metrics:
            continue
        if config.tracker:
            live.accelerator.log(state.metrics, state.step)
        if main:
            with open(log, "a") as file:
                file.write(json.dumps({"step": state.step} | state.metrics) + "\n")
        shown = [key for key in ("loss", "satisfied", "spread") if key in state.metrics]
        progress.set_postfix({key: f"{state.metrics[key]:.3g}" for key in shown})
        history.append(state.metrics)
        # the spread says little before a quarter of the steps; the same alarm only once
        for topic, text in alarms(history, config.beta).items() if main else ():
            if topic not in told and (topic != "beta" or state.step >= config.steps // 4):
                tqdm.write(f"step {state.step}: {text}")
                told.add(topic)
    files = [live.export(), log] if together else []
    live.accelerator.wait_for_everyone()
    live.accelerator.end_training()
    return files if main else []


def _step(row: str) -> int:
    """The step of a line of the log; 0 for one that an interruption cut, or that is no line of a log."""
    try:
        return int(json.loads(row)["step"]) if row.endswith("\n") else 0
    except (ValueError, TypeError, KeyError, RecursionError):
        return 0
