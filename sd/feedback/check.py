"""Checks of the data before training: what makes training impossible, and what a person should know."""

import json

import numpy as np
from diffusers import DiffusionPipeline

from sd.config import Config
from sd.feedback.cache import Cache
from sd.feedback.index import Index
from toy.errors import InputError
from toy.files import save_json


def refuse_missing(index: Index, config: Config, processes: int) -> None:
    """Raises InputError if the objective cannot learn from the data, or from batches of this size."""
    run, source = config.run, index.source
    if index.pairs != config.pairs:
        columns = "winner, loser and caption" if config.pairs else "file_name, caption and label"
        raise InputError(f"{config.objective} needs the columns {columns}, but {source} has others")
    if run.needs.scores and index.lowest is None:
        raise InputError(
            f"{config.objective} needs winner_score and loser_score in {source}: "
            "python -m sd score-pairs adds them"
        )
    if not index.pairs and run.gamma > 0 and not index.liked:
        raise InputError(f"none of the {index.images} images in {source} is liked")
    if not index.pairs and run.gamma < 1 and index.liked == index.images:
        text = f"none of the {index.images} images in {source} is disliked"
        raise InputError(f"{text}: add some, or use --objective sft or --gamma 1")
    own_reward = run.reference_point == "batch" and config.batch * processes == 1
    if run.needs.reference_point and own_reward:
        raise InputError("a batch of 1 has no reference point: raise --batch or use --reference-point none")


def refuse_unusable(cache: Cache, config: Config) -> None:
    """Raises InputError if images cannot be read, unless they may be left out and others remain."""
    index, unreadable = cache.index, cache.images["unreadable"]
    bad = np.flatnonzero(unreadable)
    if len(bad) and not config.skip_unreadable:
        names = _names(index, bad)
        raise InputError(f"{len(bad)} images cannot be read: {names}; replace them, or add --skip-unreadable")
    if index.pairs:
        kind, groups = "pair", [unreadable[::2] | unreadable[1::2]]
    else:
        kind, groups = "image of one class", np.split(unreadable, [index.liked])
    if any(len(group) and group.all() for group in groups):
        raise InputError(f"no {kind} in {index.source} can be read")


def report(cache: Cache, pipeline: DiffusionPipeline) -> list[str]:
    """What a person should know about the data, in lines. They are kept in a file beside the images."""
    index, limit = cache.index, pipeline.tokenizer.model_max_length
    file = cache.folder / f"report-{limit}.json"
    try:
        return json.loads(file.read_text())["lines"]
    except (OSError, ValueError, KeyError):
        pass  # there is none yet, or it is damaged
    disliked = index.images - index.liked
    counts = f"{index.liked} pairs" if index.pairs else f"{index.liked} liked and {disliked} disliked images"
    lines = [f"{counts}, {index.captions - 1} captions"]
    bad = np.flatnonzero(cache.images["unreadable"])
    if len(bad):
        lines.append(f"{len(bad)} images cannot be read and are left out: {_names(index, bad)}")
    texts = (text for text in map(index.caption, range(1, index.captions)) if len(text) > limit)
    long = [text[:40] for text in texts if len(pipeline.tokenizer(text).input_ids) > limit]
    if long:
        lines.append(f"{len(long)} captions are cut at {limit} tokens, such as '{long[0]}...'")
    opposites = [] if index.pairs else index.find_opposites(cache.images["digest"])
    if opposites:
        names = ", ".join(" = ".join(sorted(set(pair))) for pair in opposites[:5])
        lines.append(f"{len(opposites)} images are both liked and disliked: {names}")
    save_json(file, {"lines": lines})
    return lines


def _names(index: Index, numbers: np.ndarray) -> str:
    rows = [index.image(int(i)) for i in numbers[:20]]
    return ", ".join(f"{r.file} (row {r.line})" for r in rows) + (", ..." if len(numbers) > 20 else "")
