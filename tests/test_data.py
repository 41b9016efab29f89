"""The worlds, and what is liked in them."""

import pytest
import torch

from toy import data
from toy.errors import InputError


def test_figure6_is_the_papers():
    world, g = data.figure6(), data.generator("test", 0)
    for draw, mean, variance in (
        (world.base, (0.5, 0.8), 0.04),
        (world.desirable, (0.3, 0.8), 0.01),
        (world.undesirable, (0.3, 0.6), 0.01),
    ):
        x = draw(100_000, g)
        torch.testing.assert_close(x.mean(0), torch.tensor(mean), rtol=0, atol=0.004)
        torch.testing.assert_close(x.var(0), torch.tensor([variance] * 2), rtol=0.03, atol=0)


def test_figure6_judges_as_the_paper_says():
    world, g = data.figure6(), data.generator("test", 0)
    liked = world.desirable(100_000, g)
    assert world.is_undesirable(liked).float().mean().item() == pytest.approx(0.159, abs=0.005)
    assert world.is_desirable(liked).float().mean().item() == pytest.approx(0.95, abs=0.005)
    assert world.score(torch.tensor([[0.3, 0.7]])).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", data.WORLDS)
def test_every_world_likes_what_it_calls_liked(name):
    world, g = data.WORLDS[name](), data.generator("test", 0)
    assert world.name == name and world.base(50, g).shape == (50, 2)
    liked, disliked = world.desirable(500, g), world.undesirable(500, g)
    assert liked.shape == disliked.shape == (500, 2) and liked.dtype == torch.float32
    assert world.is_desirable(liked).float().mean() > 0.9
    assert world.is_undesirable(disliked).float().mean() > 0.8
    assert world.score(liked).mean() > world.score(disliked).mean()


def test_the_same_seed_gives_the_same_points_and_another_purpose_others():
    world = data.WORLDS["moons"]()
    first, again = (data.feedback(world, 100, seed=3).x0 for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, data.feedback(world, 100, seed=4).x0)
    a, b = (torch.randn(8, generator=data.generator(purpose, 0)) for purpose in ("data", "noise"))
    assert not torch.equal(a, b)


def test_feedback_holds_labels_and_scores():
    feedback = data.feedback(data.figure6(), 1000, desirable_share=0.3)
    assert feedback.x0.shape == (1000, 2)
    assert feedback.desirable.dtype == torch.bool and feedback.desirable.sum() == 300
    assert feedback.score.min() == 0 and feedback.score.max() == 1
    assert feedback.score[feedback.desirable].mean() > feedback.score[~feedback.desirable].mean()


def test_graded_likes_are_labels_and_weights_by_the_distance_from_the_threshold():
    rating = torch.tensor([3.0, 1.0, 5.0, 4.0])
    desirable, weight = data.graded(rating, c=2.0)
    assert desirable.tolist() == [False, False, True, True]  # the median is 3.5
    assert weight.tolist() == [2.0, 6.0, 4.0, 2.0]
    desirable, weight = data.graded(rating, threshold=4.0, c=0.5)
    assert desirable.tolist() == [False, False, True, True] and weight.tolist() == [1.5, 2.5, 1.5, 1.0]
    assert data.graded(rating[:3])[0].tolist() == [True, False, True]  # the median itself is a like
    assert (data.graded(rating)[1] == 1).all()  # by default labels only


def test_label_noise_flips_that_share_of_each_class_and_nothing_else():
    clean, noisy = (data.feedback(data.figure6(), 1000, 0.3, flipped=f) for f in (0.0, 0.2))
    assert torch.equal(clean.x0, noisy.x0) and torch.equal(clean.score, noisy.score)
    changed = clean.desirable != noisy.desirable
    assert changed[clean.desirable].sum() == 60 and changed[~clean.desirable].sum() == 140


def test_what_has_left_the_data_is_neither_liked_nor_disliked():
    world, far = data.WORLDS["moons"](), torch.tensor([[0.5, 50.0], [0.5, -50.0]])
    assert not world.is_desirable(far).any() and not world.is_undesirable(far).any()


def test_a_preference_can_be_any_drawn_region():
    triangle = data.polygon([(0, 0), (2, 0), (0, 2)])
    assert triangle(torch.tensor([[0.5, 0.5], [1.5, 1.5]])).tolist() == [True, False]
    world = data.liked_region("triangle", data.grid(), triangle)
    assert world.is_desirable(world.desirable(100, data.generator("test", 0))).float().mean() > 0.95


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: data.liked_region("far", data.rings(), lambda x: x[:, 0] > 9), "0.0% of its points"),
        (lambda: data.feedback(data.figure6(), flipped=1.5), "flipped must be in"),
        (lambda: data.feedback(data.figure6(), 10, desirable_share=0.0), "leaves a class empty"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
