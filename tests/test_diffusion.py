"""The schedule, the samplers and the inversion, against diffusers and against closed forms."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from toy import diffusion as d

SCHEDULES = {
    "linear": (d.linear_schedule(), dict(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)),
    "scaled_linear": (
        d.scaled_linear_schedule(),
        dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
    ),
}
COMMON = dict(num_train_timesteps=1000, clip_sample=False)


def gaussian_eps(mean: float, variance: float, abar: torch.Tensor):
    """The ideal denoiser of N(mean, variance): E[eps | xt], linear in xt."""

    def predict(xt, t):
        a = d._signal(abar, t, xt)
        return (1 - a).sqrt() * (xt - a.sqrt() * mean) / (a * variance + 1 - a)

    return predict


@pytest.fixture(params=SCHEDULES)
def schedule(request):
    abar, options = SCHEDULES[request.param]
    return (
        abar,
        DDPMScheduler(**COMMON, **options),
        DDIMScheduler(**COMMON, **options, timestep_spacing="trailing"),
    )


def images(shape=(5, 4, 8, 8), seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g), torch.randn(shape, generator=g)


T = torch.tensor([0, 1, 250, 500, 999])


def test_schedules_are_diffusers(schedule):
    abar, ddpm, _ = schedule
    torch.testing.assert_close(abar, ddpm.alphas_cumprod, rtol=2e-5, atol=0)


@pytest.mark.parametrize("shape", [(5, 2), (5, 4, 8, 8)])
def test_add_noise_and_velocity_are_diffusers(schedule, shape):
    abar, ddpm, _ = schedule
    x0, eps = images(shape)
    torch.testing.assert_close(
        d.add_noise(x0, T, eps, abar), ddpm.add_noise(x0, eps, T), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        d.velocity(x0, T, eps, abar), ddpm.get_velocity(x0, eps, T), rtol=1e-4, atol=1e-5
    )


def test_an_ensemble_has_a_time_for_each_run_and_example():
    abar = d.linear_schedule()
    x0, eps = images((3, 5, 2))
    t = torch.stack([T, T.flip(0), T])
    noisy = d.add_noise(x0, t, eps, abar)
    for run in range(3):
        torch.testing.assert_close(noisy[run], d.add_noise(x0[run], t[run], eps[run], abar))


def test_velocity_and_noise_say_the_same(schedule):
    abar, *_ = schedule
    x0, eps = images()
    xt = d.add_noise(x0, T, eps, abar)
    v = d.velocity(x0, T, eps, abar)
    torch.testing.assert_close(d.eps_from_velocity(v, T, xt, abar), eps, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(d.eps_between(xt[1:], T[1:], x0[1:], abar), eps[1:], rtol=1e-3, atol=1e-3)


def test_an_error_in_velocity_is_an_error_in_noise_over_abar(schedule):
    abar, *_ = schedule
    x0, eps = images()
    xt = d.add_noise(x0, T, eps, abar)
    v = d.velocity(x0, T, eps, abar)
    wrong = torch.randn_like(v)
    eps_error = (d.eps_from_velocity(v + wrong, T, xt, abar) - eps).square().mean((1, 2, 3))
    torch.testing.assert_close(eps_error, abar[T] * wrong.square().mean((1, 2, 3)), rtol=1e-2, atol=1e-4)


def test_ddim_sampling_is_diffusers(schedule):
    abar, _, ddim = schedule
    predict = gaussian_eps(0.7, 0.3, abar)
    ddim.set_timesteps(20)
    x = mine = images((6, 2))[0]
    for t, ours in zip(ddim.timesteps, d.sample(predict, mine, abar, steps=20), strict=True):
        x = ddim.step(predict(x, t), t, x).prev_sample
        torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)


def test_ddpm_steps_are_diffusers(schedule):
    abar, ddpm, _ = schedule
    ddpm.set_timesteps(1000)
    x, eps = images((6, 2))
    for t in (999, 500, 20, 1, 0):
        g = torch.Generator().manual_seed(3)
        theirs = ddpm.step(eps, t, x, generator=g).prev_sample
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
        ours = d.move(x, torch.tensor(t), torch.tensor(t - 1), eps, abar, eta=1.0, noise=noise)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize(("eta", "steps"), [(0.0, 200), (1.0, 1000)])
def test_samples_of_the_ideal_denoiser_have_the_datas_mean_and_variance(eta, steps):
    abar = d.linear_schedule()
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(20_000, 1, generator=g)
    for x in d.sample(gaussian_eps(0.7, 0.3, abar), noise, abar, steps, eta, g):
        pass
    assert x.mean().item() == pytest.approx(0.7, abs=0.02)
    assert x.var().item() == pytest.approx(0.3, abs=0.02)


def exact_inversion(x0, t, mean, variance, abar):
    """Where the probability flow of N(mean, variance) carries x0: the same quantile, at t."""
    a = abar[t].view(-1, 1)
    return a.sqrt() * mean + (a * variance + 1 - a).sqrt() * (x0 - mean) / math.sqrt(variance)


@pytest.mark.parametrize("schedule_name", SCHEDULES)
def test_inversion_converges_to_the_closed_form_at_every_examples_own_t(schedule_name):
    abar = SCHEDULES[schedule_name][0].double()
    t = torch.tensor([0, 1, 7, 99, 500, 998, 999])
    x0 = torch.linspace(-1, 2, 7, dtype=torch.float64)[:, None]
    exact = exact_inversion(x0, t, 0.7, 0.3, abar)
    predict = gaussian_eps(0.7, 0.3, abar)
    errors = [(d.invert(predict, x0, t, abar, n) - exact).abs().max().item() for n in (9, 30, 250)]
    # what is left with many steps is asking the model at t = 0 about a point that is cleaner than that
    assert 0.2 > errors[0] > 4 * errors[1] and errors[1] < 0.02 and errors[2] < 0.01


def test_inversion_is_renoise_written_out_by_hand():
    """One example in plain floats: ask at the start, guess the end, ask there, go with the mean."""
    abar, variance, mean, t, steps = d.linear_schedule().double(), 0.3, 0.7, 640, 9
    x, start = -0.4, -1

    def a(time):
        return 1.0 if time < 0 else abar[time].item()

    def eps(x, time):
        return math.sqrt(1 - a(time)) * (x - math.sqrt(a(time)) * mean) / (a(time) * variance + 1 - a(time))

    def go(x, e, begin, end):
        x0 = (x - math.sqrt(1 - a(begin)) * e) / math.sqrt(a(begin))
        return math.sqrt(a(end)) * x0 + math.sqrt(1 - a(end)) * e

    for k in range(1, steps + 1):
        end = (t + 1) * k // steps - 1
        first = eps(x, max(start, 0))
        x = go(x, (first + eps(go(x, first, start, end), end)) / 2, start, end)
        start = end
    assert end == t
    got = d.invert(
        gaussian_eps(mean, variance, abar),
        torch.tensor([[-0.4]], dtype=torch.float64),
        torch.tensor([t]),
        abar,
    )
    assert got.item() == pytest.approx(x, rel=1e-10)


def test_inversion_asks_the_model_last_at_each_examples_own_t():
    seen = []

    def predict(xt, t):
        seen.append(t)
        return torch.zeros_like(xt)

    t = torch.tensor([0, 3, 8, 123, 999])
    d.invert(predict, torch.zeros(5, 2), t, d.linear_schedule(), steps=9)
    assert seen[-1].tolist() == t.tolist() and len(seen) == 18


def test_a_fixed_grid_would_miss():
    """The published loop stops on a grid common to all: the target's spread is then wrong."""
    abar = d.linear_schedule().double()
    g = torch.Generator().manual_seed(0)
    x0 = 0.7 + 0.3**0.5 * torch.randn(4000, 1, generator=g, dtype=torch.float64)
    t = torch.full((4000,), 150)
    predict = gaussian_eps(0.7, 0.3, abar)
    landed = d.invert(predict, x0, t, abar)
    on_grid = d.invert(predict, x0, torch.full_like(t, 111), abar)
    exact = d.eps_between(exact_inversion(x0, t, 0.7, 0.3, abar), t, x0, abar)
    assert d.eps_between(landed, t, x0, abar).std() == pytest.approx(exact.std().item(), rel=0.05)
    assert d.eps_between(on_grid, t, x0, abar).std() != pytest.approx(exact.std().item(), rel=0.05)


def test_inversion_leads_back_to_where_it_came_from():
    abar = d.linear_schedule().double()
    x0 = torch.linspace(-1, 2, 9, dtype=torch.float64)[:, None]
    predict = gaussian_eps(0.7, 0.3, abar)
    xt = d.invert(predict, x0, torch.full((9,), 999), abar, steps=100)
    for back in d.sample(predict, xt, abar, steps=1000):
        pass
    torch.testing.assert_close(back, x0, rtol=0, atol=0.01)


def test_the_same_inversion_serves_image_latents():
    abar = d.scaled_linear_schedule()
    x0, _ = images((5, 4, 8, 8))
    xt = d.invert(gaussian_eps(0.0, 1.0, abar), x0, T, abar)
    assert xt.shape == x0.shape and not xt.requires_grad
    torch.testing.assert_close(xt, x0, rtol=0, atol=0.1)  # N(0, 1) is carried onto itself


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_latents_do_not_round_the_schedule(dtype):
    abar = d.scaled_linear_schedule()
    x0, eps = (x.to(dtype) for x in images())
    for function in (d.add_noise, d.velocity):
        exact = function(x0.double(), T, eps.double(), abar.double())
        torch.testing.assert_close(function(x0, T, eps, abar).double(), exact, rtol=1e-5, atol=1e-5)


def test_all_of_it_stays_on_the_device_of_its_input():
    """The meta device computes nothing, but refuses to mix with another."""
    abar, x0 = d.linear_schedule(), torch.empty(5, 4, 8, 8, device="meta")
    t = torch.empty(5, dtype=torch.long, device="meta")
    for x in d.sample(lambda x, t: x, x0, abar, steps=3):
        assert x.device.type == "meta"
    assert d.invert(lambda x, t: x, x0, t, abar).device.type == "meta"
    assert d.add_noise(x0, t, x0, abar).device.type == "meta"
