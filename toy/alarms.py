"""What goes wrong in a training run, told in words from its logged metrics, for points and for images."""

import math

LOGS = 4  # an alarm looks at so many logs, because one alone may be chance
LOST = -1.0  # liked examples' reward, as a share of the reference's error, below which they count as lost
FALL = 0.1  # by how much of it their reward must fall to be called falling


def alarms(history: list[dict[str, float]], beta: float) -> dict[str, str]:
    """Topic -> a sentence that says what is wrong and what to try, from the metrics logged so far. They are
    those of toy.losses, with reference_error, the reference's mean error on the same examples.

    In LOGS logs in a row: lost: the liked examples' error is more than twice the reference's, and that of
    disliked ones above it; falling: the liked examples' reward fell, by FALL in all. beta: the spread,
    beta * std(g), is below 0.1 or above 10. The thresholds come from a few runs in the plane.
    """
    texts = {}
    last = history[-LOGS:]
    if len(last) == LOGS and "reward_desirable" in last[0]:
        liked = [row["reward_desirable"] / row["reference_error"] for row in last]
        disliked = [row["reward_undesirable"] / row["reference_error"] for row in last]
        if max(liked) < LOST and max(disliked) < 0:
            texts["lost"] = (
                f"the model denoises liked examples worse than before training, by {-liked[-1]:.0%} of the "
                "reference's error, and disliked ones too. In the plane, samples have then left the data; "
                "images may still be good, so look at some. The way back is an earlier checkpoint, fewer "
                "steps, a smaller --lr or a --gamma nearer to 1"
            )
        elif sorted(liked, reverse=True) == liked and liked[0] - liked[-1] > FALL:
            texts["falling"] = (
                f"the reward of liked examples falls from log to log, by {liked[0] - liked[-1]:.0%} of the "
                f"reference's error in {LOGS} logs: the model is unlearning what is liked"
            )
    spread = history[-1].get("spread", 0.0)
    if 0 < spread < 0.1:
        better = f"try --beta {_round(beta / spread)} or more steps"
        effect = "where any smooth utility is a straight line"
        texts["beta"] = f"beta is too small: beta * std(g) is {spread:.1g}, {effect}; {better}"
    elif 10 < spread < math.inf:
        effect = f"{history[-1].get('saturated', 1):.0%} of examples are saturated (abs(x) > 4)"
        better = f"try --beta {_round(beta / spread)}"
        texts["beta"] = f"beta is too large: beta * std(g) is {spread:.0f}, and {effect}; {better}"
    return texts


def one_class(gamma: float, batch: int) -> str:
    """A sentence, if many batches of so many likes and dislikes have only one class; else "". Their
    reference point is then the mean reward of that class alone."""
    share = gamma**batch + (1 - gamma) ** batch
    if share < 0.1 or gamma in (0, 1):
        return ""
    return (
        f"{share:.0%} of the batches of {batch} have only liked or only disliked images, and the reference "
        "point is then the mean reward of one class; try a larger --batch, or more processes"
    )


def _round(x: float) -> str:
    return f"{float(f'{x:.2g}'):g}"
