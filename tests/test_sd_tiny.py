"""sd.tiny.build: pipelines trained from nothing, in a short version; and what the committed ones can do."""

import json

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusion3Pipeline, StableDiffusionPipeline
from safetensors.torch import load_file

from sd.__main__ import main
from sd.tiny import build as tiny
from sd.tiny import mmdit, shapes, unet
from sd.tiny.runs import PIPELINE, PIPELINE_SD3
from toy.seeds import generator


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """Built in seconds: it opens and draws, but follows no prompts."""
    out = tmp_path_factory.mktemp("tiny") / "short"
    out.mkdir()
    tiny.build(out, images=240, vae_steps=(30, 10), steps=20)
    return out


def test_a_plain_pipeline_opens_it_and_draws(short):
    pipeline = StableDiffusionPipeline.from_pretrained(short, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a red circle on a gray background", num_inference_steps=2, output_type="pt").images
    assert image.shape == (1, 3, 32, 32) and image.isfinite().all()
    assert pipeline.tokenizer.model_max_length == 16 and pipeline.scheduler.config.clip_sample is False
    same = {str(p.relative_to(PIPELINE)) for p in PIPELINE.rglob("*") if p.is_file()}
    assert {str(p.relative_to(short)) for p in short.rglob("*") if p.is_file()} == same


def test_its_latents_have_unit_spread(short):
    pipeline = StableDiffusionPipeline.from_pretrained(short, local_files_only=True)
    x, _ = shapes.training_set(240, 0)
    with torch.no_grad():
        latents = pipeline.vae.encode(2 * x - 1).latent_dist.mean * pipeline.vae.config.scaling_factor
    assert latents.std().item() == pytest.approx(1, abs=0.05)


def test_building_again_gives_the_same(short, tmp_path):
    (tmp_path / "again").mkdir()
    tiny.build(tmp_path / "again", images=240, vae_steps=(30, 10), steps=20)
    for part in ("vae/diffusion_pytorch_model", "unet/diffusion_pytorch_model", "text_encoder/model"):
        first, again = (load_file(folder / f"{part}.safetensors") for folder in (short, tmp_path / "again"))
        for name, weight in first.items():  # up to the order of sums in an embedding's gradient
            torch.testing.assert_close(again[name].float(), weight.float(), rtol=0, atol=5e-3)


def test_every_prompt_can_be_written_and_words_of_captions_are_one_token():
    tokenizer = tiny._tokenizer()
    tokens = tokenizer("good image, a small red circle on a gray background").input_ids
    assert len(tokens) <= tiny.LENGTH and tokenizer.unk_token_id not in tokens[1:-1]
    assert tokenizer.decode(tokenizer("Jazz é").input_ids, skip_special_tokens=True).strip() == "jazz é"
    words = {word for caption in shapes.BY_CAPTION for word in caption.split()}
    assert all(len(tokenizer(word).input_ids) == 3 for word in words)


def test_the_committed_pipeline_follows_its_prompts_and_those_it_was_never_shown():
    assert tiny.following(PIPELINE, shapes.KNOWN) >= 0.97
    held_out = tiny.following(PIPELINE, shapes.HELD_OUT * 5)
    assert held_out >= 0.9


def test_training_lowers_the_error_of_vae_and_unet():
    x, captions = shapes.training_set(240, 0)
    torch.manual_seed(0)
    vae, tokenizer = tiny._vae(), tiny._tokenizer()
    parts = unet.make(len(tokenizer))
    errors = torch.tensor(list(tiny.train_vae(vae, 2 * x - 1, (150, 0), 0)))
    assert errors[-20:].mean() < 0.7 * errors[:20].mean()

    tokens, moments = tiny.encode_captions(tokenizer, captions), tiny.encode_images(vae, 2 * x - 1)
    eps, t = torch.randn(16, 4, 8, 8, generator=generator("test", 0)), torch.arange(16) * 60

    @torch.no_grad()
    def error():
        x0 = moments[:16, :4] * vae.config.scaling_factor
        return tiny.error(unet, parts, x0, t, eps, tokens[1:17]).item()

    before = error()
    for _ in tiny.train(unet, parts, vae, moments, tokens, 80, 0):
        pass
    assert error() < 0.8 * before


def test_a_folder_with_something_else_is_not_replaced(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("precious")
    assert main(["tiny", "--out", str(tmp_path)]) == 2
    assert "holds something other than a pipeline; choose another --out" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def open_sd3(kind):
    """The committed Stable Diffusion 3, as diffusers opens it; that it has no T5 has to be said."""
    none = {"text_encoder_3": None, "tokenizer_3": None}
    pipeline = kind.from_pretrained(PIPELINE_SD3, local_files_only=True, **none)
    assert type(pipeline) is StableDiffusion3Pipeline and pipeline.scheduler.config.shift == 3
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def sd3():
    return open_sd3(StableDiffusion3Pipeline)


def test_sd3_has_the_files_and_keys_of_a_published_checkpoint(tmp_path):
    tiny.build_sd3(tmp_path, images=240, steps=2)
    for folder in (tmp_path, PIPELINE_SD3):
        files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
        expected = {"model_index.json", "scheduler/scheduler_config.json"}
        for part in ("vae", "transformer"):
            expected |= {f"{part}/config.json", f"{part}/diffusion_pytorch_model.safetensors"}
        for number in ("", "_2"):
            expected |= {f"text_encoder{number}/{name}" for name in ("config.json", "model.safetensors")}
            names = ("vocab.json", "merges.txt", "tokenizer_config.json")
            expected |= {f"tokenizer{number}/{name}" for name in names}
        assert files == expected
        assert not json.loads((folder / "vae" / "config.json").read_text())["_name_or_path"]
        for number in ("", "_2"):
            names = set(load_file(folder / f"text_encoder{number}" / "model.safetensors"))
            assert "text_projection.weight" in names and "text_model.final_layer_norm.bias" in names
            assert all(name.startswith("text_model.") for name in names - {"text_projection.weight"})
    halves = [load_file(p) for p in PIPELINE_SD3.rglob("diffusion_pytorch_model.safetensors")]
    assert {w.dtype for weights in halves for w in weights.values()} == {torch.float16}
    assert sum(p.stat().st_size for p in PIPELINE_SD3.rglob("*") if p.is_file()) < 5e6


def test_sd3_opens_as_any_pipeline_and_draws_the_same(sd3):
    images = []
    for pipeline in (sd3, open_sd3(DiffusionPipeline)):
        options = {"num_inference_steps": 2, "generator": generator("test", 0), "output_type": "pt"}
        images.append(pipeline("a small red circle on a gray background", **options).images)
    assert images[0].shape == (1, 3, 32, 32) and torch.equal(*images)


def test_sd3_is_trained_with_the_text_that_its_pipeline_encodes(sd3):
    captions = ["a small red circle on a gray background", "a large cyan shape on a black background"]
    text, empty, pooled, pooled_empty = sd3.encode_prompt(captions, None, None)
    tokens = tiny.encode_captions(sd3.tokenizer, captions)
    with torch.no_grad():
        ours, ours_pooled = mmdit.encode([sd3.text_encoder, sd3.text_encoder_2], tokens)
    torch.testing.assert_close(ours, torch.cat([empty[:1], text]))
    torch.testing.assert_close(ours_pooled, torch.cat([pooled_empty[:1], pooled]))
    assert ours.shape[1] == 16 + 256 and not ours[:, 16:].any()


def test_sd3_learns_the_velocity_of_a_flow(sd3):
    parts = [sd3.transformer, sd3.text_encoder, sd3.text_encoder_2]
    g = generator("test", 0)
    x0, eps = (torch.randn(3, 4, 8, 8, generator=g) for _ in range(2))
    t, caption = torch.tensor([0, 499, 999]), "a red circle on a white background"
    with torch.no_grad():
        error = tiny.error(mmdit, parts, x0, t, eps, tiny.encode_captions(sd3.tokenizer, [caption] * 2))
        text, empty, pooled, pooled_empty = sd3.encode_prompt([caption] * 2, None, None)
        text, pooled = torch.cat([empty[:1], text]), torch.cat([pooled_empty[:1], pooled])
        sigma = torch.tensor([0.001, 0.5, 1.0])
        xt = (1 - sigma[:, None, None, None]) * x0 + sigma[:, None, None, None] * eps
        velocity = sd3.transformer(xt, text, pooled, 1000 * sigma).sample
    torch.testing.assert_close(error, (velocity - (eps - x0)).square().mean())
    t = mmdit.draw_t(2000, g)
    assert t.min() >= 0 and t.max() < 1000 and (t - 500).float().abs().median() == pytest.approx(160, abs=20)


def test_the_committed_sd3_follows_its_prompts_and_those_it_was_never_shown():
    assert tiny.following(PIPELINE_SD3, shapes.KNOWN[::3]) >= 0.94
    assert tiny.following(PIPELINE_SD3, shapes.HELD_OUT) >= 0.8
