"""sd.align: the losses of toy/ on the errors of images, checked against diffusers' own noise and targets."""

from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from sd import align, models
from sd.machine import make_accelerator
from toy import losses
from toy.diffusion import eps_between, error_weight, invert, split
from toy.utilities import UTILITIES


def random_batch(kind="v1", n=4, seed=0):
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g)

    width, pooled = {"xl": (32, 24), "sd3": (32, 48)}.get(kind, (64, 0))
    batch = {"x0": normal(n, 4, 8, 8), "eps": normal(n, 4, 8, 8), "text": normal(n, 16, width)}
    batch |= {"t": torch.randint(1000, (n,), generator=g), "desirable": torch.arange(n) < n // 2}
    batch |= {"score": torch.rand(n, generator=g), "sizes": torch.full((n, 6), 32.0)}
    batch["weight"] = 1 + torch.rand(n, generator=g)
    return batch | ({"pooled": normal(n, pooled)} if pooled else {})


@pytest.fixture
def make_aligner(config, kinds):
    def make(kind="v1", moved=True, **changes):
        settings = config(**changes)
        aligner = align.Aligner(models.load(kinds[kind]), settings, make_accelerator(settings))
        for i, p in enumerate(p for p in aligner.denoiser.parameters() if p.requires_grad and moved):
            p.data += 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
        return aligner

    return make


def of_the_scheduler(scheduler, batch):
    """xt and target as diffusers' training scripts compute them."""
    x0, eps, t = batch["x0"], batch["eps"], batch["t"]
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):  # its timesteps fall
        sigma = scheduler.sigmas[999 - t].view(-1, 1, 1, 1)
        return (1 - sigma) * x0 + sigma * eps, eps - x0
    ddpm = DDPMScheduler.from_config(scheduler.config)
    velocity = scheduler.config.prediction_type == "v_prediction"
    return ddpm.add_noise(x0, eps, t), ddpm.get_velocity(x0, eps, t) if velocity else eps


@pytest.mark.parametrize("tune", ["full", "lora"])
@pytest.mark.parametrize("kind", ["v1", "v2", "xl", "sd3"])
def test_errors_are_mean_squared_against_the_schedulers_target(make_aligner, kinds, kind, tune):
    aligner, batch = make_aligner(kind, tune=tune), random_batch(kind)
    plain = models.load(kinds[kind])
    xt, target = of_the_scheduler(plain.scheduler, batch)
    policy_error, reference_error = aligner.errors(batch)
    with torch.no_grad():
        expected, moved = (
            (models.predict(pipeline, xt, batch["t"], batch) - target).square().mean((1, 2, 3))
            for pipeline in (plain, aligner.pipeline)
        )
    torch.testing.assert_close(reference_error, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(policy_error.detach(), moved, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(expected, moved)
    assert policy_error.requires_grad and not reference_error.requires_grad and policy_error.shape == (4,)


@pytest.mark.parametrize("kind", ["v1", "v2", "sd3"])
@pytest.mark.parametrize("space", ["eps", "x0"])
def test_errors_may_be_measured_in_eps_or_x0(make_aligner, kind, space):
    batch = random_batch(kind)
    own, other = make_aligner(kind).errors(batch), make_aligner(kind, error_space=space).errors(batch)
    weight = error_weight(space, batch["t"], models.process(make_aligner(kind).pipeline))
    for a, b in zip(own, other, strict=True):
        torch.testing.assert_close(b, weight * a)


@pytest.mark.parametrize("name", ["kahneman_tversky", "loss_averse", "risk_seeking_bounded"])
def test_kto_is_the_toys_loss_on_them(make_aligner, name):
    aligner, batch = make_aligner(utility=name), random_batch()
    policy_error, reference_error = (e.detach() for e in aligner.errors(batch))
    z0 = losses.reference_point(policy_error, reference_error)
    options = {"utility": UTILITIES[name], "beta": 30.0, "z0": z0, "weight": batch["weight"]}
    expected, _ = losses.diffusion_kto(policy_error, reference_error, batch["desirable"], **options)
    loss, inputs = aligner.loss(batch)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(inputs.policy_error, policy_error)
    torch.testing.assert_close(inputs.reference_error, reference_error)
    assert torch.equal(inputs.desirable, batch["desirable"]) and (inputs.z0 == z0).all()
    assert torch.equal(inputs.weight, batch["weight"])


def test_the_mismatched_reference_point_is_the_mean_reward_under_other_captions(make_aligner):
    aligner, batch = make_aligner(reference_point="mismatched"), random_batch()
    other = batch | {"text": batch["text"][[3, 0, 1, 2]]}
    policy_error, reference_error = (error.detach() for error in aligner.errors(other))
    z0 = (reference_error - policy_error).mean()
    _, inputs = aligner.loss(batch)
    assert z0 < 0 and torch.allclose(inputs.z0, z0.expand(4))  # not clamped
    _, usual = make_aligner().loss(batch)
    assert torch.equal(inputs.policy_error, usual.policy_error) and not torch.allclose(inputs.z0, usual.z0)


def test_at_the_start_rewards_are_zero_and_kto_is_one_half(make_aligner):
    loss, inputs = make_aligner(moved=False).loss(random_batch() | {"weight": torch.ones(4)})
    assert loss.item() == 0.5 and torch.equal(inputs.policy_error, inputs.reference_error)


@pytest.mark.parametrize("objective", ["sft", "csft"])
def test_sft_and_csft_need_no_reference(make_aligner, objective):
    aligner, batch = make_aligner(objective=objective), random_batch()
    assert aligner.reference is None
    loss, _ = aligner.loss(batch)
    error = aligner.errors(batch)[0]
    torch.testing.assert_close(loss, error[:2].mean() if objective == "sft" else error.mean())


def test_dpo_is_the_toys_loss_on_halves(make_aligner):
    aligner, batch = make_aligner(objective="diffusion_dpo"), random_batch()
    p, r = (e.detach() for e in aligner.errors(batch))
    expected, _ = losses.diffusion_dpo(p[:2], p[2:], r[:2], r[2:], beta=30.0)
    loss, inputs = aligner.loss(batch)
    torch.testing.assert_close(loss, expected)
    assert [v.tolist() for v in inputs.pairs()] == [v.tolist() for v in (p[:2], p[2:], r[:2], r[2:])]


@pytest.mark.parametrize("kind", ["v1", "v2", "sd3"])
def test_smpo_noises_by_inversion_to_each_examples_own_t_at_any_batch_size(make_aligner, kind):
    aligner, batch = make_aligner(kind, objective="smpo", inversion_steps=3), random_batch(kind)
    batch["t"] = torch.tensor([3, 999, 400, 999])
    strides = (1, 3, 2, 3)  # of 3 over all of t
    process = models.process(aligner.pipeline)
    in_eps = replace(process, predicts="eps")
    p, r = [], []
    for i in range(4):  # one at a time
        one = {k: v[i : i + 1] for k, v in batch.items()}

        def ask(xt, t, one=one):
            out = models.predict(aligner.pipeline, xt, t, one)
            return out if kind == "sd3" else split(out, xt, t, process)[1]

        xt = invert(ask, one["x0"], one["t"], process if kind == "sd3" else in_eps, strides[i])
        tau = eps_between(xt, one["t"], one["x0"], process)
        single = dict(one, eps=tau)
        plain = make_aligner(kind, objective="diffusion_dpo")
        policy_error, reference_error = plain.errors(single)
        p.append(policy_error.detach())
        r.append(reference_error)
    p, r = torch.cat(p), torch.cat(r)
    probability = torch.softmax(torch.stack(batch["score"].chunk(2)), 0)[0]
    expected, _ = losses.smpo(p[:2], p[2:], r[:2], r[2:], probability, beta=30.0)
    torch.testing.assert_close(aligner.loss(batch)[0], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_gradients_reach_all_that_is_trained_under_bf16(config, kinds, tune):
    """The reference pass comes under autocast too; its rounded weights must not swallow the gradient."""
    settings = config(tune=tune, objective="smpo", precision="bf16", inversion_steps=2)
    aligner = align.Aligner(models.load(kinds["v1"]), settings, make_accelerator(settings))
    for _ in range(2):
        loss, _ = aligner.loss(random_batch())
        loss.backward()
    for name, p in aligner.denoiser.named_parameters():
        assert p.requires_grad == (p.grad is not None), name


def test_metrics_are_those_of_the_whole_not_means_of_batches(make_aligner, config):
    aligner = make_aligner()
    batches = [aligner.loss(random_batch(seed=i))[1] for i in range(3)]
    p, r, desirable, _, _, z0 = (torch.cat(column) for column in zip(*batches, strict=True))
    metrics = align.summarise(aligner.config, batches)
    g = r - p
    assert metrics["reward_desirable"] == pytest.approx(g[desirable > 0].mean().item(), rel=1e-4)
    assert metrics["reward_undesirable"] == pytest.approx(g[desirable == 0].mean().item(), rel=1e-4)
    assert metrics["reference_error"] == pytest.approx(r.mean().item(), rel=1e-4)
    x = 30 * (g - z0)
    assert metrics["spread"] == pytest.approx(x.std(correction=0).item(), rel=1e-4)
    assert metrics["saturated"] == pytest.approx((x.abs() > 4).float().mean().item())
    assert metrics["reference_point"] == pytest.approx(z0.mean().item(), abs=1e-7)


def test_spread_is_of_what_goes_into_the_utility(make_aligner):
    aligner = make_aligner(objective="smpo", inversion_steps=2)
    _, inputs = aligner.loss(random_batch())
    p, r, _, score, *_ = inputs
    probability = torch.sigmoid(score[:2] - score[2:])
    x = 0.5 * 30 * (20 * probability - 10) * ((r - p)[:2] - (r - p)[2:])
    assert align.summarise(aligner.config, [inputs])["spread"] == pytest.approx(
        x.std(correction=0).item(), rel=1e-3
    )


def test_a_compiled_model_is_one_graph_and_gives_the_same_loss(make_aligner, monkeypatch):
    """Without the code generation, which needs a compiler: the graph is what can break."""
    compile = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self: compile(self, backend="eager", fullgraph=True)
    )
    batch = random_batch()
    expected, _ = make_aligner(objective="diffusion_dpo", tune="lora").loss(batch)
    aligner = make_aligner(objective="diffusion_dpo", tune="lora", compile=True)
    loss, _ = aligner.loss(batch)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    assert all(p.grad is not None for p in aligner.denoiser.parameters() if p.requires_grad)
