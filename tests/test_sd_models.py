"""sd.models: pipelines of every kind are loaded, asked and saved as diffusers itself would."""

import json
import shutil

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from safetensors.torch import load_file

from sd import models
from sd.draw import draw
from sd.families import family
from sd.tiny.runs import PIPELINE
from toy.diffusion import split
from toy.errors import InputError

LATENT = (2, 4, 8, 8)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=["v1", "v2", "xl", "sd3", "t5"])
def pipeline(kinds, request):
    return models.load(kinds[request.param])


def condition(pipeline, captions):
    text = models.encode_text(pipeline, captions)
    return text | {"sizes": torch.tensor([[32.0, 32, 0, 0, 32, 32]] * len(captions))}


@torch.no_grad()
def test_the_condition_is_what_the_pipeline_itself_uses(pipeline, monkeypatch):
    """A pipeline's own call and our predict() agree on the same latents: text, pooled, time ids."""
    calls = []
    denoiser = models.denoiser(pipeline)
    forward = denoiser.forward
    monkeypatch.setattr(denoiser, "forward", lambda *a, **k: calls.append((a, k)) or forward(*a, **k))
    captions = ["a small red circle on a white background", "a blue square on a gray background"]
    pipeline(
        captions, num_inference_steps=1, guidance_scale=1.0, latents=normal(*LATENT), output_type="latent"
    )
    arguments, options = calls[0]
    theirs = forward(*arguments, **options)[0]
    xt, t = arguments or (options["hidden_states"], options["timestep"] - 1)  # v3's is 1000 sigma, from 1
    t = t.long().expand(2)
    torch.testing.assert_close(models.predict(pipeline, xt, t, condition(pipeline, captions)), theirs)


@torch.no_grad()
def test_one_token_of_zeros_stands_for_all_that_a_pipeline_without_t5_puts_there(kinds):
    plain = DiffusionPipeline.from_pretrained(kinds["sd3"], text_encoder_3=None, tokenizer_3=None)
    ours, prompts = models.load(kinds["sd3"]), ["a red circle on a gray background"]
    assert ours.text_encoder_3 is None and draw(plain, prompts, steps=2).std() > 0
    torch.testing.assert_close(draw(ours, prompts, steps=2), draw(plain, prompts, steps=2), rtol=0, atol=1e-5)
    text, told = models.encode_text(ours, prompts), {}
    forward = plain.transformer.forward
    plain.transformer.forward = lambda **options: told.update(options) or forward(**options)
    draw(plain, prompts, steps=1, guidance=1.0)
    torch.testing.assert_close(told["encoder_hidden_states"][:, :16, :32], text["text"])
    assert (
        told["encoder_hidden_states"].shape[1] == 16 + 256 and not told["encoder_hidden_states"][:, 16:].any()
    )


def test_a_missing_t5_is_said_and_one_that_is_there_is_used(kinds, tmp_path, capsys):
    assert {"text", "pooled", "t5"} == set(models.encode_text(models.load(kinds["t5"]), ["a"]))
    assert "T5" not in capsys.readouterr().out
    shutil.copytree(kinds["t5"], tmp_path / "part")
    shutil.rmtree(tmp_path / "part/text_encoder_3")
    assert {"text", "pooled"} == set(models.encode_text(models.load(tmp_path / "part"), ["a"]))
    assert "has no folder 'text_encoder_3' (T5): zeros stand in its place" in capsys.readouterr().out
    assert models.load(kinds["sd3"]) and "T5" not in capsys.readouterr().out  # it was made without


def test_the_latents_of_v3_are_shifted_and_scaled_as_diffusers_does(kinds):
    pipeline = models.load(kinds["sd3"])
    config, pixels = pipeline.vae.config, normal(2, 3, 32, 32).tanh()
    latent = pipeline.vae.encode(pixels).latent_dist
    mean, _ = models.encode_images(pipeline, pixels).chunk(2, 1)
    assert config.shift_factor == 0.1
    torch.testing.assert_close(mean, (latent.mean - config.shift_factor) * config.scaling_factor)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_what_is_predicted_is_the_schedulers(kinds, kind):
    pipeline = models.load(kinds[kind])
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(1000)
    xt, t, c = normal(*LATENT), torch.tensor([300, 300]), condition(pipeline, ["a", "b"])
    prediction = models.predict(pipeline, xt, t, c)
    x0, _ = split(prediction, xt, t, models.process(pipeline))
    theirs = scheduler.step(prediction, 300, xt).pred_original_sample
    torch.testing.assert_close(x0, theirs, rtol=1e-4, atol=1e-4)


def test_an_empty_prompt_of_xl_is_zeros_as_the_pipeline_samples_it(kinds):
    encoding = models.encode_text(models.load(kinds["xl"]), ["", "a circle"])
    assert not encoding["text"][0].any() and not encoding["pooled"][0].any()
    assert encoding["text"][1].any() and encoding["pooled"][1].any()
    assert models.encode_text(models.load(kinds["v1"]), [""])["text"].any()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("tune", ["full", "lora"])
def test_policy_and_reference_start_equal_to_the_bit(pipeline, config, tune, precision):
    process, kind = models.process(pipeline), family(models.denoiser(pipeline))
    settings = config(tune=tune, precision=precision)
    policy, reference = models.policy_and_reference(models.denoiser(pipeline), settings)
    c, xt, t = condition(pipeline, ["a red circle", ""]), normal(*LATENT), torch.tensor([10, 900])

    def out(model):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            return kind.predict(model, xt, t, c, process)

    with torch.no_grad():
        mine = out(policy)
        if reference is None:
            with models.without_adapters(policy):
                theirs = out(policy)
        else:
            theirs = out(reference)
            assert not any(p.requires_grad for p in reference.parameters())
    assert torch.equal(mine, theirs)
    trained = [p for p in policy.parameters() if p.requires_grad]
    assert trained and all(p.dtype == torch.float32 for p in trained)


def test_switching_adapters_off_leaves_what_is_trained_as_it_was(config):
    pipeline, plain = models.load(PIPELINE), models.load(PIPELINE)
    unet = pipeline.unet
    models.policy_and_reference(unet, config(tune="lora"))
    before = {n for n, p in unet.named_parameters() if p.requires_grad}
    for n, p in unet.named_parameters():
        if "lora_B" in n:
            torch.nn.init.normal_(p.data)
    c = {"text": normal(2, 16, 64)}
    with torch.no_grad():
        on = models.predict(pipeline, normal(*LATENT), torch.tensor([5, 5]), c)
        with models.without_adapters(unet):
            off = models.predict(pipeline, normal(*LATENT), torch.tensor([5, 5]), c)
    assert torch.equal(
        off, models.predict(plain, normal(*LATENT), torch.tensor([5, 5]), c)
    ) and not torch.equal(on, off)
    assert {n for n, p in unet.named_parameters() if p.requires_grad} == before and all(
        "lora" in n for n in before
    )


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_what_is_saved_is_what_a_plain_pipeline_draws_with(pipeline, config, tune, tmp_path):
    settings = config(tune=tune)
    folder = pipeline.config._name_or_path
    policy, _ = models.policy_and_reference(models.denoiser(pipeline), settings)
    for i, p in enumerate(p for p in policy.parameters() if p.requires_grad):
        p.data += 0.05 * normal(*p.shape, seed=i)
    prompts = ["a red circle on a gray background"]
    expected = draw(pipeline, prompts, steps=3)
    models.save_weights(pipeline, settings, tmp_path / "saved")
    absent = [name for name in family(policy).optional if getattr(pipeline, name) is None]
    options = dict.fromkeys(absent)  # diffusers wants to be told that there is no T5
    if tune == "full":
        plain = DiffusionPipeline.from_pretrained(tmp_path / "saved", **options)
    else:
        plain = DiffusionPipeline.from_pretrained(folder, **options)
        plain.load_lora_weights(tmp_path / "saved")
    torch.testing.assert_close(draw(plain, prompts, steps=3), expected, rtol=0, atol=1e-3)


def test_a_model_saved_in_shards_or_in_half_precision_only_is_loaded(tmp_path):
    pipeline = models.load(PIPELINE)
    pipeline.save_pretrained(tmp_path / "sharded", max_shard_size="1MB")
    assert list((tmp_path / "sharded/unet").glob("*.index.json"))
    pipeline.save_pretrained(tmp_path / "half", variant="fp16")
    for name in ("sharded", "half"):
        for a, b in zip(
            models.load(tmp_path / name).unet.parameters(), pipeline.unet.parameters(), strict=True
        ):
            assert torch.equal(a, b)


def test_parts_that_training_does_not_use_may_be_absent(tmp_path):
    """A published v1-5 names a safety checker and its feature extractor."""
    folder = shutil.copytree(PIPELINE, tmp_path / "v15")
    index = json.loads((folder / "model_index.json").read_text())
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (folder / "model_index.json").write_text(json.dumps(index))
    assert models.load(folder).feature_extractor is None


def test_images_start_from_the_noise_of_their_prompt_whatever_the_batch():
    pipeline = models.load(PIPELINE)
    prompts = [
        "a red circle on a gray background",
        "a blue square on a white background",
        "a red circle on a gray background",
    ]
    together = draw(pipeline, prompts, steps=2)
    torch.testing.assert_close(draw(pipeline, prompts, steps=2, batch=1), together, rtol=0, atol=1e-4)
    assert not torch.allclose(together[0], together[2], atol=1e-2)
    torch.testing.assert_close(draw(pipeline, prompts[1:], steps=2)[0], together[1], rtol=0, atol=1e-4)


def test_the_committed_pipeline_has_the_files_and_keys_of_a_real_one():
    files = {str(p.relative_to(PIPELINE)) for p in PIPELINE.rglob("*") if p.is_file()}
    assert {"model_index.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json",
            "tokenizer/merges.txt",
            "text_encoder/model.safetensors", "unet/diffusion_pytorch_model.safetensors",
            "vae/diffusion_pytorch_model.safetensors"} <= files  # fmt: skip
    text, unet = (
        load_file(PIPELINE / f)
        for f in ("text_encoder/model.safetensors", "unet/diffusion_pytorch_model.safetensors")
    )
    assert "text_model.encoder.layers.0.self_attn.q_proj.weight" in text
    assert {"conv_in.weight", "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"} <= set(
        unet
    )
    assert sum(p.stat().st_size for p in PIPELINE.rglob("*")) < 4e6
    assert json.loads((PIPELINE / "scheduler/scheduler_config.json").read_text())["clip_sample"] is False


@pytest.mark.parametrize(
    "harm, words",
    [
        (lambda f: (f / "model_index.json").unlink(), "no usable model_index.json"),
        (
            lambda f: (f / "model_index.json").write_text('{"_class_name": "FluxPipeline"}'),
            "holds a FluxPipeline; supported are",
        ),
        (lambda f: (f / "model_index.json").write_text("[]"), "no usable model_index.json"),
        (lambda f: (f / "tokenizer/vocab.json").unlink(), "tokenizer has no vocab.json and merges.txt"),
        (lambda f: shutil.rmtree(f / "vae"), "has no folder 'vae'"),
        (lambda f: (f / "vae/diffusion_pytorch_model.safetensors").write_bytes(b"short"), "does not load"),
        (lambda f: (f / "unet/diffusion_pytorch_model.safetensors").unlink(), "does not load"),
    ],
)
def test_a_folder_that_is_no_whole_pipeline_is_refused(tmp_path, harm, words):
    shutil.copytree(PIPELINE, tmp_path / "model")
    harm(tmp_path / "model")
    with pytest.raises(InputError) as error:
        models.load(tmp_path / "model")
    assert words in str(error.value) and str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def put_scheduler(folder, **changes):
    """Another scheduler into a pipeline's folder."""
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", changes.pop("name")]
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(changes))


EULER, DDIM = (
    {"name": "FlowMatchEulerDiscreteScheduler"},
    {"name": "DDIMScheduler", "steps_offset": 1, "clip_sample": False},
)


@pytest.mark.parametrize(
    "kind, harm, words",
    [
        ("sd3", lambda f: shutil.rmtree(f / "transformer"), "has no folder 'transformer'"),
        ("sd3", lambda f: put_scheduler(f, **DDIM), "is a DDIMScheduler; this model needs flow matching"),
        ("sd3", lambda f: put_scheduler(f, **EULER, use_dynamic_shifting=True), "with a fixed shift"),
        (
            "v1",
            lambda f: put_scheduler(f, **EULER),
            "is a FlowMatchEulerDiscreteScheduler that predicts 'None'",
        ),
        ("v1", lambda f: put_scheduler(f, **DDIM, prediction_type="sample"), "that predicts 'sample'"),
    ],
)
def test_a_scheduler_of_another_family_is_refused(kinds, tmp_path, kind, harm, words):
    shutil.copytree(kinds[kind], tmp_path / "model")
    harm(tmp_path / "model")
    with pytest.raises(InputError) as error:
        models.load(tmp_path / "model")
    assert words in str(error.value) and str(tmp_path) in str(error.value) and "\n" not in str(error.value)
