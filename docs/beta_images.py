"""How good is a beta that pilots find, on images? python -m docs.beta_images

Each utility learns from votes (see sd/judging/paths.py) with the beta that pilots find on another seed, and
with a quarter and four times that beta, over two seeds. A beta's score is its best mean of wins along the
path. It takes an hour, goes on where it was stopped (out/transfer, shared with docs/transfer.py), and writes
figures/beta-images.json.
"""

import json
from pathlib import Path

from tqdm import tqdm

from docs.transfer import GAMMA, ROOT, spec
from sd.judging.paths import auto, walk
from sd.tiny.runs import PIPELINE
from toy.files import output_folder, save_json
from toy.statistics import interval

NAMES = ("kahneman_tversky", "loss_averse", "risk_seeking_bounded", "prospect_theory")
OWN = ("arctan", "clipped", "fearful_sigmoid")  # of docs/more_utilities.py
FACTORS, SEEDS = (1, 0.25, 4), (0, 1)  # times the beta found


def summarise(rows: list[dict]) -> list[dict]:
    """For each utility, the score of the beta found and of the best of all, and what share of the best's gain
    over 0.5 it has."""
    summary = []
    for name in dict.fromkeys(row["name"] for row in rows):
        scores = {}
        for beta in dict.fromkeys(row["beta"] for row in rows if row["name"] == name):
            path = [row for row in rows if (row["name"], row["beta"]) == (name, beta)]
            means = {
                step: interval([row["wins"] for row in path if row["step"] == step])[0]
                for step in {row["step"] for row in path}
            }
            scores[beta] = max((wins, step) for step, wins in means.items())
        found = next(row["beta"] for row in rows if row["name"] == name and row["found"])
        best = max(scores, key=scores.get)
        entry = {"name": name, "found": found, "wins": scores[found][0], "step": scores[found][1]}
        entry |= {"best_beta": best, "best_wins": scores[best][0], "best_step": scores[best][1]}
        entry |= {"ratio": entry["wins"] / entry["best_wins"]}
        entry |= {"gain_ratio": (entry["wins"] - 0.5) / (entry["best_wins"] - 0.5)}
        summary.append(entry | {"scores": {f"{beta:g}": score[0] for beta, score in scores.items()}})
    return summary


def main() -> list[Path]:
    runs, rows = output_folder(ROOT / "out" / "transfer"), []
    for name in tqdm((*NAMES, *OWN)):
        found = auto(spec(name), GAMMA, PIPELINE, runs)
        for factor in FACTORS:
            choice = found | {"beta": found["beta"] * factor}
            about = {"name": name, "beta": choice["beta"], "found": factor == 1}
            for seed in SEEDS:
                path = walk(spec(name), choice, seed, PIPELINE, runs)
                keys = ("seed", "step", "moved", "wins", "following")
                rows += [about | {key: row[key] for key in keys} for row in path]
    print(json.dumps(summarise(rows), indent=1))
    return [save_json(ROOT / "figures" / "beta-images.json", {"summary": summarise(rows), "rows": rows})]


if __name__ == "__main__":
    main()
