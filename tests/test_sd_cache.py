"""sd.feedback.cache, store and check: what a run draws is encoded once, kept or made anew, and checked."""

from multiprocessing.reduction import ForkingPickler
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from sd import models
from sd.feedback import cache, check, store
from sd.feedback.batches import Batches
from sd.feedback.draws import find_drawn
from sd.feedback.index import open_index
from sd.tiny.runs import PIPELINE
from toy.errors import InputError
from toy.objectives import OBJECTIVES


@pytest.fixture(scope="module")
def pipeline():
    return models.load(PIPELINE)


@pytest.fixture
def prepare(config, pipeline, red, tmp_path):
    """Encodes what a run draws of a data set (the small red one) into tmp_path: its cache."""

    def make(data=red, encode=True, **changes):
        settings = config(data=str(data), **changes).shared_by(1)
        name = "pairs.csv" if settings.pairs else "feedback.csv"
        index = open_index(data / name, tmp_path, settings.intersections)
        examples = cache.Cache(settings, pipeline, index, tmp_path)
        examples.find(1)
        if encode:
            examples.encode(pipeline, Accelerator())
        return examples

    return make


def drawn(examples):
    """(number, mirrored) of every image that the run draws."""
    return [(number, bool(mirrored)) for number, mirrored in np.argwhere(examples.keys).tolist()]


def test_latents_are_the_vaes_scaled_and_captions_the_text_encoders(prepare, pipeline):
    examples = prepare()
    number, _ = drawn(examples)[3]
    row = examples.index.image(number)
    pixels = cache.to_unit(cache.read_image(examples.index.root / row.file, 32)[0])
    caption = examples.index.caption(row.caption)
    with torch.no_grad():
        latent = pipeline.vae.encode(pixels[None]).latent_dist
        tokens = pipeline.tokenizer([caption], padding="max_length", return_tensors="pt")
        text = pipeline.text_encoder(tokens.input_ids).last_hidden_state
    scale = pipeline.vae.config.scaling_factor
    for noise in (0, 1, -2):
        x0, sizes = examples.latent(number, False, np.full(examples.shape, noise, np.float32))
        np.testing.assert_allclose(x0, (latent.mean + noise * latent.std)[0] * scale, atol=4e-3)
        assert sizes == [32, 32, 0, 0, 32, 32]
    np.testing.assert_allclose(examples.text(caption)["text"], text[0], atol=5e-3)


def test_only_what_the_run_draws_is_encoded_and_more_when_steps_are_raised(prepare, monkeypatch):
    short = prepare(steps=3, batch=2)
    assert 3 <= len(drawn(short)) <= 6 and len(short.images.missing(short.keys[short.keys > 0])) == 0
    new = len(prepare(steps=30, batch=2, encode=False).lacking)
    long = prepare(steps=30, batch=2)
    assert set(drawn(short)) < set(drawn(long)) and new == len(drawn(long)) - len(drawn(short))
    monkeypatch.setattr(models, "encode_images", lambda *_: pytest.fail("encoded again"))
    assert drawn(prepare(steps=30, batch=2)) == drawn(long)
    assert drawn(prepare(steps=3, batch=1, accumulate=2)) == drawn(prepare(steps=6, batch=1))


@pytest.mark.parametrize("objective", ["diffusion_kto", "diffusion_dpo"])
def test_what_batches_draw_is_what_was_encoded(prepare, objective):
    examples, used = prepare(objective=objective, flip=True, steps=9), set()
    latent = examples.latent
    examples.latent = lambda *place: used.add(place[:2]) or latent(*place)
    batches = Batches(examples, examples.config, 1000)
    assert [batches[k] for k in range(9)] and used == set(drawn(examples))
    assert {mirrored for _, mirrored in used} == {False, True}


def test_mirrored_images_are_encoded_mirrored(prepare, pipeline):
    examples = prepare(flip=True)
    number = next(number for number, mirrored in drawn(examples) if mirrored)
    file = examples.index.root / examples.index.image(number).file
    pixels = cache.to_unit(cache.read_image(file, 32)[0])
    moments = models.encode_images(pipeline, pixels.flip(-1)[None])[0]
    x0, _ = examples.latent(number, True, np.zeros(examples.shape, np.float32))
    np.testing.assert_allclose(x0, moments.chunk(2)[0], atol=2e-3)


def test_the_deviation_is_stored_only_where_half_precision_keeps_it(prepare, monkeypatch):
    usual = prepare()
    assert usual.deviation
    encode = models.encode_images

    def certain(pipeline, pixels):
        mean, deviation = encode(pipeline, pixels).chunk(2, 1)
        return torch.cat([mean, 1e-5 * deviation], 1)

    monkeypatch.setattr(models, "encode_images", certain)
    monkeypatch.setattr(models, "digest", lambda module: "another model")
    examples = prepare()
    assert not examples.deviation
    number, _ = drawn(examples)[0]
    a, b = (examples.latent(number, False, np.full(examples.shape, noise, np.float32))[0] for noise in (0, 9))
    assert np.array_equal(a, b) and examples.disk_space(1, 0) < usual.disk_space(1, 0)


def test_csft_has_each_caption_with_its_prefix_and_the_empty_one_bare(prepare, pipeline):
    examples = prepare(objective="csft")
    rows = [examples.index.image(number) for number, _ in drawn(examples)]
    assert {row.desirable for row in rows} == {0, 1}
    for row in rows:
        caption = OBJECTIVES["csft"].captions[row.desirable] + examples.index.caption(row.caption)
        assert examples.caption(row.caption, row.desirable) == caption
        text = models.encode_text(pipeline, [caption])["text"][0]
        np.testing.assert_allclose(examples.text(caption)["text"], text, atol=5e-3)
    assert examples.caption(0, 0) == examples.caption(0, 1) == "" and examples.text("")


def test_an_interrupted_run_goes_on_where_it_was(prepare, monkeypatch):
    monkeypatch.setattr(store, "ROWS", 4)
    monkeypatch.setattr(cache, "MOST", 4)
    prepare(encode=False)  # decides about the deviation
    encode, calls = models.encode_images, []

    def interrupted(pipeline, pixels):
        calls.append(len(pixels))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(pipeline, pixels)

    monkeypatch.setattr(models, "encode_images", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(steps=20)
    total = len(prepare(steps=20, encode=False).keys.nonzero()[0])
    assert calls == [4, 4, 4]
    assert len(prepare(steps=20, encode=False).lacking) == total - 8


def test_objectives_on_likes_and_on_pairs_share_what_is_encoded(prepare):
    likes = prepare(steps=40)
    pairs = prepare(objective="diffusion_dpo", steps=40, encode=False)
    files = {likes.index.image(number).file for number, _ in drawn(likes)}
    theirs = {pairs.index.image(number).file for number, _ in drawn(pairs)}
    assert len(pairs.lacking) == len(theirs - files) < len(theirs)


def test_another_model_or_resolution_has_its_own_files(prepare, pipeline, monkeypatch):
    plain, small = prepare(), prepare(resolution=16)
    assert small.images.folder != plain.images.folder and small.shape == (4, 4, 4)
    monkeypatch.setattr(models, "digest", lambda module: "another model")
    other = prepare(encode=False)
    monkeypatch.undo()
    assert other.images.folder not in (plain.images.folder, small.images.folder)
    assert len(other.lacking) == len(drawn(other)) and not len(prepare(encode=False).lacking)


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
    with pytest.raises(
        InputError, match=r"2 images cannot be read: c\.png \(row 4\), d\.png \(row 5\); replace them"
    ):
        prepare(broken)
    examples = prepare(broken, skip_unreadable=True)
    lines = check.report(examples, pipeline)
    assert lines[0] == "2 liked and 3 disliked images, 1 captions"
    assert "2 images cannot be read and are left out: c.png (row 4), d.png (row 5)" in lines
    assert [examples.index.image(number).file for number, _ in drawn(examples)] == ["a.png", "b.png", "e.png"]


def test_an_image_both_liked_and_disliked_is_reported(prepare, pipeline, broken):
    examples = prepare(broken, skip_unreadable=True)
    assert "1 images are both liked and disliked: a.png = e.png" in check.report(examples, pipeline)


def test_an_image_that_vanished_is_unreadable(prepare, broken):
    prepare(broken, encode=False, steps=20)
    (broken / "b.png").unlink()
    with pytest.raises(InputError, match=r"3 images cannot be read: c\.png .*, b\.png"):
        prepare(broken, steps=20)


def test_long_captions_are_counted(prepare, pipeline, example, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    example(folder, "file_name,caption,label", f"a.png,{'blue ' * 20},liked", "b.png,x,disliked")
    lines = check.report(prepare(folder), pipeline)
    assert any("1 captions are cut at 16 tokens, such as 'blue blue" in line for line in lines)


FEEDBACK, PAIRS = "file_name,caption,label", "winner,loser,caption"
RATED = "file_name,caption,rating"


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
        (
            [FEEDBACK, "a.png,x,1", "b.png,x,0"],
            {"rating_weight": 5.0},
            "are for ratings: .* has no column rating",
        ),
        (
            [FEEDBACK, "a.png,x,1", "b.png,x,0"],
            {"threshold": "3"},
            "are for ratings: .* has no column rating",
        ),
        (
            [RATED, "a.png,x,3", "b.png,x,3"],
            {},
            r"is disliked \(ratings from 3 to 3, threshold 3\): add some",
        ),
        (
            [RATED, "a.png,x,3", "b.png,x,4"],
            {"threshold": "5"},
            r"liked \(ratings from 3 to 4, threshold 5\)",
        ),
        (
            [RATED, "a.png,x,3", "b.png,x,4"],
            {"threshold": "1e0"},
            r"disliked \(ratings from 3 to 4, threshold 1\)",
        ),
        ([RATED, "a.png,x,3", "b.png,x,4"], {"threshold": "3.5", "rating_weight": 5.0}, None),
    ],
)
def test_what_an_objective_cannot_learn_from_is_refused(example, config, tmp_path, rows, changes, words):
    index = example(tmp_path, *rows, threshold=changes.get("threshold", "median"))
    if words is None:
        return check.refuse_missing(index, config(**changes).shared_by(1), 1)
    with pytest.raises(InputError, match=words):
        check.refuse_missing(index, config(**changes).shared_by(1), 1)


def test_a_class_of_which_nothing_can_be_read_is_refused(prepare, broken):
    for name in "be":
        (broken / f"{name}.png").write_text("no image")
    with pytest.raises(InputError, match=r"no image of one class in .* can be read"):
        prepare(broken, skip_unreadable=True)


def test_a_replaced_image_is_encoded_again(prepare, broken):
    before = prepare(broken, skip_unreadable=True, steps=20)
    for name in "cd":
        Image.new("RGB", (16, 16), (9, 9, 9 * ord(name) % 255)).save(broken / f"{name}.png")
    examples = prepare(broken, encode=False, steps=20)
    assert len(examples.lacking) == 2 and len(drawn(examples)) == 5
    Image.new("RGB", (16, 16), (250, 9, 9)).save(broken / "a.png")
    after, zeros = prepare(broken, steps=20), np.zeros(before.shape, np.float32)
    assert not np.array_equal(after.latent(0, False, zeros)[0], before.latent(0, False, zeros)[0])


def test_a_cache_travels_to_another_process(prepare):
    examples = prepare(utility="linear")
    there = ForkingPickler.loads(ForkingPickler.dumps(examples))
    noise = np.ones(examples.shape, np.float32)
    number, _ = drawn(examples)[0]
    assert np.array_equal(there.latent(number, False, noise)[0], examples.latent(number, False, noise)[0])
    assert there.config.run.utility is examples.config.run.utility


@pytest.mark.parametrize("kind", ["images", "captions"])
def test_a_damaged_file_is_made_anew(prepare, tmp_path, kind, capsys):
    prepare()
    [path] = tmp_path.glob(f"{kind}-*/*.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[:1000])
    prepare()
    assert path.read_bytes() == content
    assert f"{path} is damaged: encoding its examples anew" in capsys.readouterr().out


def test_a_full_disk_is_reported_before_the_work(prepare, monkeypatch):
    examples = prepare(encode=False)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: SimpleNamespace(free=1e9))
    examples.images.refuse_too_large(1e9)
    words = "needs 2.5 GB more, and its disk has 1.0 GB left; use another --cache or --no-cached"
    with pytest.raises(InputError, match=words):
        examples.images.refuse_too_large(2.5e9)


def test_a_disk_that_fills_up_meanwhile_is_reported(prepare, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"cannot write .*safetensors: No space left on device"):
        prepare()


def test_a_resolution_the_model_cannot_work_on_is_refused(prepare):
    with pytest.raises(InputError, match="--resolution must be a multiple of 8 for this model, not 30"):
        prepare(resolution=30)


def test_a_million_images_are_searched_in_little_memory(config, tmp_path):
    """The index of a large data set, as a stand-in: only its counts are asked for."""
    index = SimpleNamespace(pairs=False, images=1_000_000, liked=250_000)
    settings = config(steps=100, batch=8, flip=True).shared_by(1)
    images = find_drawn(settings, index, np.zeros(index.images, bool), 1)
    assert images.nbytes == 2_000_000 and 780 <= images.sum() <= 800
