"""A page of paired images with a blind vote, in one static file; and the count of the votes it saves."""

import base64
import hashlib
import io
import json
import re
from collections import defaultdict
from pathlib import Path

import torch
from PIL import Image

from sd.feedback.table import Reader
from toy.errors import InputError
from toy.files import save_atomically, save_csv
from toy.seeds import generator
from toy.statistics import win_rate

TEMPLATE = Path(__file__).parent / "page.html"
EXTREMES = 4  # prompts shown where the first model does worst, and best, by each scorer against each other
SIDE = 512  # pixels; larger images are embedded smaller
KEY = ("study", "pair", "first", "first_image", "other", "other_image")  # of vote-key.csv
VOTE = ("study", "judge", "pair", "chosen")  # of what the page saves
RATE = ("win_rate", "low", "high", "bootstrap_low", "bootstrap_high", "ties")


def write(samples: dict, scores: dict, rows: list[dict], out: Path, pairs: int) -> Path:
    """Write out/page.html, with the results and at most `pairs` pairs to vote on; and out/vote-key.csv,
    which alone records which model drew which image: neither the vote nor what judges save does."""
    first, *others = samples
    images: dict[str, str] = {}

    def embed(model: str, prompt: int, number: int) -> str:
        file = samples[model].files[prompt][number]
        name = _digest(model, file)
        if name not in images:
            images[name] = _data_uri(samples[model].folder / file)
        return name

    def shown(prompt: int, scorer: str, other: str) -> dict:
        """The median images of both models, which decide who wins the prompt."""
        sides = []
        for model in (first, other):
            values = scores[scorer][model][prompt]
            median = values.argsort(stable=True)[len(values) // 2].item()
            sides.append({"image": embed(model, prompt, median), "score": f"{values[median]:.4g}"})
        return {"prompt": samples[first].prompts[prompt].text, "sides": sides}

    vote, key = [], []
    order = torch.randperm(len(samples[first].prompts), generator=generator("vote", 0)).tolist()
    for prompt, other in [(prompt, other) for prompt in order for other in others][:pairs]:
        mine, theirs = embed(first, prompt, 0), embed(other, prompt, 0)
        key.append((_digest(mine, theirs), first, mine, other, theirs))
        pair = {"id": key[-1][0], "prompt": samples[first].prompts[prompt].text}
        vote.append(pair | {"images": sorted([mine, theirs])})
    study = _digest(*(pair for pair, *_ in key))
    save_csv(out / "vote-key.csv", KEY, [(study, *row) for row in key])

    results = []
    for row in rows:
        if row["model"] == first or row["style"]:
            continue
        a, b = (scores[row["scorer"]][model].quantile(0.5, dim=1) for model in (first, row["model"]))
        order = (a - b).argsort(stable=True).tolist()
        count = min(EXTREMES, -(-len(order) // 2))
        extremes = {"worst": order[:count], "best": order[::-1][:count]}
        entry = {name: row[name] for name in ("scorer", "model", *RATE)}
        for name, chosen in extremes.items():
            entry[name] = [shown(prompt, row["scorer"], row["model"]) for prompt in chosen]
        results.append(entry)

    parts = {"VOTE": {"study": study, "pairs": vote}, "RESULTS": {"first": first, "rows": results}}
    parts["IMAGES"] = images
    # "<" could end the script that a part stands in
    plain = {k: json.dumps(part, sort_keys=True).replace("<", "\\u003c") for k, part in parts.items()}
    text = re.sub("{(VOTE|RESULTS|IMAGES)}", lambda mark: plain[mark[1]], TEMPLATE.read_text("utf-8"))
    return save_atomically(out / "page.html", lambda path: path.write_text(text, "utf-8"))


def count_votes(files: list[Path], out: Path) -> Path:
    """Print, and save as out/votes.csv, how often the first model was preferred: by each judge, and by all
    judges together. The latter is the mean over pairs of the share of judges, since votes on one pair are
    not independent. A judge's last vote on a pair counts. Raises InputError naming a row that is wrong."""
    if not (out / "vote-key.csv").is_file():
        raise InputError(f"no vote-key.csv in {out}; --out is the folder in which the page was written")
    key = {row["pair"]: row for _, row in Reader(out / "vote-key.csv")}
    votes: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for file in files:
        if not file.is_file():
            raise InputError(f"no file {file}; --votes are what the page saved")
        reader = Reader(file)
        for name in VOTE:
            reader.need(name)
        for _, row in reader:
            pair = key.get(row["pair"])
            if not pair or row["study"] != pair["study"]:
                raise reader.error(
                    f"pair '{row['pair']}' does not belong to the page in {out}; choose the --out of its page"
                )
            if row["chosen"] not in (pair["first_image"], pair["other_image"]):
                raise reader.error(f"chosen '{row['chosen']}' is not an image of pair '{row['pair']}'")
            won = float(row["chosen"] == pair["first_image"])
            votes[f"{pair['first']} vs {pair['other']}"][row["judge"]][row["pair"]] = won
    if not votes:
        raise InputError(f"no votes in {', '.join(map(str, files))}")
    rows = []
    for models, judges in sorted(votes.items()):
        pooled = defaultdict(list)
        for given in judges.values():
            for pair, won in given.items():
                pooled[pair].append(won)
        together = {pair: sum(won) / len(won) for pair, won in pooled.items()}
        all_of_them = [(f"all {len(judges)} judges", together)] if len(judges) > 1 else []
        for judge, given in [*sorted(judges.items()), *all_of_them]:
            rates = win_rate(torch.tensor(list(given.values())))
            rows.append((models, judge, len(given), *(rates[name] for name in RATE)))
            rate, low, high = (100 * rates[name] for name in RATE[:3])
            print(f"{models}, {judge}: {rate:.1f}% [{low:.1f}, {high:.1f}] of {len(given)} pairs")
    return save_csv(out / "votes.csv", ("models", "judge", "pairs", *RATE), rows)


def _digest(*parts: str) -> str:
    return hashlib.blake2b("/".join(parts).encode(), digest_size=6).hexdigest()


def _data_uri(path: Path) -> str:
    """An image as text for a page, encoded anew, so that nothing in it tells which model drew it."""
    with Image.open(path) as file:
        image = file.convert("RGB")
    image.thumbnail((SIDE, SIDE))
    kind = "png" if max(image.size) <= 128 else "jpeg"
    image.info, written = {}, io.BytesIO()
    image.save(written, kind, quality=88)
    return f"data:image/{kind};base64,{base64.b64encode(written.getvalue()).decode()}"
