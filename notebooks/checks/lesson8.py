"""The checks of lesson 8, Stable Diffusion."""

import csv
import io

import torch

from notebooks.answers import compare, exercise
from toy.data import generator


@exercise
def redness(student):
    """One number for each image, above 0 where red is stronger than the average colour."""
    mistakes = [
        (lambda x: x[:, 0].mean() - x.mean(), "one number for each image: leave out dimension 0 of the mean"),
        (lambda x: x[:, 2].mean((1, 2)) - x.mean((1, 2, 3)), "red is channel 0, yours is blue"),
        (lambda x: x[:, 0].mean((1, 2)), "the mean of all channels is to be taken away"),
        (
            lambda x: x[:, 0].mean((1, 2)) - x[:, 1:].mean((1, 2, 3)),
            "the mean of all three channels, with red",
        ),
        (lambda x: x.mean((1, 2, 3)) - x[:, 0].mean((1, 2)), "the sign is turned: red minus all"),
        (lambda x: x[:, 0] - x.mean(1), "the mean over rows and columns is missing"),
        (lambda x: x[:, 0].mean((1, 2)) - x.mean(), "the mean of each image, not of the whole batch"),
        (lambda x: x[..., 0].mean((1, 2)) - x.mean((1, 2, 3)), "channels are dimension 1, not the last one"),
        (
            lambda x: x[0].mean((1, 2)) - x.mean((1, 2, 3)),
            "images[0] is the first image: channels are dimension 1",
        ),
        (
            lambda x: x[:, 0].mean((1, 2)) / x.mean((1, 2, 3)),
            "the difference of the two means, not their ratio",
        ),
        (lambda x: x[:, 0].sum((1, 2)) - x.sum((1, 2, 3)), "means, not sums"),
    ]
    images = torch.rand(3, 3, 2, 4, generator=generator("exercise", 8))

    def right(x):
        return x[:, 0].mean((1, 2)) - x.mean((1, 2, 3))

    return compare(student, right, (images,), mistakes, gradients=0)


@exercise
def feedback_csv(student):
    """python -m sd train takes it as it is."""
    names = ["a.png", "b.png", "c.png"]
    captions = ["a red circle, small", 'a "blue" square', "a cross"]
    text = student(names, captions, [True, False, False])
    if text is None or text is ...:
        return "it returns nothing yet; put your answer where the dots are"
    if not isinstance(text, str):
        return f"it returns {type(text).__name__}; asked for is a str"
    rows = [row for row in csv.reader(io.StringIO(text)) if row]
    if not rows or rows.pop(0) != ["file_name", "caption", "label"]:
        return "the first line must be file_name,caption,label (a StringIO gives its text by getvalue())"
    if len(rows) != len(names):
        return f"{len(names)} images make {len(names)} rows under the header, yours has {len(rows)}"
    if any(len(row) != 3 for row in rows) or [row[1] for row in rows] != captions:
        return "a caption with a comma or a quote does not come back whole: use csv.writer"
    if [row[0] for row in rows] != names:
        return "the first column must be the image's file name"
    words = [row[2].lower() for row in rows]
    for like, dislike in (("liked", "disliked"), ("1", "0"), ("true", "false")):
        if set(words) <= {like, dislike}:
            if words == [dislike, like, like]:
                return "liked and disliked are exchanged"
            if len(set(words)) == 1:
                return f"every row has the label {words[0]}: take it from the list liked, row by row"
            return None if words == [like, dislike, dislike] else "a label does not belong to its row"
    odd = next(word for word in words if word not in ("liked", "disliked"))
    return f"the labels are {', '.join(words)}: each must be liked or disliked, not {odd}"
