"""Checks of the data before training: what makes training impossible, and what a person should know."""

import numpy as np
from diffusers import DiffusionPipeline

from sd.config import Config
from sd.feedback.cache import Cache
from sd.feedback.index import Index
from toy.errors import InputError


def refuse_missing(index: Index, config: Config, processes: int) -> None:
    """Raises InputError if the objective cannot learn from the data, or from batches of this size."""
    run, source = config.run, index.source
    if index.pairs != config.pairs:
        columns = "winner, loser and caption" if config.pairs else "file_name, caption and label or rating"
        raise InputError(f"{config.objective} needs the columns {columns}, but {source} has others")
    if run.needs.scores and index.lowest is None:
        raise InputError(
            f"{config.objective} needs winner_score and loser_score in {source}: "
            "python -m sd score-pairs adds them"
        )
    unrated = not index.pairs and index.threshold is None
    if unrated and (config.rating_weight or config.threshold != "median"):
        raise InputError(f"--threshold and --rating-weight are for ratings: {source} has no column rating")
    if not index.pairs and run.gamma > 0 and not index.liked:
        raise InputError(f"none of the {index.images} images in {source} is liked{_ratings(index)}")
    if not index.pairs and run.gamma < 1 and index.liked == index.images:
        text = f"none of the {index.images} images in {source} is disliked{_ratings(index)}"
        raise InputError(f"{text}: add some, or use --objective sft or --gamma 1")
    own_reward = run.reference_point != "none" and config.batch * processes == 1
    if run.needs.reference_point and own_reward:
        raise InputError("a batch of 1 has no reference point: raise --batch or use --reference-point none")


def report(cache: Cache, pipeline: DiffusionPipeline) -> list[str]:
    """What a person should know about the data that a run draws, in lines."""
    index, limit = cache.index, pipeline.tokenizer.model_max_length
    disliked = index.images - index.liked
    counts = f"{index.liked} pairs" if index.pairs else f"{index.liked} liked and {disliked} disliked images"
    lines = [f"{counts}{_ratings(index)}, {index.captions - 1} captions"]
    bad = np.flatnonzero(cache.unreadable)
    if len(bad):
        lines.append(f"{len(bad)} images cannot be read and are left out: {index.names(bad)}")
    texts = (text for text in map(index.caption, range(1, index.captions)) if len(text) > limit)
    long = [text[:40] for text in texts if len(pipeline.tokenizer(text).input_ids) > limit]
    if long:
        lines.append(f"{len(long)} captions are cut at {limit} tokens, such as '{long[0]}...'")
    opposites = [] if index.pairs else cache.find_opposites()
    if opposites:
        names = ", ".join(f"{a} = {b}" for a, b in opposites[:5])
        lines.append(f"{len(opposites)} images are both liked and disliked: {names}")
    return lines


def _ratings(index: Index) -> str:
    """How ratings became likes, in brackets; "" where there are none."""
    if index.threshold is None:
        return ""
    return f" (ratings from {index.lowest:g} to {index.highest:g}, threshold {index.threshold:g})"
