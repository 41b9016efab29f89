"""sd.tiny.build: a pipeline trained from nothing, in a short version; and what the committed one can do."""

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from sd.__main__ import main
from sd.tiny import build as tiny
from sd.tiny import shapes
from sd.tiny.runs import PIPELINE
from toy.seeds import generator


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """Built in seconds: it opens and draws, but follows no prompts."""
    out = tmp_path_factory.mktemp("tiny") / "short"
    out.mkdir()
    tiny.build(out, images=240, vae_steps=(30, 10), unet_steps=20)
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
    tiny.build(tmp_path / "again", images=240, vae_steps=(30, 10), unet_steps=20)
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
    vae, unet, tokenizer = tiny._vae(), tiny.make_unet(), tiny._tokenizer()
    errors = torch.tensor(list(tiny.train_vae(vae, 2 * x - 1, (150, 0), 0)))
    assert errors[-20:].mean() < 0.7 * errors[:20].mean()

    text = tiny._text_encoder(len(tokenizer))
    tokens = torch.tensor(tokenizer(["", *captions], padding="max_length").input_ids)
    eps, t = torch.randn(16, 4, 8, 8, generator=generator("test", 0)), torch.arange(16) * 60
    with torch.no_grad():
        moments = vae.encode(2 * x - 1).latent_dist.parameters
        x0 = moments[:16, :4] * vae.config.scaling_factor

    @torch.no_grad()
    def error():
        xt = tiny.add_noise(x0, t, eps, tiny.ABAR)
        return (unet(xt, t, text(tokens[1:17]).last_hidden_state).sample - eps).square().mean().item()

    before = error()
    for ema in tiny.train_unet(unet, text, vae, moments, tokens, 80, 0):
        pass
    for model, average in zip((unet, text), ema, strict=True):
        model.load_state_dict(average)
    assert error() < 0.8 * before


def test_a_folder_with_something_else_is_not_replaced(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("precious")
    assert main(["tiny", "--out", str(tmp_path)]) == 2
    assert "holds something other than a pipeline; choose another --out" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "precious"
