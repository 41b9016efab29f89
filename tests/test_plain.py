"""toy/plain.py is the fast engine for one run: the same loss, the same step, the same picture."""

import copy

import pytest
import torch

from toy import losses, plain
from toy.batches import Stream, batches
from toy.objectives import Run
from toy.train import DIFFUSION, align
from toy.utilities import UTILITIES, loss_averse


def plain_copy(model):
    """The network of an ensemble of one, in nn.Linear layers. It leaves out the input for a caption, which is
    not used here, and the outputs that nobody reads."""
    made = plain.Denoiser(width=model.weight1.shape[-1]).to(model.weight1.dtype)
    weights = [(model.weight1[0, :-1], model.bias1), (model.weight2[0], model.bias2)]
    weights.append((model.weight3[0, :, :2], model.bias3[..., :2]))
    for layer, (weight, bias) in zip(made.layers[::2], weights, strict=True):
        layer.load_state_dict({"weight": weight.T, "bias": bias[0, 0]})
    return made


def weights_of(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.fixture
def likes(points):
    return points._replace(x0=points.x0.double())


@pytest.fixture
def network(pretrained):
    """A pretrained model in float64, where the order of sums does not matter."""
    return pretrained.select([0]).double()


@pytest.fixture
def batch(network, likes):
    """The first batch of seed 0, as the fast engine sees it."""
    first = next(batches(network, [likes], [Stream(0, False, 0.8)], 32))
    return first.x0[0], first.desirable[0], first.t[0], first.eps[0]


@pytest.mark.parametrize("utility", ["kahneman_tversky", "loss_averse", "linear"])
def test_one_step_is_one_step_of_the_fast_engine_on_the_same_batch(network, likes, batch, utility):
    run = Run(utility=UTILITIES[utility], beta=3.0)
    engine = next(align(network, likes, [run], steps=250, batch=32, lr=1e-3))
    policy = plain_copy(network)
    reference = copy.deepcopy(policy)
    optimizer = torch.optim.Adam(policy.parameters())
    loss = plain.kto_loss(policy, reference, *batch, UTILITIES[utility], 3.0)
    plain.update(optimizer, loss, lr=1e-3)
    assert loss.item() == pytest.approx(engine.loss.item(), rel=1e-12)
    moved = weights_of(plain_copy(engine.policy))
    assert not torch.allclose(moved, weights_of(reference), rtol=1e-6)
    # where a gradient is nearly 0 Adam's first step is not smooth
    torch.testing.assert_close(weights_of(policy), moved, rtol=1e-6, atol=1e-6)


def test_its_loss_is_the_librarys(network, batch):
    reference = plain_copy(network)
    policy = copy.deepcopy(reference)
    for i, parameter in enumerate(policy.parameters()):
        noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
        parameter.data += 0.01 * noise
    x0, desirable, t, eps = batch
    xt = plain.add_noise(x0, t, eps, DIFFUSION)
    errors = plain.error(policy, xt, t, eps), plain.error(reference, xt, t, eps)
    z0 = losses.reference_point(*errors)
    expected, _ = losses.diffusion_kto(*errors, desirable, utility=loss_averse, beta=4.0, z0=z0)
    loss = plain.kto_loss(policy, reference, *batch, loss_averse, 4.0)
    torch.testing.assert_close(loss, expected)
    for mine, theirs in zip(
        *(torch.autograd.grad(v, policy.parameters()) for v in (loss, expected)), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_it_runs_as_its_first_lines_say(capsys):
    plain.main()
    before, after = (line.split() for line in capsys.readouterr().out.splitlines())
    disliked = [float(words[-2].rstrip("%")) for words in (before, after)]
    assert before[0] == "pretrained" and after[0] == "aligned"
    assert 25 < disliked[0] < 45 and disliked[1] < 5
