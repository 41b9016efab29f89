"""sd.tiny.shapes: captioned images and a judge that reads them back."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from sd.__main__ import main
from sd.tiny import shapes


@pytest.fixture(scope="module")
def examples():
    return shapes.training_set(400, seed=5)


def test_120_captions_of_which_12_are_held_out_and_every_word_is_seen():
    assert len(shapes.SCENES) == 120 and len(set(s.caption for s in shapes.SCENES)) == 120
    assert len(shapes.HELD_OUT) == 12 and not set(shapes.HELD_OUT) & set(shapes.KNOWN)
    words = {word for scene in shapes.KNOWN for word in scene.caption.split()}
    assert all(set(scene.caption.split()) <= words for scene in shapes.HELD_OUT)
    assert shapes.SCENES[0].caption == "a small red circle on a black background"


def test_the_judge_reads_every_image_rightly_and_notices_every_wrong_word(examples):
    images, captions = examples
    assert shapes.follows(images, captions).all()
    scenes = shapes.judge(images)
    for field, values in (("size", shapes.SIZES), ("colour", shapes.COLOURS), ("shape", shapes.SHAPES)):
        names = list(values)
        wrong = [s._replace(**{field: names[names.index(getattr(s, field)) - 1]}).caption for s in scenes]
        assert not shapes.follows(images, wrong).any(), field


def test_the_judge_bears_noise_and_a_red_filter(examples):
    images, captions = examples
    noisy = (images + 0.08 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))).clamp(
        0, 1
    )
    assert shapes.follows(noisy, captions).float().mean() > 0.99
    assert shapes.follows(shapes.redden(images), captions).float().mean() > 0.99


def test_some_captions_leave_size_or_shape_open(examples):
    scenes = [shapes.BY_CAPTION[caption] for caption in examples[1]]
    assert 0.08 < sum(s.size is None for s in scenes) / 400 < 0.25
    assert 0.08 < sum(s.shape is None for s in scenes) / 400 < 0.25


def test_redness_is_red_minus_mean():
    image = torch.tensor([0.9, 0.3, 0.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    assert shapes.redness(image).item() == pytest.approx(0.9 - 0.4)
    assert shapes.redden(image)[0, :, 0, 0].tolist() == pytest.approx([0.9 + 0.35 * 0.1, 0.3, 0.0])


@pytest.mark.parametrize("preference", ("red", "large"))
def test_feedback_likes_what_is_preferred(preference, tmp_path):
    shapes.write_feedback(tmp_path, preference, count=12)
    rows = list(csv.DictReader((tmp_path / "feedback.csv").read_text().splitlines()))
    assert [r["label"] for r in rows] == ["liked", "disliked"] * 12
    pixels = torch.stack([torch.tensor(np.array(Image.open(tmp_path / r["file_name"]))) for r in rows])
    images = pixels.permute(0, 3, 1, 2) / 255
    assert shapes.follows(images, [r["caption"] for r in rows]).all()
    if preference == "red":
        assert (shapes.redness(images[::2]) > shapes.redness(images[1::2])).all()
    else:
        assert [s.size for s in shapes.judge(images)] == ["large", "small"] * 12
    pairs = list(csv.DictReader((tmp_path / "pairs.csv").read_text().splitlines()))
    assert [(p["winner"], p["loser"]) for p in pairs] == [
        (a["file_name"], b["file_name"]) for a, b in zip(rows[::2], rows[1::2], strict=True)
    ]


def test_the_command_says_what_it_wrote(tmp_path, capsys):
    assert main(["shapes", "large", "--out", str(tmp_path / "x")]) == 0
    assert f"wrote {tmp_path / 'x'}" in capsys.readouterr().out
    assert main(["shapes", "blue", "--out", "x"]) == 2 and "invalid choice: 'blue'" in capsys.readouterr().err
