"""Align Stable Diffusion: python -m sd train RECIPE ...; on many GPUs, accelerate launch -m sd train ...

Run the same command again after an interruption: it resumes from the last complete checkpoint, to the
same weights.
"""

import json
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from sd import align, trainer
from sd.config import Config, configure
from toy.cli import is_main_process
from toy.files import save_atomically
from toy.utilities import check_utility


def train(**options) -> list[Path]:
    """Train with the settings of a command line; the files written."""
    return run(configure(**options))


def run(config: Config) -> list[Path]:
    """Train with progress, a log, pictures and advice, and write the final weights; the files written."""
    for warning in check_utility(config.run.utility, config.utility) if is_main_process() else ():
        print(f"warning: {warning}")
    states = trainer.train(config)
    live = next(states).trainer
    main = live.accelerator.is_main_process
    log = live.out / "log.jsonl"
    for note in live.notes:
        print(f"data: {note}")
    if main and live.step:
        done = live.step == config.steps
        print(
            f"resuming after step {live.step}"
            if not done
            else f"all {live.step} steps are done; raise --steps for more"
        )
    if main:
        rows = log.read_text().splitlines(True) if log.exists() else []
        rows = [row for row in rows if row.endswith("\n") and json.loads(row)["step"] <= live.step]
        save_atomically(log, lambda path: path.write_text("".join(rows)))
    if config.tracker:
        plain = {k: v if isinstance(v, int | float | str) else str(v) for k, v in asdict(config).items()}
        live.accelerator.init_trackers("diffusion-kto", plain)
    progress = tqdm(states, "aligning", config.steps, initial=live.step, disable=not main)
    last_advice = ""
    for state in progress:
        if main and config.validate_every and state.step % config.validate_every == 0:
            live.picture(list(config.validation_prompts))
        if not state.metrics:
            continue
        if config.tracker:
            live.accelerator.log(state.metrics, state.step)
        if main:
            with open(log, "a") as file:
                file.write(json.dumps({"step": state.step} | state.metrics) + "\n")
        progress.set_postfix({k: f"{state.metrics.get(k, 0):.3g}" for k in ("loss", "satisfied", "spread")})
        text = align.advice(config, state.metrics) if main and state.step >= config.steps // 4 else ""
        if text and text[:24] != last_advice:  # the same advice once, though its numbers change
            tqdm.write(f"step {state.step}: {text}")
            last_advice = text[:24]
    written = [live.export(), log] if main else []
    live.accelerator.end_training()
    return written
