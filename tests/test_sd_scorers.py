"""sd.judging.scorers: each against its published forward pass by hand, on small random weights."""

import copy
import json
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from sd.judging import scorers
from sd.tiny import shapes
from sd.tiny.runs import PIPELINE
from toy.errors import InputError

SIDE, PATCH, WIDTH, HEADS, LAYERS, OUT, TOKENS = 28, 14, 16, 2, 2, 24, 16
PROMPTS = ["a red circle", "a large blue square on a white background", "", "circle " * 30]
MEAN, STD = (torch.tensor(v).view(3, 1, 1) for v in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))


def random(*shape, seed=0, scale=0.4):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


@pytest.fixture(scope="module")
def images():
    """Square, wide and tall ones; smooth, so that scores differ by what they show."""
    sizes = ((32, 32), (40, 30), (30, 44), (64, 64))
    noise = [random(3, 4, 4, seed=k, scale=0.3).add(0.5).clamp(0, 1) for k in range(4)]
    return [to_image(x).resize(size, Image.BICUBIC) for x, size in zip(noise, sizes, strict=True)]


def to_image(pixels):
    return Image.fromarray((255 * pixels.permute(1, 2, 0)).round().byte().numpy())


def to_pixels(image):
    flat = torch.tensor(list(image.tobytes())).view(image.height, image.width, 3)
    return flat.permute(2, 0, 1) / 255


def crop(image):
    """The published preprocessing of CLIP and BLIP: the shorter side to SIDE, and the centre of the rest."""
    scale = SIDE / min(image.size)
    wide, high = (int(scale * length) for length in image.size)
    left, top = (wide - SIDE) // 2, (high - SIDE) // 2
    image = image.resize((wide, high), Image.BICUBIC).crop((left, top, left + SIDE, top + SIDE))
    return (to_pixels(image) - MEAN) / STD


@pytest.fixture(scope="module")
def model():
    sizes = {"hidden_size": WIDTH, "intermediate_size": 32, "hidden_act": "gelu"}
    sizes |= {"num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    text = {"vocab_size": 600, "max_position_embeddings": TOKENS, "bos_token_id": 0, "eos_token_id": 1}
    vision = {"image_size": SIDE, "patch_size": PATCH}
    model = CLIPModel(CLIPConfig(text_config=sizes | text, vision_config=sizes | vision, projection_dim=OUT))
    for seed, parameter in enumerate(model.parameters()):
        parameter.data += random(*parameter.shape, seed=seed)
    return model.eval().requires_grad_(False).half().float()


@pytest.fixture
def clip(tmp_path, model):
    """A folder as a CLIP is published in, some of them in half precision."""
    copy.deepcopy(model).half().save_pretrained(tmp_path)
    CLIPTokenizer.from_pretrained(PIPELINE / "tokenizer").save_pretrained(tmp_path)
    settings = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    settings |= {"image_mean": OPENAI_CLIP_MEAN, "image_std": OPENAI_CLIP_STD, "resample": 3}
    settings |= {"image_processor_type": "CLIPImageProcessor", "do_resize": True, "do_center_crop": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    return tmp_path


def by_transformers(model, images):
    """logits_per_image of CLIPModel itself, of each image under each of PROMPTS."""
    tokenizer = CLIPTokenizer.from_pretrained(PIPELINE / "tokenizer")
    tokens = tokenizer(PROMPTS, padding=True, truncation=True, max_length=TOKENS, return_tensors="pt")
    return model(**tokens, pixel_values=torch.stack([crop(image) for image in images])).logits_per_image


def test_clip_and_pickscore_are_those_of_transformers(clip, model, images):
    logits = by_transformers(model, images).diagonal()
    assert logits.std() > 0.02  # or anything would pass
    ids = {"text_model.embeddings.position_ids": torch.arange(TOKENS)[None]}
    change_file(clip, "model.safetensors", lambda state: state.update(ids))  # older checkpoints carry these
    scores = scorers.load(f"pickscore={clip}")(images, PROMPTS)
    torch.testing.assert_close(scores, logits, rtol=1e-4, atol=1e-4)
    cosine = logits / model.logit_scale.exp()
    clip_scorer = scorers.load(f"clip={clip}")
    scores = clip_scorer(images, PROMPTS)
    torch.testing.assert_close(scores, (100 * cosine).clamp(min=0), rtol=1e-4, atol=1e-4)
    assert scores.dtype == torch.float32 and clip_scorer.too_long == {PROMPTS[3]}


@pytest.mark.parametrize("name", ["pickscore", "imagereward"])
def test_scores_do_not_depend_on_the_batch(clip, blip, images, name):
    scorer = scorers.load(f"{name}={clip if name == 'pickscore' else blip[0]}")
    whole = scorer(images, PROMPTS)
    alone = torch.cat([scorer([i], [p]) for i, p in zip(images, PROMPTS, strict=True)])
    torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-5)
    turned = scorer(images[::-1], PROMPTS[::-1]).flip(0)
    torch.testing.assert_close(whole, turned, rtol=1e-4, atol=1e-5)
    assert (whole - scorer(images, PROMPTS[::-1])).abs().max() > 1e-3  # prompts matter


def test_other_processes_prepare_images_without_the_weights(clip, blip, images):
    for spec in (f"clip={clip}", f"imagereward={blip[0]}"):
        scorer = scorers.load(spec)
        copied = ForkingPickler.loads(ForkingPickler.dumps(scorer))
        assert torch.equal(copied.prepare(images), scorer.prepare(images))
        assert not [part for part in vars(copied).values() if isinstance(part, torch.nn.Module)]


def test_of_a_long_image_the_middle_is_scored_in_little_memory(clip):
    stripes = Image.linear_gradient("L").rotate(90).convert("RGB").resize((200_000, 2))
    scorer = scorers.load(f"clip={clip}")
    long, middle = scorer.prepare([stripes]), scorer.prepare([stripes.crop((99_000, 0, 101_000, 2))])
    torch.testing.assert_close(long, middle, rtol=0, atol=0.05)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_aesthetic_is_a_head_on_clip(clip, model, images, kind):
    if kind == "linear":
        head = {"weight": random(1, OUT), "bias": torch.tensor([5.0])}
        layers = [""]
    else:
        sizes = dict(zip((0, 2, 4, 6, 7), ((OUT, 12), (12, 8), (8, 6), (6, 4), (4, 1)), strict=True))
        head = {f"layers.{i}.weight": random(b, a) for i, (a, b) in sizes.items()}
        head |= {f"layers.{i}.bias": random(b) for i, (_, b) in sizes.items()}
        layers = [f"layers.{i}." for i in sizes]
    save_file(head, clip / "sac+logos+ava1-l14-linearMSE.safetensors")
    x = model.vision_model(torch.stack([crop(image) for image in images])).pooler_output
    x = F.normalize(model.visual_projection(x))
    for layer in layers:
        x = x @ head[f"{layer}weight"].T + head[f"{layer}bias"]
    scores = scorers.load(f"aesthetic={clip}")(images, PROMPTS)
    torch.testing.assert_close(scores, x[:, 0], rtol=1e-4, atol=1e-4)
    assert scores.std() > 0.01


def attend(q, k, v, mask=None):
    q, k, v = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (q, k, v))
    weights = q @ k.mT / q.shape[-1] ** 0.5
    if mask is not None:
        weights = weights.masked_fill(~mask, -torch.inf)
    return (weights.softmax(-1) @ v).transpose(1, 2).flatten(2)


def layer(state, name, x):
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def norm(state, name, x, eps=1e-5):
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)


def open_clip_weights():
    """Random weights under the names of open_clip's checkpoints."""
    tokens = (SIDE // PATCH) ** 2 + 1
    shapes = {"visual.conv1.weight": (WIDTH, 3, PATCH, PATCH), "visual.class_embedding": (WIDTH,)}
    shapes |= {"visual.positional_embedding": (tokens, WIDTH), "visual.proj": (WIDTH, OUT)}
    shapes |= {"token_embedding.weight": (600, WIDTH), "positional_embedding": (TOKENS, WIDTH)}
    shapes |= {"text_projection": (WIDTH, OUT), "logit_scale": ()}
    norms = ["visual.ln_pre", "visual.ln_post", "ln_final"]
    for block in (f"{v}transformer.resblocks.{n}" for v in ("visual.", "") for n in range(LAYERS)):
        norms += [f"{block}.ln_1", f"{block}.ln_2"]
        for name, (a, b) in {
            "attn.in_proj_": (WIDTH, 3 * WIDTH),
            "attn.out_proj.": (WIDTH, WIDTH),
            "mlp.c_fc.": (WIDTH, 32),
            "mlp.c_proj.": (32, WIDTH),
        }.items():
            shapes |= {f"{block}.{name}weight": (b, a), f"{block}.{name}bias": (b,)}
    shapes |= {f"{name}.{part}": (WIDTH,) for name in norms for part in ("weight", "bias")}
    return {name: random(*shape, seed=k) for k, (name, shape) in enumerate(shapes.items())}


def open_clip(state, x, prefix, mask=None):
    for n in range(LAYERS):
        block = f"{prefix}transformer.resblocks.{n}"
        y = norm(state, f"{block}.ln_1", x)
        y = F.linear(y, state[f"{block}.attn.in_proj_weight"], state[f"{block}.attn.in_proj_bias"])
        x = x + layer(state, f"{block}.attn.out_proj", attend(*y.chunk(3, -1), mask))
        y = F.gelu(layer(state, f"{block}.mlp.c_fc", norm(state, f"{block}.ln_2", x)))
        x = x + layer(state, f"{block}.mlp.c_proj", y)
    return x


def test_hpsv2_is_open_clips_forward_pass(clip, images):
    state = open_clip_weights()
    save_file(state, clip / "HPS_v2.1_compressed.safetensors")
    (clip / "model.safetensors").unlink()  # the base model's own weights are not needed
    scores = scorers.load(f"hpsv2={clip}")(images, PROMPTS)
    tokenizer = CLIPTokenizer.from_pretrained(PIPELINE / "tokenizer")
    for image, prompt, score in zip(images, PROMPTS, scores, strict=True):
        pixels = to_pixels(image)
        high, wide = (round(SIDE / max(image.size) * length) for length in pixels.shape[1:])
        pixels = F.interpolate(pixels[None], (high, wide), mode="bicubic", antialias=False)[0]
        left, top = (SIDE - wide) // 2, (SIDE - high) // 2
        pixels = F.pad(pixels, (left, SIDE - wide - left, top, SIDE - high - top))
        x = F.conv2d(((pixels - MEAN) / STD)[None], state["visual.conv1.weight"], stride=PATCH)
        x = torch.cat([state["visual.class_embedding"].view(1, 1, -1), x.flatten(2).mT], 1)
        x = norm(state, "visual.ln_pre", x + state["visual.positional_embedding"])
        x = norm(state, "visual.ln_post", open_clip(state, x, "visual.")[:, 0]) @ state["visual.proj"]
        ids = tokenizer(prompt).input_ids
        ids = [*ids[: TOKENS - 1], ids[-1]] if len(ids) > TOKENS else ids
        y = state["token_embedding.weight"][ids] + state["positional_embedding"][: len(ids)]
        causal = torch.ones(len(ids), len(ids)).tril().bool()
        y = norm(state, "ln_final", open_clip(state, y[None], "", causal))[:, -1] @ state["text_projection"]
        torch.testing.assert_close(score, F.cosine_similarity(x, y)[0], rtol=1e-4, atol=1e-5)
    assert scores.std() > 0.02


def blip_weights():
    """Random weights under the names of ImageReward's checkpoint, with the parts that it does not use."""
    tokens = (SIDE // PATCH) ** 2 + 1
    linear = {"patch_embed.proj": (WIDTH, 3, PATCH, PATCH)}
    norms = {"norm": WIDTH}
    for n in range(LAYERS):
        norms |= {f"blocks.{n}.norm1": WIDTH, f"blocks.{n}.norm2": WIDTH}
        linear |= {f"blocks.{n}.attn.qkv": (3 * WIDTH, WIDTH), f"blocks.{n}.attn.proj": (WIDTH, WIDTH)}
        linear |= {f"blocks.{n}.mlp.fc1": (32, WIDTH), f"blocks.{n}.mlp.fc2": (WIDTH, 32)}
    linear = {f"blip.visual_encoder.{name}": shape for name, shape in linear.items()}
    norms = {f"blip.visual_encoder.{name}": shape for name, shape in norms.items()}
    text = "blip.text_encoder."
    norms |= {f"{text}embeddings.LayerNorm": OUT}
    for n in range(LAYERS):
        block = f"{text}encoder.layer.{n}."
        for kind, width in (("attention", OUT), ("crossattention", WIDTH)):
            linear |= {f"{block}{kind}.self.query": (OUT, OUT), f"{block}{kind}.output.dense": (OUT, OUT)}
            linear |= {f"{block}{kind}.self.{name}": (OUT, width) for name in ("key", "value")}
            norms |= {f"{block}{kind}.output.LayerNorm": OUT}
        linear |= {f"{block}intermediate.dense": (32, OUT), f"{block}output.dense": (OUT, 32)}
        norms |= {f"{block}output.LayerNorm": OUT}
    sizes = (OUT, 12, 8, 6, 4, 1)
    linear |= {f"mlp.layers.{i}": (sizes[k + 1], sizes[k]) for k, i in enumerate((0, 2, 4, 6, 7))}
    linear |= {"blip.vision_proj": (8, WIDTH), "blip.text_proj": (8, OUT)}
    shapes = {f"{name}.weight": shape for name, shape in linear.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in linear.items()}
    shapes |= {f"{name}.{part}": (width,) for name, width in norms.items() for part in ("weight", "bias")}
    shapes |= {"blip.visual_encoder.cls_token": (1, 1, WIDTH)}
    shapes |= {"blip.visual_encoder.pos_embed": (1, tokens, WIDTH)}
    shapes |= {f"{text}embeddings.word_embeddings.weight": (30, OUT)}
    shapes |= {f"{text}embeddings.position_embeddings.weight": (40, OUT)}
    state = {name: random(*shape, seed=k) for k, (name, shape) in enumerate(shapes.items())}
    for name in ("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"):
        state[f"blip.visual_encoder.{name}"] /= 20  # so small that the norms' epsilon matters
    return state | {f"{text}embeddings.position_ids": torch.arange(40)[None]}


@pytest.fixture
def blip(tmp_path, monkeypatch):
    """A folder as ImageReward is published in, of small sizes, and its weights."""
    folder, state = tmp_path / "blip", blip_weights()
    folder.mkdir()
    save_file(state, folder / "ImageReward.safetensors")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "##dish", "circle", "large", "on"]
    (folder / "vocab.txt").write_text("\n".join(words))
    sizes = {"num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": 32}
    vision = {"hidden_size": WIDTH, "image_size": SIDE, "patch_size": PATCH}
    monkeypatch.setattr(scorers, "VISION", scorers.VISION | sizes | vision)
    text = {"hidden_size": OUT, "vocab_size": 30, "max_position_embeddings": 40, "encoder_hidden_size": WIDTH}
    monkeypatch.setattr(scorers, "LANGUAGE", scorers.LANGUAGE | sizes | text)
    return folder, state


def test_imagereward_is_blips_forward_pass_and_an_mlp(blip, images):
    folder, state = blip
    prompts = ["A reddish circle", "a", "large red circle on a circle", "red " * 50]
    ids = [[2, 5, 6, 7, 8, 3], [2, 5, 3], [2, 9, 6, 8, 10, 5, 8, 3], [2, *[6] * 33, 3]]
    scorer = scorers.load(f"imagereward={folder}")
    scores = scorer(images, prompts)
    assert scorer.too_long == {prompts[3]} and scores.std() > 0.005
    for image, tokens, score in zip(images, ids, scores, strict=True):
        see, say = "blip.visual_encoder.", "blip.text_encoder."
        proj = (state[f"{see}patch_embed.proj.weight"], state[f"{see}patch_embed.proj.bias"])
        x = F.conv2d(crop(image)[None], *proj, stride=PATCH).flatten(2).mT
        x = torch.cat([state[f"{see}cls_token"], x], 1) + state[f"{see}pos_embed"]
        for n in range(LAYERS):
            block = f"{see}blocks.{n}."
            y = layer(state, f"{block}attn.qkv", norm(state, f"{block}norm1", x, 1e-6))
            x = x + layer(state, f"{block}attn.proj", attend(*y.chunk(3, -1)))
            y = F.gelu(layer(state, f"{block}mlp.fc1", norm(state, f"{block}norm2", x, 1e-6)))
            x = x + layer(state, f"{block}mlp.fc2", y)
        x = norm(state, f"{see}norm", x, 1e-6)
        y = state[f"{say}embeddings.word_embeddings.weight"][tokens]
        y = (y + state[f"{say}embeddings.position_embeddings.weight"][: len(tokens)])[None]
        y = norm(state, f"{say}embeddings.LayerNorm", y, 1e-12)
        for n in range(LAYERS):
            block = f"{say}encoder.layer.{n}."
            for kind, other in (("attention", None), ("crossattention", x)):
                q = layer(state, f"{block}{kind}.self.query", y)
                k, v = (layer(state, f"{block}{kind}.self.{name}", y if other is None else other)
                        for name in ("key", "value"))  # fmt: skip
                z = layer(state, f"{block}{kind}.output.dense", attend(q, k, v))
                y = norm(state, f"{block}{kind}.output.LayerNorm", y + z, 1e-12)
            z = F.gelu(layer(state, f"{block}intermediate.dense", y))
            z = layer(state, f"{block}output.dense", z)
            y = norm(state, f"{block}output.LayerNorm", y + z, 1e-12)
        reward = y[0, 0]
        for i in (0, 2, 4, 6, 7):
            reward = layer(state, f"mlp.layers.{i}", reward)
        expected = (reward[0] - 0.16717362830052426) / 1.0333394966054072
        torch.testing.assert_close(score, expected, rtol=1e-5, atol=1e-5)


def test_sd_evaluate_takes_a_scorer_with_weights(clip, images, tmp_path):
    from sd.judging.evaluate import evaluate

    folders = {"mine": tmp_path / "mine", "base": tmp_path / "base"}
    for name, folder in folders.items():
        folder.mkdir()
        rows = ["file_name,prompt,style,number,index"]
        for k, image in enumerate(images[:2] if name == "mine" else images[1::-1]):
            image.save(folder / f"{k}.png")
            rows.append(f"{k}.png,{PROMPTS[0]},,0,{k}")
        (folder / "index.csv").write_text("\n".join(rows))
    _, scores, rows = evaluate(folders, [f"clip={clip}"], tmp_path)
    direct = scorers.load(f"clip={clip}")(images[:2], PROMPTS[:1] * 2).double()
    torch.testing.assert_close(scores["clip"]["mine"][0], direct, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scores["clip"]["base"][0], direct.flip(0), rtol=1e-5, atol=1e-5)
    assert [row["win_rate"] for row in rows if "win_rate" in row] == [0.5]  # the same images: a tie


def test_redness_and_following_are_those_of_the_tiny_world():
    pixels, captions = shapes.training_set(12, seed=3)
    pixels = (255 * pixels).round() / 255
    pictures = [to_image(x) for x in pixels]
    torch.testing.assert_close(scorers.load("redness")(pictures, captions), shapes.redness(pixels))
    following = scorers.load("following")
    assert following(pictures, captions).tolist() == [1] * 12
    assert following(pictures, captions[1:] + captions[:1]).sum() < 12
    large = [picture.resize((64, 64), Image.NEAREST) for picture in pictures]
    assert following(large, captions).tolist() == [1] * 12


def change_file(folder, name, change):
    path = folder / name
    state = load_file(path)
    change(state)
    save_file(state, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors in .*clip reads the files of"),
        (lambda f: (f / "preprocessor_config.json").unlink(), "no preprocessor_config.json in"),
        (lambda f: [p.unlink() for p in (*f.glob("*token*"), *f.glob("vocab*"))], "no vocab.json in"),
        (lambda f: (f / "config.json").unlink(), "no config.json in"),
        (lambda f: (f / "config.json").write_text("{"), "config.json: "),
        (lambda f: (f / "model.safetensors").write_bytes(b"half"), "cannot be read as safetensors"),
        (lambda f: (f / "model.safetensors").rename(f / "model.bin"), "/model.bin is not opened"),
        (
            lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
            "pytorch_model.bin is not opened.*as model.safetensors",
        ),
        (lambda f: change_file(f, "model.safetensors", lambda s: s.pop("visual_projection.weight")), "lacks"),
        (
            lambda f: change_file(f, "model.safetensors", lambda s: s.update(more=torch.ones(1))),
            "should not have 'more'",
        ),
        (
            lambda f: change_file(
                f, "model.safetensors", lambda s: s.update({"visual_projection.weight": random(7, WIDTH)})
            ),
            "another shape of 'visual_projection.weight'.*CLIPModel",
        ),
    ],
)
def test_files_that_do_not_fit_are_named(clip, damage, message):
    damage(clip)
    with pytest.raises(InputError, match=message) as info:
        scorers.load(f"clip={clip}")
    assert "\n" not in str(info.value)


def test_what_else_is_wrong_is_reported(clip, blip, tmp_path):
    folder, state = blip
    save_file({"weight": random(2, 3), "bias": random(2)}, clip / "sa_0_4_vit_l_14_linear.safetensors")
    (tmp_path / "HPS_v2.1_compressed.pt").write_bytes(b"")
    for spec, message in {
        "beauty": "unknown scorer 'beauty': use one of redness, following, left, clip",
        "redness=here": "needs no folder",
        "pickscore": "pickscore=DIR, where DIR holds the files of yuvalkirstain/PickScore_v1",
        f"hpsv2={tmp_path}/no": "no folder .*hpsv2=DIR, where DIR holds HPS_v2_compressed",
        f"hpsv2={clip}": "is not opened.*as HPS_v2.1_compressed.safetensors",
        f"aesthetic={clip}": "linear.safetensors is not the expected head",
        f"imagereward={clip}": "no ImageReward.*safetensors in .*THUDM/ImageReward",
    }.items():
        with pytest.raises(InputError, match=message):
            scorers.load(spec)
    save_file(part_of(state, "blip"), folder / "ImageReward.safetensors")
    with pytest.raises(InputError, match="not the expected head: see its"):
        scorers.load(f"imagereward={folder}")
    with pytest.raises(InputError, match="'following' knows"):
        scorers.load("following")([Image.new("RGB", (32, 32))], ["a dog"])


def part_of(state, prefix):
    return {k: v for k, v in state.items() if k.startswith(prefix)}
