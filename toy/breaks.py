"""How far a policy can be pushed: what a path's rows say of points and of images alike.

A row is a dict with name, seed, step, moved (how far the policy is from its reference) and a score. Step 0 is
the reference itself.
"""

import math
from collections import defaultdict
from statistics import median

from toy import plots
from toy.statistics import interval


def breaks(rows: list[dict], score: str) -> list[dict]:
    """For each name and seed: its `best` and `last` score, where the best is (`at`), and how far it goes.

    A path breaks where its score falls for good to half of what it had gained, (start + best) / 2: that is
    `breaks_at`, on the line between two points. One that keeps more has broke=False, and the farthest it went
    as breaks_at. One that never gains counts as broken at its first point after step 0.
    """
    by_path, entries = defaultdict(list), []
    for row in sorted(rows, key=lambda row: row["step"]):
        by_path[row["name"], row["seed"]].append((row["moved"], row[score]))
    for (name, seed), path in by_path.items():
        at, top = max(path, key=lambda point: point[1])
        middle = (path[0][1] + top) / 2
        last = max((k for k, (_, value) in enumerate(path) if value > middle), default=None)
        broke, end = last != len(path) - 1, max(moved for moved, _ in path)
        if last is None:
            end = path[1][0]
        elif broke:
            (near, above), (far, below) = path[last : last + 2]
            end = near + (far - near) * (above - middle) / (above - below)
        entry = {"name": name, "seed": seed, "best": top, "last": path[-1][1], "at": at}
        entries.append(entry | {"breaks_at": end, "broke": broke})
    return entries


def best(rows: list[dict], score: str) -> list[dict]:
    """For each name, over its seeds: the mean best score and its 95% half width, the mean last score, the
    median of where the best is, and the geometric mean of breaks_at, with its interval from low to high.
    `broke` counts the seeds that broke."""
    by_name, summary = defaultdict(list), []
    for entry in breaks(rows, score):
        by_name[entry["name"]].append(entry)
    for name, group in by_name.items():
        top, half_width = interval([e["best"] for e in group])
        far, doubt = interval([math.log(e["breaks_at"]) for e in group])
        entry = {"name": name, "best": top, "half_width": half_width, "at": median(e["at"] for e in group)}
        entry |= {"last": interval([e["last"] for e in group])[0], "breaks_at": math.exp(far)}
        entry |= {"low": math.exp(far - doubt), "high": math.exp(far + doubt)}
        summary.append(entry | {"broke": sum(e["broke"] for e in group), "seeds": len(group)})
    return summary


def farther(rows: list[dict], score: str, name: str, other: str) -> str:
    """One sentence on how much farther `name` goes before it breaks than `other`, paired over seeds."""
    by_path = {(e["name"], e["seed"]): e for e in breaks(rows, score)}
    pairs = [(e, by_path[other, seed]) for (who, seed), e in by_path.items() if who == name]
    mine, theirs = plots.style(name)[0], plots.style(other)[0]
    if not all(e["broke"] for _, e in pairs):
        return f"{theirs} did not break on every seed, so how much farther {mine} goes is not known."
    far, doubt = interval([math.log(e["breaks_at"] / o["breaks_at"]) for e, o in pairs])
    least = "" if all(e["broke"] for e, _ in pairs) else "at least "
    text = f"{math.exp(far - doubt):.2g} to {math.exp(far + doubt):.2g}, 95%, {len(pairs)} seeds"
    return (
        f"{mine} can be pushed {least}{math.exp(far):.2g} times as far as {theirs} before it breaks ({text})."
    )
