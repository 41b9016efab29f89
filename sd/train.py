"""Align Stable Diffusion: python -m sd.train RECIPE ...; on many GPUs, accelerate launch -m sd.train ...

The same command goes on after an interruption, from the last complete checkpoint, to the same weights.
"""

import json
import sys
from dataclasses import asdict

from tqdm import tqdm

from sd.config import Config, read
from toy.errors import InputError
from toy.files import save_atomically


def run(config: Config) -> None:
    """Train with progress, a log, pictures and advice, and write the final weights."""
    from sd import align, trainer  # here, so that --help does not wait for diffusers

    states = trainer.train(config)
    now = next(states).trainer
    main = now.accelerator.is_main_process
    log = now.out / "log.jsonl"
    for note in now.notes:
        print(f"data: {note}")
    if main and now.step:
        done = now.step == config.steps
        print(
            f"trained to step {now.step} before; "
            + ("to go on, raise --steps" if done else "going on from there")
        )
    if main:
        rows = log.read_text().splitlines(True) if log.exists() else []
        kept = [row for row in rows if row.endswith("\n") and json.loads(row)["step"] <= now.step]
        save_atomically(log, lambda path: path.write_text("".join(kept)))
    if config.tracker:
        plain = {k: v if isinstance(v, int | float | str) else str(v) for k, v in asdict(config).items()}
        now.accelerator.init_trackers("diffusion-kto", plain)
    progress = tqdm(states, "aligning", config.steps, initial=now.step, disable=not main)
    said = ""
    for state in progress:
        if main and config.validate_every and state.step % config.validate_every == 0:
            now.picture(list(config.validation_prompts))
        if not state.metrics:
            continue
        if config.tracker:
            now.accelerator.log(state.metrics, state.step)
        if main:
            with open(log, "a") as file:
                file.write(json.dumps({"step": state.step} | state.metrics) + "\n")
        progress.set_postfix({k: f"{state.metrics.get(k, 0):.3g}" for k in ("loss", "satisfied", "spread")})
        text = align.advice(config, state.metrics) if main and state.step >= config.steps // 4 else ""
        if text and text[:24] != said:  # the same advice once, though its numbers change
            tqdm.write(f"step {state.step}: {text}")
            said = text[:24]
    if main:
        print(f"wrote {now.export()} and {log}")
    now.accelerator.end_training()


def main(argv: list[str] | None = None) -> int:
    try:
        config = read(argv, about=__doc__)
        run(config)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nerror: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
