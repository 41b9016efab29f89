"""sd.feedback.cache, store and check: images and captions encoded once, kept or made anew, and checked."""

from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from sd import models
from sd.feedback import cache, check, store
from sd.feedback.index import open_index
from sd.tiny.runs import PIPELINE
from toy.errors import InputError
from toy.objectives import OBJECTIVES


@pytest.fixture(scope="module")
def pipeline():
    return models.load(PIPELINE)


@pytest.fixture
def prepare(config, pipeline, red, tmp_path):
    """Encodes the small red data set into tmp_path: (cache, config)."""

    def make(data=red, **changes):
        settings = config(data=str(data), **changes)
        name = "pairs.csv" if settings.pairs else "feedback.csv"
        index = open_index(data / name, tmp_path, settings.intersections)
        return cache.build(settings, pipeline, index, tmp_path, Accelerator()), settings

    return make


def test_latents_are_the_vaes_scaled_and_captions_the_text_encoders(prepare, pipeline):
    examples, _ = prepare()
    row = examples.index.image(5)
    pixels, _ = cache.read_image(examples.index.root / row.file, 32)
    with torch.no_grad():
        latent = pipeline.vae.encode(cache.to_unit(pixels)[None]).latent_dist
        tokens = pipeline.tokenizer(
            [examples.index.caption(row.caption)], padding="max_length", return_tensors="pt"
        )
        text = pipeline.text_encoder(tokens.input_ids).last_hidden_state
    scale = pipeline.vae.config.scaling_factor
    mean, deviation = np.split(examples.images["latents"][5, 0], 2)
    np.testing.assert_allclose(mean, latent.mean[0] * scale, atol=2e-3)
    np.testing.assert_allclose(deviation, latent.std[0] * scale, atol=2e-3)
    np.testing.assert_allclose(examples.texts["text"][row.caption, 0], text[0], atol=5e-3)


def test_flipped_images_are_encoded_beside(prepare, pipeline):
    examples, _ = prepare(flip=True)
    pixels, _ = cache.read_image(examples.index.root / examples.index.image(0).file, 32)
    mirrored = models.encode_images(pipeline, cache.to_unit(pixels).flip(-1)[None])[0]
    np.testing.assert_allclose(examples.images["latents"][0, 1], mirrored, atol=2e-3)


def test_csft_has_each_caption_with_both_prefixes_and_the_empty_one_bare(prepare, pipeline):
    examples, _ = prepare(objective="csft")
    bad, good = examples.texts["text"][1]
    texts = models.encode_text(
        pipeline, [p + examples.index.caption(1) for p in OBJECTIVES["csft"].captions]
    )["text"]
    np.testing.assert_allclose(bad, texts[0], atol=5e-3)
    np.testing.assert_allclose(good, texts[1], atol=5e-3)
    assert np.array_equal(examples.texts["text"][0, 0], examples.texts["text"][0, 1])


def test_what_is_encoded_is_used_again_and_an_interrupted_run_resumes(prepare, tmp_path, monkeypatch):
    examples, _ = prepare()
    whole = np.array(examples.images["latents"])
    done = np.load(tmp_path / "images" / "done.npy", mmap_mode="r+")
    assert done.all()
    monkeypatch.setattr(models, "encode_images", lambda *_: pytest.fail("encoded again"))
    prepare()
    monkeypatch.undo()
    done[0] = False  # as if it had been killed before this chunk
    np.load(tmp_path / "images" / "latents.npy", mmap_mode="r+")[:] = 0
    examples, _ = prepare()
    assert np.array_equal(examples.images["latents"], whole)


def test_another_resolution_or_model_is_encoded_anew_with_a_message(prepare, pipeline, tmp_path, capsys):
    prepare()
    examples, _ = prepare(resolution=16)
    assert examples.images["latents"].shape[-1] == 4
    assert "was made with other resolution: encoding anew" in capsys.readouterr().out
    weight = next(pipeline.vae.parameters()).data
    weight += 0.01
    prepare(resolution=16)
    weight -= 0.01
    assert "was made with other model" in capsys.readouterr().out


def test_images_are_resized_by_the_shorter_side_and_cropped_in_the_middle(tmp_path):
    columns = np.zeros((10, 30, 3), np.uint8)
    columns[:, 10:20] = 255
    Image.fromarray(columns).save(tmp_path / "wide.png")
    pixels, sizes = cache.read_image(tmp_path / "wide.png", 10)
    assert pixels.shape == (3, 10, 10) and (pixels == 255).all()
    assert sizes == [10, 30, 0, 10, 10, 10]
    for mode in ("L", "RGBA", "P"):
        Image.new(mode, (20, 40)).save(tmp_path / "other.png")
        assert cache.read_image(tmp_path / "other.png", 8)[0].shape == (3, 8, 8)
    offsets = {
        cache.read_image(tmp_path / "wide.png", 10, "random", rng=np.random.default_rng(i))[1][3]
        for i in range(20)
    }
    assert len(offsets) > 5
    plain, mirrored = (cache.read_image(tmp_path / "wide.png", 10, "center", m) for m in (False, True))
    assert torch.equal(mirrored[0], plain[0].flip(-1)) and mirrored[1] == plain[1]


@pytest.fixture
def broken(example, tmp_path):
    """A data set with a truncated image, a text file as image, and a copy under the other label."""
    folder = tmp_path / "data"
    folder.mkdir()
    rows = ["a.png,x,liked", "b.png,x,disliked", "c.png,x,liked", "d.png,x,disliked", "e.png,x,disliked"]
    example(folder, "file_name,caption,label", *rows)
    (folder / "c.png").write_bytes((folder / "c.png").read_bytes()[:50])
    (folder / "d.png").write_text("no image")
    (folder / "e.png").write_bytes((folder / "a.png").read_bytes())
    return folder


def test_unreadable_images_are_named_or_left_out(prepare, pipeline, broken):
    examples, settings = prepare(broken)
    with pytest.raises(
        InputError, match=r"2 images cannot be read: c\.png \(row 4\), d\.png \(row 5\); replace them"
    ):
        check.refuse_unusable(examples, settings)
    examples, settings = prepare(broken, skip_unreadable=True)
    check.refuse_unusable(examples, settings)
    lines = check.report(examples, pipeline)
    assert lines[0] == "2 liked and 3 disliked images, 1 captions"
    assert "2 images cannot be read and are left out: c.png (row 4), d.png (row 5)" in lines
    assert [examples.usable(i) for i in range(5)] == [True, False, True, False, True]


def test_an_image_both_liked_and_disliked_is_reported_and_the_report_is_kept(
    prepare, pipeline, broken, monkeypatch
):
    examples, _ = prepare(broken, skip_unreadable=True)
    lines = check.report(examples, pipeline)
    assert "1 images are both liked and disliked: a.png = e.png" in lines
    monkeypatch.setattr(examples.index, "find_opposites", lambda *_: pytest.fail("looked again"))
    assert check.report(examples, pipeline) == lines


def test_long_captions_are_counted(prepare, pipeline, example, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    example(folder, "file_name,caption,label", f"a.png,{'blue ' * 20},liked", "b.png,x,disliked")
    lines = check.report(prepare(folder)[0], pipeline)
    assert any("1 captions are cut at 16 tokens, such as 'blue blue" in line for line in lines)


FEEDBACK, PAIRS = "file_name,caption,label", "winner,loser,caption"


@pytest.mark.parametrize(
    "rows, changes, words",
    [
        ([FEEDBACK, "a.png,x,liked"], {}, "is disliked: add some, or use --objective sft or --gamma 1"),
        ([FEEDBACK, "a.png,x,liked"], {"objective": "sft"}, None),
        ([FEEDBACK, "a.png,x,disliked"], {"objective": "sft"}, "none of the 1 images in .* is liked"),
        (
            [PAIRS, "a.png,b.png,x"],
            {"objective": "smpo"},
            "smpo needs winner_score and loser_score",
        ),
        ([PAIRS, "a.png,b.png,x"], {}, "diffusion_kto needs the columns file_name, caption and label"),
        (
            [FEEDBACK, "a.png,x,1"],
            {"objective": "diffusion_dpo"},
            "needs the columns winner, loser and caption",
        ),
        (
            [FEEDBACK, "a.png,x,1", "b.png,x,0"],
            {"batch": 1},
            "a batch of 1 has no reference point",
        ),
        ([FEEDBACK, "a.png,x,1", "b.png,x,0"], {"batch": 1, "reference_point": "none"}, None),
    ],
)
def test_what_an_objective_cannot_learn_from_is_refused(example, config, tmp_path, rows, changes, words):
    index = example(tmp_path, *rows)
    if words is None:
        return check.refuse_missing(index, config(**changes), 1)
    with pytest.raises(InputError, match=words):
        check.refuse_missing(index, config(**changes), 1)


def test_a_class_of_which_nothing_can_be_read_is_refused(prepare, broken):
    for name in "be":
        (broken / f"{name}.png").write_text("no image")
    with pytest.raises(InputError, match=r"no image of one class in .* can be read"):
        check.refuse_unusable(*prepare(broken, skip_unreadable=True))


def test_a_replaced_image_is_read_again_and_the_report_made_anew(prepare, pipeline, broken):
    examples, _ = prepare(broken, skip_unreadable=True)
    assert any("2 images cannot be read" in line for line in check.report(examples, pipeline))
    for name in "cd":
        Image.new("RGB", (16, 16), (9, 9, 9 * ord(name) % 255)).save(broken / f"{name}.png")
    examples, settings = prepare(broken)
    check.refuse_unusable(examples, settings)
    assert not any("cannot be read" in line for line in check.report(examples, pipeline))


def test_a_cache_travels_to_another_process_by_the_names_of_its_files(prepare):
    examples, settings = prepare(utility="linear")
    packed = ForkingPickler.dumps((examples, settings))
    assert len(packed) < 10_000
    there, config = ForkingPickler.loads(packed)
    assert np.array_equal(there.images["latents"], examples.images["latents"]) and config == settings
    assert config.run.utility is settings.run.utility


@pytest.mark.parametrize(
    "name", ["images/latents.npy", "images/done.npy", "captions/text.npy", "images/about.json"]
)
def test_a_damaged_cache_is_made_anew(prepare, tmp_path, name, capsys):
    whole = np.array(prepare()[0].images["latents"])
    with open(tmp_path / name, "r+b") as file:
        file.truncate(10)
    assert np.array_equal(prepare()[0].images["latents"], whole)
    assert "encoding anew" in capsys.readouterr().out


def test_two_runs_on_one_cache_do_not_mix(prepare, monkeypatch, tmp_path):
    prepare()
    fill = store._create

    def meddle(folder, about, arrays):
        fill(folder, about, arrays)
        if folder.name == "images":  # another run, of another model, starts now
            text = (folder / "about.json").read_text()
            (folder / "about.json").write_text(text.replace('"resolution": 32', '"resolution": 64'))

    monkeypatch.setattr(store, "_create", meddle)
    with pytest.raises(InputError, match="another run is writing to"):
        prepare()


def test_a_full_disk_is_reported_before_the_work(prepare, monkeypatch, tmp_path):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "posix_fallocate", full)
    with pytest.raises(
        InputError,
        match=r"cannot make .* GB in .*No space left on device; use another --cache or --no-cached",
    ):
        prepare()
    assert not (tmp_path / "images").exists()


def test_a_resolution_the_model_cannot_work_on_is_refused(prepare):
    with pytest.raises(InputError, match="--resolution must be a multiple of 8 for this model, not 30"):
        prepare(resolution=30)
