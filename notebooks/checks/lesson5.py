"""The checks of lesson 5, knobs."""

import torch

from notebooks.answers import exercise, wrong_shape
from toy.data import generator


@exercise
def draw_batch(student):
    """How often a class is seen no longer depends on how large it is."""
    desirable = torch.arange(1000) % 10 == 0  # a tenth is liked
    size, g = 4000, generator("exercise", 5)
    for gamma in (0.8, 0.3):
        index = student(desirable, gamma, size, g)
        if wrong := wrong_shape(index, (size,)):
            return wrong
        if index.dtype != torch.long or index.min() < 0 or index.max() >= len(desirable):
            return f"asked for are whole numbers (torch.long) from 0 to {len(desirable) - 1}"
        share = desirable[index].float().mean().item()
        if share in (0, 1):
            kind = "liked" if share else "disliked"
            return f"with gamma {gamma} the whole batch is {kind}: every place needs a draw of its own"
        if abs(share - 0.1) < 0.03:
            return (
                "liked ones are as frequent as in the data: is gamma used, and do indices count in desirable?"
            )
        if abs(share - (1 - gamma)) < 0.04:
            return "gamma is the probability of a liked example, yours that of a disliked one"
        if abs(share - gamma) > 0.04:
            return f"with gamma {gamma} {share:.0%} of the batch is liked: class sizes must not matter"
        for kind, name in ((desirable, "liked"), (~desirable, "disliked")):
            if index[kind[index]].unique().numel() < kind.sum() / 2:
                return f"most {name} examples never come: draw evenly among them all"
    batches = [student(desirable, 0.8, size, g) for _ in range(3)]
    if torch.equal(batches[0], batches[1]):
        return "every batch is the same: draw from the generator, without seeding it anew"
    if len({int(desirable[index].sum()) for index in batches}) == 1:
        return "gamma is a probability: how many are liked varies from batch to batch"
    return _undetermined(lambda g: student(desirable, 0.8, size, g))


@exercise
def flip_labels(student):
    """Both classes lose the same share of their labels, and the given ones stay as they were."""
    desirable = torch.arange(4000) < 1600
    original = desirable.clone()
    labels = student(desirable, 0.25, generator("exercise", 6))
    if not torch.equal(desirable, original):
        return "the labels that were given are changed too: work on a clone()"
    if wrong := wrong_shape(labels, (4000,)):
        return wrong
    if labels.dtype != torch.bool:
        return f"labels are bool, yours are {labels.dtype}"
    flipped = labels != original
    liked, disliked = (flipped[kind].float().mean().item() for kind in (original, ~original))
    if max(liked, disliked) == 0 or min(liked, disliked) == 1:
        return "all labels are flipped, or none: every label needs a draw of its own"
    if flipped.sum() == flipped.nonzero().max() - flipped.nonzero().min() + 1:
        return "the flipped labels stand side by side: chance must decide which ones are flipped"
    if min(liked, disliked) == 0:
        return f"only {'liked' if liked else 'disliked'} examples lose their label: noise knows no class"
    if abs(liked - 0.75) < 0.05 and abs(disliked - 0.75) < 0.05:
        return "that flips all but the share that was asked for"
    if abs(liked - 0.125) < 0.04 and abs(disliked - 0.125) < 0.04:
        return "half of the chosen labels stay as they were: turn a chosen label, do not draw it anew"
    if abs(liked - 0.25) > 0.05 or abs(disliked - 0.25) > 0.05:
        return f"asked for 25%, it flips {liked:.0%} of the liked and {disliked:.0%} of the disliked"
    again = student(desirable, 0.25, generator("exercise", 7))
    if torch.equal(again, labels):
        return "the same examples are flipped whatever the generator: draw them from it"
    if flipped.sum() == (again != original).sum() == 1000:
        return "share is a probability: how many labels are turned varies from draw to draw"
    return _undetermined(lambda g: student(desirable, 0.25, g))


def _undetermined(draw) -> str | None:
    if torch.equal(draw(generator("exercise", 8)), draw(generator("exercise", 8))):
        return None
    return "the same generator gives other numbers each time: draw all of them from it (generator=...)"
