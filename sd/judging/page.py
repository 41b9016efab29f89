"""A page of image pairs with a blind vote, in one static file; and the count of the votes that it saves."""

import base64
import hashlib
import io
import json
import re
from collections import defaultdict
from itertools import product
from pathlib import Path

import torch

from sd.feedback.images import open_image
from sd.feedback.table import Reader
from toy.errors import InputError
from toy.files import save_atomically, save_csv
from toy.seeds import generator
from toy.statistics import win_rate

TEMPLATE = Path(__file__).parent / "page.html"
EXTREMES = 4  # prompts shown where the first model does worst, and as many where it does best
SIDE = 512  # pixels; larger images are embedded smaller
KEY = ("study", "pair", "first", "first_image", "other", "other_image")  # columns of vote-key.csv
VOTE = ("study", "judge", "pair", "chosen")  # columns of the files that the page saves
RATE = ("win_rate", "low", "high", "bootstrap_low", "bootstrap_high", "ties")


def write(samples: dict, scores: dict, rows: list[dict], out: Path, pairs: int) -> Path:
    """Write out/page.html, with the results and at most `pairs` pairs to vote on; and out/vote-key.csv. Only
    this key tells which model drew which image: neither the vote nor the files that judges save do."""
    first, *others = samples
    prompts = [prompt.text for prompt in samples[first].prompts]
    images: dict[str, str] = {}

    def embed(model: str, prompt: int, number: int) -> str:
        """The name of an image in the page, which does not tell its model."""
        file = samples[model].files[prompt][number]
        name = _digest(model, file)
        if name not in images:
            images[name] = _data_uri(samples[model].folder / file)
        return name

    def medians(prompt: int, scorer: str, other: str) -> dict:
        """The median image of each model; these decide who wins the prompt."""
        sides = []
        for model in (first, other):
            values = scores[scorer][model][prompt]
            median = values.argsort(stable=True)[len(values) // 2].item()
            sides.append({"image": embed(model, prompt, median), "score": f"{values[median]:.4g}"})
        return {"prompt": prompts[prompt], "sides": sides}

    vote, key = [], []
    order = torch.randperm(len(prompts), generator=generator("vote", 0)).tolist()
    for prompt, other in list(product(order, others))[:pairs]:
        mine, theirs = embed(first, prompt, 0), embed(other, prompt, 0)
        pair = _digest(mine, theirs)
        key.append((pair, first, mine, other, theirs))
        vote.append({"id": pair, "prompt": prompts[prompt], "images": sorted([mine, theirs])})
    study = _digest(*(pair for pair, *_ in key))
    save_csv(out / "vote-key.csv", KEY, [(study, *row) for row in key])

    results = []
    for row in rows:
        scorer, other = row["scorer"], row["model"]
        if other == first or row["style"]:
            continue
        a, b = (scores[scorer][model].quantile(0.5, dim=1) for model in (first, other))
        order = (a - b).argsort(stable=True).tolist()
        count = min(EXTREMES, (len(order) + 1) // 2)
        entry = {name: row[name] for name in ("scorer", "model", *RATE)}
        entry["worst"] = [medians(prompt, scorer, other) for prompt in order[:count]]
        entry["best"] = [medians(prompt, scorer, other) for prompt in order[::-1][:count]]
        results.append(entry)

    parts = {"VOTE": {"study": study, "pairs": vote}, "RESULTS": {"first": first, "rows": results}}
    parts["IMAGES"] = images
    # a "<" in a prompt could end the script that holds it
    plain = {k: json.dumps(part, sort_keys=True).replace("<", "\\u003c") for k, part in parts.items()}
    text = re.sub("{(VOTE|RESULTS|IMAGES)}", lambda mark: plain[mark[1]], TEMPLATE.read_text("utf-8"))
    return save_atomically(out / "page.html", lambda path: path.write_text(text, "utf-8"))


def count_votes(files: list[Path], out: Path) -> Path:
    """Print, and save as out/votes.csv, how often the first model was preferred: by each judge, and by all
    together, as the mean over pairs of the share of judges, because votes on one pair are not independent.
    A judge's last vote on a pair counts. Raises InputError naming a row that is wrong."""
    if not (out / "vote-key.csv").is_file():
        raise InputError(f"no vote-key.csv in {out}; --out must be the folder that holds the page")
    reader = Reader(out / "vote-key.csv")
    for name in KEY:
        reader.need(name)
    key = {row["pair"]: row for _, row in reader}
    votes: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for file in files:
        if not file.is_file():
            raise InputError(f"no file {file}; --votes takes the files that the page saved")
        reader = Reader(file)
        for name in VOTE:
            reader.need(name)
        for _, row in reader:
            pair = key.get(row["pair"])
            if not pair or row["study"] != pair["study"]:
                raise reader.error(f"pair '{row['pair']}' is from another page; use the --out of that page")
            if row["chosen"] not in (pair["first_image"], pair["other_image"]):
                raise reader.error(f"chosen '{row['chosen']}' is not an image of pair '{row['pair']}'")
            win = float(row["chosen"] == pair["first_image"])
            votes[f"{pair['first']} vs {pair['other']}"][row["judge"]][row["pair"]] = win
    if not votes:
        raise InputError(f"no votes in {', '.join(map(str, files))}")
    rows = []
    for models, judges in sorted(votes.items()):
        by_judge, by_pair = sorted(judges.items()), defaultdict(list)
        for ballot in judges.values():
            for pair, win in ballot.items():
                by_pair[pair].append(win)
        if len(judges) > 1:
            shares = {pair: sum(wins) / len(wins) for pair, wins in by_pair.items()}
            by_judge.append((f"all {len(judges)} judges", shares))
        for judge, ballot in by_judge:
            rates = win_rate(torch.tensor(list(ballot.values())))
            rows.append((models, judge, len(ballot), *(rates[name] for name in RATE)))
            rate, low, high = (100 * rates[name] for name in RATE[:3])
            print(f"{models}, {judge}: {rate:.1f}% [{low:.1f}, {high:.1f}] of {len(ballot)} pairs")
    return save_csv(out / "votes.csv", ("models", "judge", "pairs", *RATE), rows)


def _digest(*parts: str) -> str:
    return hashlib.blake2b("/".join(parts).encode(), digest_size=6).hexdigest()


def _data_uri(path: Path) -> str:
    """An image as text for the page, encoded anew, so that nothing in it tells which model drew it."""
    image = open_image(path)
    image.thumbnail((SIDE, SIDE))
    kind = "png" if max(image.size) <= 128 else "jpeg"
    image.info, buffer = {}, io.BytesIO()
    image.save(buffer, kind, quality=88)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
