"""sd.feedback.batches: what is random follows from (seed, step, slot), and from nothing else."""

import shutil

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from sd import models
from sd.feedback import cache
from sd.feedback.batches import Batches
from sd.feedback.draws import choose, draws
from sd.feedback.index import open_index
from sd.tiny.runs import PIPELINE


@pytest.fixture(scope="module")
def pipeline():
    return models.load(PIPELINE)


@pytest.fixture
def batches(config, pipeline, red, tmp_path):
    def make(process=0, **changes):
        settings = config(**{"steps": 100} | changes).shared_by(1)
        index = open_index(red / ("pairs.csv" if settings.pairs else "feedback.csv"), tmp_path)
        examples = cache.Cache(settings, pipeline, index, tmp_path)
        examples.find(2)
        examples.encode(pipeline, Accelerator())
        return Batches(examples, settings, 1000, process)

    return make


@pytest.mark.parametrize("objective", ["diffusion_kto", "diffusion_dpo"])
def test_two_processes_see_the_halves_of_what_one_sees(batches, objective):
    sides = 2 if objective == "diffusion_dpo" else 1
    whole = batches(objective=objective, batch=6)[3]
    halves = [batches(process, objective=objective, batch=3)[3] for process in (0, 1)]
    for name, value in whole.items():
        split = [half[name].unflatten(0, (sides, -1)) for half in halves]
        assert torch.equal(torch.cat(split, 1).flatten(0, 1), value), name


def test_numbers_depend_on_seed_step_and_slot(batches):
    one = batches()
    assert torch.equal(one[2]["eps"], batches()[2]["eps"])
    for other in (one[3], batches(seed=1)[2], batches(process=1)[2]):
        assert not torch.equal(one[2]["eps"], other["eps"])
    assert len({draws(0, step, slot).integers(2**60) for step in range(20) for slot in range(20)}) == 400


def test_noise_is_normal_and_timesteps_are_uniform(batches):
    examples = batches()
    many = [examples[k] for k in range(100)]
    eps = torch.cat([b["eps"] for b in many])
    assert abs(eps.mean()) < 0.01 and abs(eps.std() - 1) < 0.01
    t = torch.cat([b["t"] for b in many]).float()
    assert t.min() >= 0 and t.max() < 1000 and abs(t.mean() - 499.5) < 60


def chosen(examples, step):
    """The number of the first image of an example."""
    cache = examples.cache
    return choose(examples.config, cache.index, cache.unreadable, draws(0, step, 0))[0][0]


@pytest.mark.parametrize("gamma", [0.0, 0.2, 0.8, 1.0])
def test_desirable_with_probability_gamma_and_uniform_within_a_class(batches, gamma):
    examples = batches(gamma=gamma)
    n = 3000
    numbers = [chosen(examples, step) for step in range(n)]
    liked = np.array(numbers) < 24
    assert abs(liked.mean() - gamma) < 4 * max(0.001, (gamma * (1 - gamma) / n) ** 0.5)
    for images in (np.array(numbers)[liked], np.array(numbers)[~liked] - 24):
        if len(images):
            expected = len(images) / 24
            assert (
                (np.bincount(images, minlength=24) - expected) ** 2 / expected
            ).sum() < 50  # chi2(23), p = 1e-3


def test_pairs_are_winners_then_losers_with_t_noise_and_caption_in_common(batches):
    batch = batches(objective="smpo", batch=3, prompt_dropout=0.0)[0]
    assert batch["desirable"].tolist() == [True] * 3 + [False] * 3
    assert batch["score"].tolist() == [1.0] * 3 + [0.0] * 3
    for name in ("t", "eps", "text"):
        assert torch.equal(*batch[name].chunk(2)), name
    assert not torch.equal(*batch["x0"].chunk(2))


def test_without_ratings_all_weigh_alike(batches):
    assert batches()[0]["weight"].tolist() == [1.0] * 4


def test_with_ratings_an_image_weighs_by_its_distance_from_the_threshold(config, pipeline, red, tmp_path):
    (folder := tmp_path / "rated").mkdir()
    for letter in "abcd":
        shutil.copy(next((red / "images").glob("*.png")), folder / f"{letter}.png")
    rows = ["file_name,caption,rating", "a.png,x,1", "b.png,x,2", "c.png,x,4", "d.png,x,7"]
    (folder / "feedback.csv").write_text("\n".join(rows))
    settings = config(steps=100, rating_weight=5.0).shared_by(1)
    examples = cache.Cache(settings, pipeline, open_index(folder / "feedback.csv", tmp_path), tmp_path)
    examples.find(1)
    examples.encode(pipeline, Accelerator())
    batch = [Batches(examples, settings, 1000)[k] for k in range(20)]
    liked, weight = (torch.cat([b[name] for b in batch]) for name in ("desirable", "weight"))
    assert weight.dtype == torch.float32
    assert set(zip(liked.tolist(), weight.tolist(), strict=True)) == {
        *((False, 11.0), (False, 6.0)),  # 2 and 1 below the median, 3
        *((True, 6.0), (True, 21.0)),
    }


def test_captions_are_dropped_with_the_given_probability(batches):
    examples = batches(prompt_dropout=0.2)
    empty = torch.from_numpy(examples.cache.text("")["text"])
    dropped = [torch.equal(text, empty) for k in range(100) for text in examples[k]["text"]]
    assert abs(np.mean(dropped) - 0.2) < 0.06


def test_csft_says_good_and_bad(batches):
    examples = batches(objective="csft", prompt_dropout=0.0, batch=1)
    cache = examples.cache
    for k in range(8):
        [image], row = examples.example(k, 0), cache.index.image(chosen(examples, k))
        text = cache.text(cache.caption(row.caption, row.desirable))["text"]
        assert np.array_equal(image["text"], text) and image["desirable"] == row.desirable


def test_without_a_cache_the_same_example_comes_as_pixels(batches, pipeline):
    encoded, plain = batches()[1], batches(cached=False)[1]
    for name in ("t", "eps", "desirable"):
        assert torch.equal(encoded[name], plain[name])
    mean, deviation = models.encode_images(pipeline, cache.to_unit(plain["pixels"])).chunk(2, 1)
    torch.testing.assert_close(mean + deviation * plain["noise"], encoded["x0"], atol=5e-3, rtol=0)
    text = models.encode_text(pipeline, plain["captions"])["text"]
    torch.testing.assert_close(text, encoded["text"], atol=5e-3, rtol=0)


def test_unreadable_images_are_never_drawn(batches):
    examples = batches(gamma=0.5)
    examples.cache.unreadable[[0, 5, 30]] = True
    assert not {chosen(examples, k) for k in range(2000)} & {0, 5, 30}
    pairs = batches(objective="diffusion_dpo")
    pairs.cache.unreadable[[0, 5, 30]] = True
    firsts = {chosen(pairs, k) for k in range(2000)}
    assert not firsts & {0, 4, 30} and len(firsts) == 21


def test_a_fixed_size_is_the_same_for_every_image(batches):
    assert set(map(tuple, batches(sizes="fixed")[0]["sizes"].tolist())) == {(32, 32, 0, 0, 32, 32)}
