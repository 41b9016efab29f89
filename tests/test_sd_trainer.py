"""sd.trainer and sd.train: a run that can be stopped at any moment and ends with the same weights."""

import dataclasses
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from sd import checkpoints, machine, models, plan, trainer
from sd.__main__ import main
from sd.draw import draw
from sd.tiny.runs import PIPELINE, PIPELINE_SD3
from sd.train import run
from toy.errors import InputError
from toy.objectives import OBJECTIVES
from toy.train import last


def options(config):
    """A config as a command line."""
    words = []
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        name = f.name.replace("_", "-")
        if f.type is bool:
            words.append(f"--{name}" if value else f"--no-{name}")
        elif value not in ("", ()):
            words += [f"--{name}", *([str(value)] if not isinstance(value, tuple) else value)]
    return words


def weights(state):
    return [w.detach().clone() for w in state.trainer.weights]


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("tune", ["full", "lora"])
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(config, tmp_path, objective, tune):
    settings = {
        "objective": objective,
        "tune": tune,
        "steps": 4,
        "save_every": 2,
        "ema": 0.9,
        "accumulate": 2,
    }
    settings |= {"inversion_steps": 2, "batch": 2}
    whole = last(trainer.train(config(out=str(tmp_path / "whole"), **settings)))
    for state in trainer.train(config(out=str(tmp_path / "parts"), **settings)):
        if state.step == 3:  # after the checkpoint of step 2, as if killed
            break
    states = trainer.train(config(out=str(tmp_path / "parts"), **settings))
    assert next(states).step == 2
    resumed = last(states)
    for a, b in zip(weights(whole) + whole.trainer.ema, weights(resumed) + resumed.trainer.ema, strict=True):
        assert torch.equal(a, b)
    moved = load_file(tmp_path / "parts/checkpoints/step-00000002/tensors.safetensors")
    assert any(
        not torch.equal(moved[f"policy.{n}"], w)
        for n, w in zip(resumed.trainer.names, resumed.trainer.weights, strict=True)
    )


UNCACHED = {"precision": "bf16", "cached": False, "crop": "random", "flip": True}


V3 = {"model": str(PIPELINE_SD3), "timesteps": "logit_normal"}
OTHERS = {
    "uncached": UNCACHED,
    "adafactor": {"optimizer": "adafactor"},
    "v3": V3 | {"objective": "smpo", "inversion_steps": 2, "batch": 2},
    "v3, adapters": V3 | {"tune": "lora", "precision": "bf16", "gradient_checkpointing": True},
    "v3, uncached": V3 | UNCACHED,
}


@pytest.mark.parametrize("settings", OTHERS.values(), ids=OTHERS)
def test_resuming_is_exact_with_other_models_precisions_data_and_optimizers(config, tmp_path, settings):
    settings = settings | {"steps": 3, "save_every": 1}
    whole = last(trainer.train(config(out=str(tmp_path / "whole"), **settings)))
    for state in trainer.train(config(out=str(tmp_path / "parts"), **settings)):
        if state.step == 2:
            break
    resumed = last(trainer.train(config(out=str(tmp_path / "parts"), **settings)))
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))


def test_killed_at_any_moment_the_same_command_ends_with_the_same_weights(config, tmp_path):
    whole = last(trainer.train(config(out=str(tmp_path / "whole"), steps=12, save_every=3)))
    settings = config(out=str(tmp_path / "killed"), steps=12, save_every=3)
    command = [sys.executable, "-m", "sd", "train", *options(settings)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while checkpoints.latest(tmp_path / "killed/checkpoints") is None:
        assert process.poll() is None
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (tmp_path / "killed/checkpoints/.step-00000099").mkdir()  # as a half-written one looks
    assert main(["train", *options(settings)]) == 0
    saved = load_file(tmp_path / "killed/checkpoints/step-00000012/tensors.safetensors")
    for name, weight in zip(whole.trainer.names, weights(whole), strict=True):
        assert torch.equal(saved[f"policy.{name}"], weight)
    steps = [json.loads(line)["step"] for line in (tmp_path / "killed/log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 13))


@pytest.mark.parametrize("kind", ["v2", "xl", "sd3", "t5"])
def test_every_kind_of_model_trains_and_its_result_loads_in_a_plain_pipeline(config, kinds, kind, tmp_path):
    run(config(model=str(kinds[kind]), tune="full", steps=2, ema=0.5, precision="bf16"))
    absent = {"text_encoder_3": None, "tokenizer_3": None} if kind == "sd3" else {}
    image = draw(
        DiffusionPipeline.from_pretrained(tmp_path / "run/model", **absent),
        ["a red circle on a gray background"],
        steps=2,
    )
    assert image.isfinite().all()


def test_lora_is_saved_as_diffusers_loads_it(config, kinds, tmp_path):
    run(config(tune="lora", lora_rank=4, steps=2, lr=0.1))
    plain = DiffusionPipeline.from_pretrained(kinds["v1"])
    before = draw(plain, ["a red circle on a gray background"], steps=2)
    plain.load_lora_weights(tmp_path / "run/lora")
    assert not torch.allclose(draw(plain, ["a red circle on a gray background"], steps=2), before, atol=1e-3)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_trains_v3(config, kinds, objective):
    settings = config(model=str(kinds["sd3"]), objective=objective, steps=2, inversion_steps=2)
    before = [w.clone() for w in models.denoiser(models.load(settings.model)).parameters()]
    state = last(trainer.train(settings))
    assert math.isfinite(state.metrics["loss"])
    assert any(not torch.equal(a, b) for a, b in zip(before, weights(state), strict=True))


def test_examples_prepared_by_other_processes_are_the_same(config, tmp_path):
    here = last(trainer.train(config(out=str(tmp_path / "a"), workers=0)))
    there = last(trainer.train(config(out=str(tmp_path / "b"), workers=2)))
    assert all(torch.equal(a, b) for a, b in zip(weights(here), weights(there), strict=True))


def test_steps_between_logs_do_not_wait_for_the_device(config, monkeypatch):
    states = trainer.train(config(steps=10, log_every=100, save_every=100))
    next(states), next(states)
    reads = []
    for name in ("item", "tolist", "cpu", "__bool__", "__float__", "__int__", "numpy"):
        real = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda self, *a, real=real, name=name: reads.append(name) or real(self, *a)
        )
    for _ in range(3):
        next(states)
    assert not reads


def test_the_log_has_what_one_watches(config, tmp_path, capsys):
    run(config(steps=4, log_every=2))
    rows = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4]
    assert {"loss", "reward_desirable", "reward_undesirable", "reference_point", "std_g", "saturated",
            "satisfied",
            "gradient_norm", "spread", "lr", "images_per_second"} <= set(rows[0])  # fmt: skip


def test_warmup_raises_the_rate_and_then_it_stays(config):
    rates = [s.metrics["lr"] for s in trainer.train(config(steps=6, warmup=4, lr=4e-4)) if s.metrics]
    assert rates == pytest.approx([1e-4, 2e-4, 3e-4, 4e-4, 4e-4, 4e-4])


def test_only_the_last_checkpoints_are_kept(config, tmp_path):
    last(trainer.train(config(steps=5, save_every=1, keep=2)))
    assert [p.name for p in sorted((tmp_path / "run/checkpoints").iterdir())] == [
        "step-00000004",
        "step-00000005",
    ]


def test_validation_pictures_start_from_the_same_noise(config, tmp_path):
    prompts = ("a red circle on a gray background", "a blue square on a white background")
    run(config(steps=2, validate_every=1, validation_prompts=prompts, lr=1e-9, ema=0.9))
    a, b = ((tmp_path / f"run/validation/step-0000000{i}.png").read_bytes() for i in (1, 2))
    assert a == b


def test_pictures_do_not_change_the_run(config, tmp_path):
    plain = last(trainer.train(config(out=str(tmp_path / "a"), ema=0.9)))
    for state in trainer.train(config(out=str(tmp_path / "b"), ema=0.9)):
        with state.trainer.final() as pipeline:
            draw(pipeline, ["a red circle on a gray background"], steps=1)
    assert all(torch.equal(a, b) for a, b in zip(weights(plain), weights(state), strict=True))


def test_a_loss_that_is_not_finite_stops_before_anything_is_saved(config, tmp_path):
    (tmp_path / "odd.py").write_text(
        "import torch\ndef u(x):\n    return torch.sigmoid(x) * torch.where(x.abs() > 60, torch.nan, 1.0)\n"
    )
    settings = config(utility=f"{tmp_path}/odd.py:u", beta=1e6, steps=20, save_every=1, lr=1e-3)
    with pytest.raises(InputError, match=r"the loss is not finite at step \d+: try a smaller --lr"):
        last(trainer.train(settings))
    state = load_file(checkpoints.latest(tmp_path / "run/checkpoints") / "tensors.safetensors")
    assert all(t.isfinite().all() for t in state.values())


def test_a_full_disk_while_saving_loses_nothing(config, tmp_path, monkeypatch):
    save = checkpoints.save_file

    def full(tensors, path):
        if "00000004" in str(path):
            raise OSError(28, "No space left on device")
        save(tensors, path)

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(
        InputError, match=r"cannot write the checkpoint .*No space left.*to resume from .*step-00000002$"
    ):
        last(trainer.train(config(save_every=2)))
    assert [p.name for p in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000002"]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"beta": 31.0}, "beta was 30.0, now 31.0; choose another --out"),
        ({"objective": "csft"}, "objective was diffusion_kto, now csft"),
        ({"steps": 2}, "is beyond --steps 2; choose another --out"),
        ({"batch": 5}, "batch of all processes was 4, now 5"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(config, change, words):
    last(trainer.train(config()))
    with pytest.raises(InputError) as error:
        next(trainer.train(config(**change)))
    assert words in str(error.value)


def test_a_utility_that_was_edited_makes_another_run(config, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("import torch\ndef u(x):\n    return torch.tanh(x)\n")
    last(trainer.train(config(utility=f"{file}:u")))
    file.write_text("import torch\ndef u(x):\n    return 2 * torch.tanh(x)\n")
    with pytest.raises(InputError, match="digest of what the utility does was"):
        next(trainer.train(config(utility=f"{file}:u")))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"model": "nowhere"}, "nowhere is no folder of a diffusers pipeline"),
        ({"data": "nowhere"}, "no folder or CSV file nowhere"),
        ({"tracker": "carrier_pigeon"}, "--tracker carrier_pigeon is unknown or not installed; available: "),
        ({"precision": "fp16"}, "--precision fp16 needs a GPU"),
    ],
)
def test_a_wrong_command_is_one_line_and_exit_code_2(config, change, words, capsys):
    assert main(["train", *options(config(**change))]) == 2
    error = capsys.readouterr().err
    assert f"error: {words}" in error and "Traceback" not in error


def test_pairs_are_asked_for_where_there_are_none(config, red, capsys):
    assert main(["train", *options(config(objective="diffusion_dpo", data=str(red / "feedback.csv")))]) == 2
    assert "diffusion_dpo needs the columns winner, loser and caption" in capsys.readouterr().err


def test_the_average_of_the_weights_keeps_no_graph(config):
    averages = last(trainer.train(config(ema=0.9))).trainer.ema
    assert averages and not any(average.requires_grad for average in averages)


def test_a_restored_optimizer_keeps_the_weights_memory_format():
    """Fused AdamW on a GPU refuses moments whose strides are not those of the weights."""
    weight = torch.nn.Parameter(torch.randn(8, 4, 3, 3).to(memory_format=torch.channels_last))
    optimizer = torch.optim.AdamW([weight], fused=True)
    weight.square().sum().backward()
    optimizer.step()
    tensors = {k: v.contiguous() for k, v in checkpoints.optimizer_tensors(optimizer).items()}
    fresh = torch.optim.AdamW([weight], fused=True)
    checkpoints.restore_optimizer(fresh, tensors)
    for key in ("exp_avg", "exp_avg_sq"):
        assert fresh.state[weight][key].stride() == weight.stride()
        assert torch.equal(fresh.state[weight][key], optimizer.state[weight][key])


def test_a_folder_holds_one_run_at_a_time(config, tmp_path):
    with machine.only_run(str(tmp_path / "run")), pytest.raises(InputError) as error:
        run(config())
    assert str(error.value) == (
        f"another run is writing into {tmp_path / 'run'}: wait until it ends, or choose another --out"
    )
    run(config(steps=1))


def test_a_gpu_that_is_too_small_is_one_line_with_the_ways_out(config, monkeypatch, capsys):
    def full(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB ...")

    monkeypatch.setattr(trainer.Aligner, "loss", full)
    assert main(["train", *options(config())]) == 2
    error = capsys.readouterr().err
    assert "error: the GPU's memory does not hold a batch; use a smaller --batch, --gradient-ch" in error


def test_a_large_model_trains_on_a_cpu_only_if_asked(config, monkeypatch):
    monkeypatch.setattr(machine, "LARGE", 1_000_000)
    words = "this model has 1 million weights, and PyTorch sees no GPU; add --device cpu to train"
    with pytest.raises(InputError, match=words):
        next(trainer.train(config()))
    assert next(trainer.train(config(device="cpu", steps=1))).step == 0


def test_weights_that_are_not_finite_are_never_saved(config, tmp_path):
    """Those of the last step are in no loss any more."""
    states = trainer.train(config(steps=2, save_every=1))
    for state in states:
        if state.step == 2:
            state.trainer.weights[0].data[0] = torch.inf
            break
    with pytest.raises(InputError, match="the loss is not finite at step 2"):
        last(states)
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000001"]


def test_checkpoints_are_written_beside_training(config, tmp_path, monkeypatch):
    """The next steps do not wait for them, and do not change them."""
    save, go_on = checkpoints.save_file, threading.Event()
    monkeypatch.setattr(checkpoints, "save_file", lambda *content: go_on.wait(60) and save(*content))
    for state in trainer.train(config(steps=3, save_every=2)):
        if state.step == 2:
            before = weights(state)
        if state.step == 3:
            go_on.set()
    saved = load_file(tmp_path / "run/checkpoints/step-00000002/tensors.safetensors")
    names = state.trainer.names
    assert all(torch.equal(saved[f"policy.{n}"], w) for n, w in zip(names, before, strict=True))


def test_what_a_run_will_do_is_said_first(config, capsys):
    run(config(steps=2, total_batch=8, batch=4))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("fp32, full; 2 steps of 8 images, in 2 batches")
    assert re.fullmatch(r"\d+ images and \d+ captions to encode, 0.0 GB, into .*cache", lines[1])


def test_a_log_with_anything_in_it_keeps_each_step_once(config, tmp_path):
    run(config(steps=2))
    with open(tmp_path / "run/log.jsonl", "ab") as file:
        file.write(b'\xff\xfe\n[]\n{"step": 9}\n{"step": null}\n{"step": 1')
    run(config(steps=3))
    rows = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]


def test_plan_says_what_a_run_takes_and_trains_nothing(config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(plan, "SECONDS", 0.1)
    assert main(["plan", *options(config())]) == 0
    warning, disk, time, *_ = capsys.readouterr().out.splitlines()[3:]
    assert warning.startswith("warning: 41% of the batches of 4 have only liked or only disliked images")
    assert disk == "disk: 3 checkpoints of 0.0 GB, and a result of 0.0 GB"
    assert re.fullmatch(
        r"time: \d+ seconds to encode the images, without reading them; \d+ seconds to train", time
    )
    assert not list((tmp_path / "run").rglob("step-*"))


def test_plan_counts_the_memory_of_a_large_model_without_a_gpu(config, capsys, monkeypatch):
    monkeypatch.setattr(machine, "LARGE", 1_000_000)
    assert main(["plan", *options(config())]) == 0
    assert re.search(r"memory: 0.\d GB on a GPU", capsys.readouterr().out)


def test_the_result_is_never_put_over_the_model_it_came_from(config, tmp_path):
    shutil.copytree(PIPELINE, tmp_path / "run/model")
    with pytest.raises(InputError, match="would put the result where --model is"):
        next(trainer.train(config(model=str(tmp_path / "run/model"))))


def test_without_a_reference_point_rewards_are_measured_from_zero(config):
    rows = [s.metrics for s in trainer.train(config(reference_point="none")) if s.metrics]
    assert all(row["reference_point"] == 0 for row in rows)


def test_a_tracker_is_given_the_metrics(config, tmp_path):
    run(config(tracker="tensorboard", steps=2))
    assert list((tmp_path / "run").rglob("events.out.tfevents.*"))
