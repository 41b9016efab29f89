"""What several tests share: a small pretrained model, made once."""

from toy.cli import suit_machine

suit_machine()  # before torch is imported

import json
import os
import socket
import subprocess
import sys

import pytest
import torch

from toy import data
from toy.model import Denoiser
from toy.train import last, pretrain

# two cores, shared by the workers of `pytest -n 2`
THREADS = max(1, 2 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
os.environ["OMP_NUM_THREADS"] = str(THREADS)  # for the processes that tests start


def pytest_collection_modifyitems(items):
    """The lessons take longest: they come first, so that no worker waits for another at the end."""
    items.sort(key=lambda item: "test_notebooks" not in item.nodeid)


@pytest.fixture(autouse=True)
def threads():
    torch.set_num_threads(THREADS)


@pytest.fixture(scope="session")
def world() -> data.World:
    return data.figure6()


@pytest.fixture(scope="session")
def points(world) -> data.Feedback:
    return data.feedback(world, 1000)


@pytest.fixture(scope="session")
def pretrained(world) -> Denoiser:
    """Trained briefly: enough to start from, not to judge."""
    return last(pretrain(world.base(5000, data.generator("test", 0)), steps=200)).policy


@pytest.fixture(scope="session")
def red(tmp_path_factory):
    """A small data set of likes and pairs: 24 red images, and the same 24 as they were."""
    from sd.tiny import shapes

    folder = tmp_path_factory.mktemp("red")
    shapes.write_feedback(folder, "red", count=24)
    return folder


@pytest.fixture(scope="session")
def two_processes():
    """Calls main(**message) of a test module in two processes that train together."""

    def call(module, **message):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        shared |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        shared["PYTHONPATH"] = os.pathsep.join(sys.path)
        code = f"import json, sys, {module} as t; t.main(**json.loads(sys.argv[1]))"
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", code, json.dumps(message)],
                env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stderr=subprocess.PIPE,
                text=True,
                cwd=os.path.dirname(__file__),
            )
            for rank in (0, 1)
        ]
        errors = [process.communicate(timeout=400)[1] for process in processes]
        assert all(process.returncode == 0 for process in processes), errors[0][-2000:] + errors[1][-2000:]

    return call


@pytest.fixture
def config(red, tmp_path):
    """Makes settings of a short run on the tiny pipeline."""
    from sd.config import Config
    from sd.tiny.runs import PIPELINE

    def make(**changes):
        usual = {
            "model": str(PIPELINE),
            "data": str(red),
            "out": str(tmp_path / "run"),
            "beta": 30.0,
            "steps": 4,
        }
        usual |= {"batch": 4, "lr": 1e-4, "warmup": 0, "precision": "fp32", "workers": 0, "log_every": 1}
        return Config(**usual | changes)

    return make


@pytest.fixture
def example():
    """Makes an index of rows written to a CSV beside 16 x 16 images a.png to f.png."""
    from PIL import Image

    from sd.feedback.index import find_csv, open_index

    def make(folder, *rows, name="feedback.csv", **options):
        for i, letter in enumerate("abcdef"):
            Image.new("RGB", (16, 16), (40 * i, 0, 0)).save(folder / f"{letter}.png")
        (folder / name).write_text("\n".join(rows) + "\n")
        return open_index(find_csv(str(folder / name), False), folder, **options)

    return make


@pytest.fixture(scope="session")
def kinds(tmp_path_factory):
    """Folders of small pipelines of every kind: v1 (eps), v2 (v-prediction), and untrained XL and v3,
    without and with a T5."""
    from diffusers import (
        DDIMScheduler,
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        T5Config,
        T5EncoderModel,
        T5Tokenizer,
    )

    from sd import models
    from sd.tiny.runs import PIPELINE

    folder = tmp_path_factory.mktemp("kinds")
    v2 = models.load(PIPELINE)
    eps = v2.scheduler
    v2.register_modules(
        scheduler=DDIMScheduler.from_config(v2.scheduler.config, prediction_type="v_prediction")
    )
    v2.save_pretrained(folder / "v2")
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = CLIPTextConfig(
        vocab_size=600, max_position_embeddings=16, projection_dim=24, eos_token_id=1, **small
    )
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
        block_out_channels=(16, 32),
        layers_per_block=1,
        attention_head_dim=(2, 4),
        norm_num_groups=8,
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        cross_attention_dim=32,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 24,
    )
    parts = {"text_encoder": CLIPTextModel(text), "text_encoder_2": CLIPTextModelWithProjection(text)}
    parts |= {"tokenizer": v2.tokenizer, "tokenizer_2": v2.tokenizer, "vae": v2.vae}
    xl = StableDiffusionXLPipeline(scheduler=eps, unet=unet, **parts, add_watermarker=False)
    xl.save_pretrained(folder / "xl")
    sizes = {"sample_size": 8, "patch_size": 2, "in_channels": 4, "out_channels": 4, "pos_embed_max_size": 8}
    sizes |= {
        "num_layers": 2,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "caption_projection_dim": 32,
    }
    sizes |= {"joint_attention_dim": 40, "pooled_projection_dim": 48, "qk_norm": "rms_norm"}
    transformer = SD3Transformer2DModel(**sizes, dual_attention_layers=(0,))
    parts |= {"text_encoder": CLIPTextModelWithProjection(text), "text_encoder_3": None, "tokenizer_3": None}
    flow = FlowMatchEulerDiscreteScheduler(shift=3.0)
    v2.vae.register_to_config(shift_factor=0.1)
    sd3 = StableDiffusion3Pipeline(scheduler=flow, transformer=transformer, **parts)
    sd3.save_pretrained(folder / "sd3")
    words = ["a", "small", "large", "red", "blue", "circle", "square", "on", "white", "gray", "background"]
    vocabulary = [(word, 0.0) for word in ("<pad>", "</s>", "<unk>", *(f"▁{word}" for word in words))]
    t5 = T5Config(vocab_size=len(vocabulary), d_model=40, d_kv=8, d_ff=64, num_layers=1, num_heads=2)
    sd3.register_modules(text_encoder_3=T5EncoderModel(t5), tokenizer_3=T5Tokenizer(vocabulary, extra_ids=0))
    sd3.save_pretrained(folder / "t5")
    names = ("v2", "xl", "sd3", "t5")  # the last is v3 with a T5
    return {"v1": PIPELINE} | {name: folder / name for name in names}
