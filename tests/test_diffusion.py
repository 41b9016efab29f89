"""The processes, the sampler and the inversion, against diffusers and against closed forms."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler

from toy import diffusion as d

BETAS = {
    "linear": dict(beta_schedule="linear", beta_start=1e-4, beta_end=0.02),
    "scaled_linear": dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
}
COMMON = dict(num_train_timesteps=1000, clip_sample=False)
ABAR = {name: DDPMScheduler(**COMMON, **options).alphas_cumprod for name, options in BETAS.items()}
PROCESSES = {
    "linear": d.variance_preserving(ABAR["linear"]),
    "scaled_linear": d.variance_preserving(ABAR["scaled_linear"]),
    "flow": d.flow(),
    "shifted flow": d.flow(shift=3.0),
}
T = torch.tensor([0, 1, 250, 500, 999])
MEAN, VARIANCE = 0.7, 0.3


def double(process):
    return d.Process(process.signal.double(), process.noise.double(), process.predicts)


def ideal(process):
    """The best model of N(MEAN, VARIANCE): E[x0 | xt] and E[eps | xt], linear in xt, as a prediction."""

    def predict(xt, t):
        signal, noise = process.at(t, xt)
        z = (xt - signal * MEAN) / (signal**2 * VARIANCE + noise**2)
        return d.target(MEAN + signal * VARIANCE * z, t, noise * z, process)

    return predict


def exact_inversion(x0, t, process):
    """Where the probability flow of N(MEAN, VARIANCE) carries x0: the same quantile, at t."""
    signal, noise = process.at(t, x0)
    return signal * MEAN + (signal**2 * VARIANCE + noise**2).sqrt() * (x0 - MEAN) / math.sqrt(VARIANCE)


def images(shape=(5, 4, 8, 8), seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g), torch.randn(shape, generator=g)


@pytest.fixture(params=PROCESSES)
def process(request):
    return PROCESSES[request.param]


@pytest.fixture(params=BETAS)
def name(request):
    return request.param


def test_the_linear_schedule_is_diffusers():
    torch.testing.assert_close(d.linear_schedule(), ABAR["linear"], rtol=2e-5, atol=0)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_flows_sigmas_are_diffusers(shift):
    theirs = FlowMatchEulerDiscreteScheduler(shift=shift).sigmas.flip(0)
    torch.testing.assert_close(d.flow(shift=shift).noise[:-1], theirs, rtol=1e-6, atol=1e-7)


def test_before_the_first_timestep_is_clean_data(process):
    x0, eps = images()
    clean = torch.tensor(-1)
    assert torch.equal(d.add_noise(x0, clean, eps, process), x0)
    assert torch.equal(d.add_noise(x0, torch.full((5,), -1), eps, process), x0)
    assert len(process) == 1000


@pytest.mark.parametrize("shape", [(5, 2), (5, 4, 8, 8)])
def test_noise_and_targets_are_diffusers(name, shape):
    ddpm = DDPMScheduler(**COMMON, **BETAS[name])
    x0, eps = images(shape)
    v = d.variance_preserving(ABAR[name], "v")
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(d.add_noise(x0, T, eps, v), ddpm.add_noise(x0, eps, T), **close)
    torch.testing.assert_close(d.target(x0, T, eps, v), ddpm.get_velocity(x0, eps, T), **close)
    assert d.target(x0, T, eps, PROCESSES[name]) is eps


def test_noise_of_a_flow_is_diffusers():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    x0, eps = images()
    for t in T.tolist():
        theirs = scheduler.scale_noise(x0, scheduler.timesteps[999 - t].expand(5), eps)
        ours = d.add_noise(x0, torch.tensor(t), eps, PROCESSES["shifted flow"])
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_an_ensemble_has_a_time_for_each_run_and_example(process):
    x0, eps = images((3, 5, 2))
    t = torch.stack([T, T.flip(0), T])
    noisy = d.add_noise(x0, t, eps, process)
    for run in range(3):
        torch.testing.assert_close(noisy[run], d.add_noise(x0[run], t[run], eps[run], process))


@pytest.mark.parametrize("predicts", ["eps", "v", "flow"])
def test_a_target_splits_into_what_it_was_made_of(name, predicts):
    process = d.flow() if predicts == "flow" else d.variance_preserving(ABAR[name].double(), predicts)
    x0, eps = (x.double() for x in images())
    xt = d.add_noise(x0, T, eps, process)
    got = d.split(d.target(x0, T, eps, process), xt, T, process)
    torch.testing.assert_close(got, (x0, eps), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(d.eps_between(xt, T, x0, process), eps, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("space", ["x0", "eps"])
@pytest.mark.parametrize("predicts", ["eps", "v", "flow"])
def test_error_weights_turn_an_error_of_the_prediction_into_one_of_x0_or_eps(name, predicts, space):
    process = double(d.flow() if predicts == "flow" else d.variance_preserving(ABAR[name], predicts))
    x0, eps = (x.double() for x in images())
    t, place = torch.tensor([0, 1, 250, 500, 900]), ("x0", "eps").index(space)
    xt, prediction = d.add_noise(x0, t, eps, process), d.target(x0, t, eps, process)
    wrong = torch.randn_like(prediction)
    found = d.split(prediction + wrong, xt, t, process)[place] - d.split(prediction, xt, t, process)[place]
    weight = d.error_weight(space, t, process)
    error = wrong.square().mean((1, 2, 3))
    torch.testing.assert_close(weight * error, found.square().mean((1, 2, 3)), rtol=1e-6, atol=0)


def test_ddim_sampling_is_diffusers(name):
    predict = ideal(PROCESSES[name])
    ddim = DDIMScheduler(**COMMON, **BETAS[name], timestep_spacing="trailing")
    ddim.set_timesteps(20)
    x = mine = images((6, 2))[0]
    for t, ours in zip(ddim.timesteps, d.sample(predict, mine, PROCESSES[name], steps=20), strict=True):
        x = ddim.step(predict(x, t), t, x).prev_sample
        torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)


def test_the_x0_of_a_ddpm_step_is_diffusers(name):
    ddpm = DDPMScheduler(**COMMON, **BETAS[name])
    x, eps = images((6, 2))
    for t in (999, 500, 20, 1, 0):
        ours, _ = d.split(eps, x, torch.tensor(t), PROCESSES[name])
        torch.testing.assert_close(ours, ddpm.step(eps, t, x).pred_original_sample, rtol=1e-4, atol=2e-4)


def test_sampling_a_flow_is_diffusers_euler():
    process = d.flow()
    euler, predict = FlowMatchEulerDiscreteScheduler(), ideal(process)
    euler.set_timesteps(sigmas=[k / 20 for k in range(20, 0, -1)])  # and then 0
    x = mine = images((6, 2))[0]
    for t, ours in zip(euler.timesteps, d.sample(predict, mine, process, steps=20), strict=True):
        x = euler.step(predict(x, (t - 1).round().long()), t, x).prev_sample
        torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["linear", "flow", "shifted flow"])  # the other does not end in pure noise
def test_samples_of_the_ideal_model_have_the_datas_mean_and_variance(name):
    process = PROCESSES[name]
    noise = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0))
    for x in d.sample(ideal(process), noise, process, 200):
        pass
    assert x.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert x.var().item() == pytest.approx(VARIANCE, abs=0.02)


def test_inversion_converges_to_the_closed_form_at_every_examples_own_t(process):
    process = double(process)
    t = torch.tensor([0, 1, 7, 99, 500, 998, 999])
    x0 = torch.linspace(-1, 2, 7, dtype=torch.float64)[:, None]
    exact = exact_inversion(x0, t, process)
    errors = [(d.invert(ideal(process), x0, t, process, n) - exact).abs().max().item() for n in (9, 30, 250)]
    # what is left with many steps is asking the model at t = 0 about a point that is cleaner than that
    assert 0.2 > errors[0] > 4 * errors[1] and errors[1] < 0.02 and errors[2] < 0.01


@pytest.mark.parametrize("kind", ["linear", "flow"])
def test_inversion_is_renoise_written_out_by_hand(kind):
    """One example in plain floats: ask at the start, guess the end, ask there, go with the mean."""
    process, t, steps = double(PROCESSES[kind]), 640, 9
    x, start = -0.4, -1

    def ask(x, time):
        return ideal(process)(torch.tensor([x], dtype=torch.float64), torch.tensor(max(time, 0))).item()

    def go(x, prediction, begin, end):
        if kind == "flow":  # Euler; sigma = (t + 1) / 1000
            return x + (end - begin) / 1000 * prediction
        a, b = (1.0 if time < 0 else ABAR[kind].double()[time].item() for time in (begin, end))
        x0 = (x - math.sqrt(1 - a) * prediction) / math.sqrt(a)  # DDIM
        return math.sqrt(b) * x0 + math.sqrt(1 - b) * prediction

    for k in range(1, steps + 1):
        end = (t + 1) * k // steps - 1
        first = ask(x, start)
        x = go(x, (first + ask(go(x, first, start, end), end)) / 2, start, end)
        start = end
    assert end == t
    got = d.invert(ideal(process), torch.tensor([[-0.4]], dtype=torch.float64), torch.tensor([t]), process)
    assert got.item() == pytest.approx(x, rel=1e-5)


def test_inversion_asks_the_model_last_at_each_examples_own_t():
    times = []

    def predict(xt, t):
        times.append(t)
        return torch.zeros_like(xt)

    t = torch.tensor([0, 3, 8, 123, 999])
    d.invert(predict, torch.zeros(5, 2), t, d.flow(), steps=9)
    assert times[-1].tolist() == t.tolist() and len(times) == 18


def test_a_fixed_grid_would_miss():
    """The published loop stops on a grid common to all: the target's spread is then wrong."""
    process = double(PROCESSES["linear"])
    g = torch.Generator().manual_seed(0)
    x0 = MEAN + VARIANCE**0.5 * torch.randn(4000, 1, generator=g, dtype=torch.float64)
    t = torch.full((4000,), 150)
    landed = d.invert(ideal(process), x0, t, process)
    on_grid = d.invert(ideal(process), x0, torch.full_like(t, 111), process)
    exact = d.eps_between(exact_inversion(x0, t, process), t, x0, process)
    assert d.eps_between(landed, t, x0, process).std() == pytest.approx(exact.std().item(), rel=0.05)
    assert d.eps_between(on_grid, t, x0, process).std() != pytest.approx(exact.std().item(), rel=0.05)


def test_inversion_leads_back_to_where_it_came_from(process):
    process = double(process)
    x0 = torch.linspace(-1, 2, 9, dtype=torch.float64)[:, None]
    xt = d.invert(ideal(process), x0, torch.full((9,), 999), process, steps=100)
    for back in d.sample(ideal(process), xt, process, steps=1000):
        pass
    torch.testing.assert_close(back, x0, rtol=0, atol=0.01)


def test_the_same_inversion_serves_image_latents(process):
    x0, _ = images((5, 4, 8, 8))
    by_point = d.invert(ideal(process), x0.view(-1, 1), T.repeat_interleave(256), process)
    torch.testing.assert_close(d.invert(ideal(process), x0, T, process), by_point.view_as(x0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_latents_do_not_round_the_schedule(dtype):
    process = d.variance_preserving(ABAR["scaled_linear"], "v")
    x0, eps = (x.to(dtype) for x in images())
    for function in (d.add_noise, d.target):
        exact = function(x0.double(), T, eps.double(), double(process))
        torch.testing.assert_close(function(x0, T, eps, process).double(), exact, rtol=1e-5, atol=1e-5)


def test_all_of_it_stays_on_the_device_of_its_input():
    """The meta device computes nothing, but refuses to mix with another."""
    process, x0 = d.flow(), torch.empty(5, 4, 8, 8, device="meta")
    t = torch.empty(5, dtype=torch.long, device="meta")
    for x in d.sample(lambda x, t: x, x0, process, steps=3):
        assert x.device.type == "meta"
    assert d.invert(lambda x, t: x, x0, t, process).device.type == "meta"
    assert d.add_noise(x0, t, x0, process.to("meta")).device.type == "meta"
