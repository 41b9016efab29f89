"""Pooling: the likes of a class become one data set, and numbers say how far its members agree."""

import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from sd.feedback.index import read_feedback
from sd.feedback.table import Reader
from toy.errors import InputError
from toy.files import save_csv, save_folder

ALIKE = 8  # of 255: up to this mean difference two files are one drawing, since machines round differently


def pool(folders: list[str], out: str, majority: bool) -> list[Path]:
    """Write the likes of several people into one folder: every answer is a row or, with `majority`, every
    image is, with the label that most people gave it (ties are left out)."""
    if Path(out).exists():
        raise InputError(f"{out} is there already: remove it, or choose another --out")
    files = sorted({file.resolve() for folder in folders for file in Path(folder).rglob("feedback.csv")})
    if len(files) < 2:
        raise InputError(f"{len(files)} feedback.csv in {', '.join(folders)}; a pool needs two or more")
    images, votes = {}, []  # images by file name and caption; of each person, {image: liked?}
    for file in files:
        reader = Reader(file)
        reader.need("label")
        rows = {(name, caption): liked for name, caption, liked, *_ in read_feedback(reader, "liked")}
        for image in rows:
            _same_picture(images.setdefault(image, file.parent / image[0]), file.parent / image[0])
        votes.append(rows)
    table = np.array([[rows.get(image, np.nan) for image in images] for rows in votes])
    common = os.path.commonpath(files)
    agreement(table, [os.path.relpath(file.parent, common) for file in files])

    def write(folder: Path) -> None:
        rows = []
        for number, (image, path) in enumerate(images.items()):
            labels = [answers[image] for answers in votes if image in answers]
            if majority:
                lead = 2 * sum(labels) - len(labels)
                labels = [lead > 0] if lead else []
            file = f"{number:03}{path.suffix}"
            shutil.copyfile(path, folder / file)
            rows += [(file, image[1], "liked" if liked else "disliked") for liked in labels]
        save_csv(folder / "feedback.csv", ("file_name", "caption", "label"), rows)

    return [save_folder(Path(out), write, replace=False)]


def _same_picture(*paths: Path) -> None:
    """Raise InputError unless two files show the same picture, as they do where all began from one noise."""
    try:
        first, other = (np.asarray(Image.open(path).convert("RGB"), dtype=float) for path in paths)
    except OSError as error:
        raise InputError(f"cannot read {paths[1]}: {error}") from error
    if first.shape != other.shape or np.abs(first - other).mean() > ALIKE:
        raise InputError(f"{paths[0]} and {paths[1]} show different pictures: pool them apart")


def agreement(votes: np.ndarray, people: list[str]) -> None:
    """Print how far people agree. votes: (people, images), 1 liked, 0 disliked, nan not asked. Two of the n
    answers to an image, k of them likes, agree with probability (k(k-1) + (n-k)(n-k-1)) / (n(n-1)). Fleiss'
    kappa (1971) compares the mean over images with what chance would give at the same share of likes."""
    n, k = (~np.isnan(votes)).sum(0), np.nansum(votes, 0)
    print(f"{len(people)} people, {len(n)} images, {(n > 1).sum()} of them judged by two people or more")
    lead = 2 * (k - votes) - (n - 1)  # of the others' likes over their dislikes
    against = np.where(np.sign(lead) == 0, 0, (votes > 0.5) != (lead > 0)) * ~np.isnan(votes)
    n, k = n[n > 1], k[n > 1]
    if not len(n):
        return
    share = k.sum() / n.sum()
    chance = share**2 + (1 - share) ** 2
    agree = ((k * (k - 1) + (n - k) * (n - k - 1)) / (n * (n - 1))).mean()
    print(
        f"an image's majority is {(np.maximum(k, n - k) / n).mean():.0%} of its answers on average;", end=" "
    )
    print(f"{(2 * k == n).sum()} images are ties")
    print(
        f"two people agree on {agree:.0%} of the images; if all liked {share:.0%} by chance, on {chance:.0%}"
    )
    if chance < 1:
        print(f"Fleiss' kappa: {(agree - chance) / (1 - chance):.2f} (0 is chance, 1 is full agreement)")
    print("most often against the majority of the others:")
    for person in np.argsort(-against.sum(1), kind="stable")[:5]:
        print(f"  {people[person]}: {against[person].sum()} of {(~np.isnan(votes[person])).sum()} images")
