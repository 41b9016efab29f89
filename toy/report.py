"""What a study found, as a table and as one sentence."""

import math
from collections import defaultdict

from toy import plots
from toy.statistics import interval


def verdict(rows: list[dict]) -> str:
    """One sentence on how "yours" differs from Kahneman-Tversky, seed by seed."""
    by_seed = defaultdict(dict)
    for row in rows:
        by_seed[row["seed"]][row["name"]] = row

    def difference(metric: str) -> tuple[float, float]:
        return interval([r["yours"][metric] - r["kahneman_tversky"][metric] for r in by_seed.values()])

    gap, spread = difference("balance")
    if math.isnan(spread):
        return f"Yours differs from Kahneman-Tversky by {gap:+.3f} in balance on one seed: try --seeds 3."
    word = "does better than" if gap > spread else "does worse than" if gap < -spread else None
    how = []
    for metric, more, less in (
        ("alignment", "closer to the liked ones", "farther from the liked ones"),
        ("avoidance", "less often among the disliked ones", "more often among the disliked ones"),
    ):
        change, doubt = difference(metric)
        if abs(change) > doubt:
            how.append(f"{more if change > 0 else less} ({metric} {change:+.2f} ± {doubt:.2f})")
    sure = f"balance {gap:+.3f} ± {spread:.3f} (95%, {len(by_seed)} seeds)"
    where = " and ".join(how) or "no nearer to either class, as far as these seeds tell"
    if math.fsum(r["yours"]["alignment"] for r in by_seed.values()) < 0:
        where = "farther from the liked ones than before alignment: they have left the data"
    broke = sum(r["yours"]["stopped"] is not None for r in by_seed.values())
    where += f"; its loss broke on {broke} of {len(by_seed)} seeds" if broke else ""
    return f"Yours {word or 'cannot be told apart from'} Kahneman-Tversky, {sure}; its samples lie {where}."


def print_table(summary: list[dict]) -> None:
    """The summary as a table, best balance first."""
    columns = f"{'liked':>8}{'disliked':>10}{'distance':>10}{'alignment':>11}{'avoidance':>11}   balance"
    print(f"\n{'':26}{columns}")
    for e in sorted(summary, key=lambda e: -e["balance"]):
        if e["distance"] < 100:
            distance = f"{e['distance']:10.3f}{e['alignment']:11.2f}"
        else:
            distance = f"{'far away':>10}{'':11}"
        shares = f"{e['desirable_rate']:8.1%}{e['undesirable_rate']:10.1%}"
        label = plots.style(e["name"])[0]
        print(f"{label:26}{shares}{distance}{e['avoidance']:11.2f}   {plus_minus(e)}")
    print()


def plus_minus(e: dict) -> str:
    half_width = "" if math.isnan(e["half_width"]) else f" ± {e['half_width']:.3f}"
    return f"{e['balance']:.3f}{half_width}"


def seeds_text(n: int) -> str:
    return f"{n} seed{'s' if n > 1 else ''}"
