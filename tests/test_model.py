"""The denoiser: an ensemble is nothing but its runs."""

import torch

from toy.model import Denoiser, stack


def inputs(runs=3, n=5):
    g = torch.Generator().manual_seed(0)
    return torch.randn(runs, n, 2, generator=g), torch.randint(1000, (runs, n), generator=g)


def plain(model, run, xt, t, condition):
    """The same network for one run, written with vectors and matrices."""
    h = torch.cat([xt, model.time[t], condition[:, None]], 1)
    h = torch.relu(h @ model.weight1[run] + model.bias1[run])
    h = torch.relu(h @ model.weight2[run] + model.bias2[run])
    return (h @ model.weight3[run] + model.bias3[run])[:, :2]


def test_an_ensemble_is_its_runs_side_by_side():
    model = Denoiser(seeds=(0, 1, 2))
    with torch.no_grad():
        model.weight1[:, -1].normal_()
    xt, t = inputs()
    condition = torch.tensor([[1.0], [0.0], [-1.0]]).expand(3, 5)
    eps = model(xt, t, condition)
    assert eps.shape == (3, 5, 2)
    for run in range(3):
        torch.testing.assert_close(eps[run], plain(model, run, xt[run], t[run], condition[run]))
        alone = model.select([run])(xt[run : run + 1], t[run : run + 1], condition[run : run + 1])
        torch.testing.assert_close(eps[run], alone[0])


def test_a_seed_means_the_same_network_alone_and_among_others():
    together, alone = Denoiser(seeds=(4, 7)), Denoiser(seeds=(7,))
    assert torch.equal(together.weight2[1], alone.weight2[0])
    assert not torch.equal(together.weight2[0], together.weight2[1])


def test_captions_mean_nothing_before_training_and_can_be_learned():
    model = Denoiser()
    xt, t = inputs(1)
    assert torch.equal(model(xt, t, 1.0), model(xt, t, -1.0))
    model(xt, t, 1.0).sum().backward()
    assert model.weight1.grad[:, -1].abs().sum() > 0


def test_one_time_serves_all_examples():
    model, (xt, _) = Denoiser(seeds=(0, 1, 2)), inputs()
    each = model(xt, torch.full((3, 5), 17))
    torch.testing.assert_close(model(xt, torch.tensor(17)), each)


def test_decode_undoes_encode():
    model = Denoiser()
    model.center.fill_(0.3)
    model.scale.fill_(0.2)
    points = torch.randn(6, 2)
    torch.testing.assert_close(model.decode(model.encode(points))[0], points)
    torch.testing.assert_close(model.encode(torch.full((1, 2), 0.5)), torch.ones(1, 1, 2))


def test_selected_and_stacked_runs_are_copies():
    model = Denoiser(seeds=(0, 1))
    twice = model.select([1, 1, 0])
    both = stack([model.select([1]), model.select([0])])
    assert twice.runs == 3 and torch.equal(twice.weight1[0], model.weight1[1])
    assert torch.equal(both.weight3, model.weight3[[1, 0]])
    with torch.no_grad():
        twice.weight1.zero_()
    assert model.weight1.abs().sum() > 0 and both.weight1.abs().sum() > 0
    assert all(p.requires_grad for p in twice.parameters())
