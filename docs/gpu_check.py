"""Everything a GPU has to prove at once: make gpu-check. It downloads nothing, and writes to out/gpu-check.

It measures the training step of every model, then takes a pipeline of Stable Diffusion's size with random
weights through the manual: plan, train, resume, adapters, SmPO, sampling, scoring and, on several GPUs, two
processes and shards. At the end it prints a table for docs/gpu.md. With --tiny it does the same
on a CPU, with the tiny pipeline.
"""

import argparse
import csv
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sd.bench import SD15
from sd.tiny.runs import PIPELINE

OUT = Path("out/gpu-check")
SD = [sys.executable, "-m", "sd"]
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
COUNT = 32  # images


def commands(tiny: bool, devices: int) -> dict[str, list[str]]:
    """Every check by name: a command line."""
    places = ["--model", str(PIPELINE if tiny else OUT / "pipeline"), "--data", str(OUT / "data")]
    steps = ["--steps", "4", "--log-every", "2", "--save-every", "2", "--keep", "1", "--warmup", "0"]
    run = [*SD, "train", "diffusion-kto-sd15", *places, *steps]
    if tiny:
        run += ["--resolution", "32", "--precision", "fp32", "--workers", "0"]
    full = [*run, "--out", str(OUT / "full")]
    prompts = ["--prompts", str(OUT / "prompts.txt"), "--count", "1", "--steps", "2" if tiny else "50"]
    sample = [*SD, "sample", "--model", places[1], *prompts]
    seconds = ["--seconds", "0.2" if tiny else "20"]
    checks = {}
    for model in ("tiny",) if tiny else ("sd15", "sd21", "sdxl", "sd35-medium"):
        checks[f"bench {model}"] = [*SD, "bench", "--model", model, *seconds]
    if not tiny:
        checks["bench sd15, compiled"] = [*SD, "bench", "--model", "sd15", "--compile", *seconds]
        checks["bench sd15, fp16"] = [*SD, "bench", "--model", "sd15", "--precision", "fp16", *seconds]
        checks["bench sdxl, checkpointing"] = [
            *SD, "bench", "--model", "sdxl", "--gradient-checkpointing", *seconds
        ]  # fmt: skip
    checks["plan"] = [*SD, "plan", *full[len(SD) + 1 :]]
    checks["train"] = full
    checks["resume"] = [*full, "--steps", "6"]
    checks["train, fp16"] = [*run, "--precision", "fp16", "--out", str(OUT / "fp16")]
    checks["train, compiled"] = [*run, "--compile", "--out", str(OUT / "compiled")]
    checks["train, adapters"] = [*run, "--tune", "lora", "--lr", "1e-5", "--out", str(OUT / "adapters")]
    smpo = ["--objective", "smpo", "--total-batch", "4", "--inversion-steps", "2", "--out", str(OUT / "smpo")]
    checks["train, smpo"] = [*run, *smpo]
    checks["sample"] = [*sample, "--out", str(OUT / "base")]
    checks["sample, fp32"] = [*sample, "--precision", "fp32", "--out", str(OUT / "base-fp32")]
    checks["sample, adapters"] = [*sample, "--lora", str(OUT / "adapters/lora"), "--out", str(OUT / "mine")]
    images = ["--images", f"mine={OUT / 'mine'}", f"base={OUT / 'base'}"]
    checks["evaluate"] = [*SD, "evaluate", *images, "--scorers", "redness", "--out", str(OUT / "evaluation")]
    if devices > 1:
        for name in ("two processes", "shards"):
            options = [*run[len(SD) :], "--out", str(OUT / name.replace(" ", "-"))]
            shard = ["--shard"] if name == "shards" else []
            checks[f"train, {name}"] = [*LAUNCH, "-m", "sd", *options, *shard]
    if tiny:  # a CPU has no fp16, and compiling needs a compiler
        del checks["train, fp16"], checks["train, compiled"]
    return checks


def make_pipeline(folder: Path) -> None:
    """Save a pipeline of the size of Stable Diffusion v1-5, with random weights."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(PIPELINE / "tokenizer", model_max_length=77)
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
    vae = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}
    vae |= {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    parts = {"unet": UNet2DConditionModel(**SD15), "vae": AutoencoderKL(**vae), "tokenizer": tokenizer}
    parts["text_encoder"] = CLIPTextModel(CLIPTextConfig(num_hidden_layers=12, **text))
    parts["scheduler"] = DDIMScheduler.from_pretrained(PIPELINE / "scheduler")
    parts |= {"safety_checker": None, "feature_extractor": None}
    StableDiffusionPipeline(**parts, requires_safety_checker=False).save_pretrained(folder)


def make_data(folder: Path, side: int) -> None:
    """Images of noise, half of them liked, and pairs of them with scores."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, names = np.random.default_rng(0), [f"{k}.png" for k in range(COUNT)]
    for name in names:
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(folder / name)
    likes = [(name, f"image {k % 8}", "liked" if k % 2 else "disliked") for k, name in enumerate(names)]
    pairs = [(names[k + 1], names[k], f"image {k % 8}", 0.8, 0.3) for k in range(0, COUNT, 2)]
    with open(folder / "feedback.csv", "w") as file:
        csv.writer(file).writerows([("file_name", "caption", "label"), *likes])
    with open(folder / "pairs.csv", "w") as file:
        header = ("winner", "loser", "caption", "winner_score", "loser_score")
        csv.writer(file).writerows([header, *pairs])
    (OUT / "prompts.txt").write_text("".join(f"a picture of the number {k}\n" for k in range(16)))


def main() -> int:
    """Run every check; the number of those that failed."""
    parser = argparse.ArgumentParser(description="Try everything on a GPU.")
    parser.add_argument("--tiny", action="store_true", help="on a CPU, with the tiny pipeline")
    tiny = parser.parse_args().tiny
    if not (tiny or torch.cuda.is_available()):
        print("PyTorch sees no GPU: nothing to check; --tiny tries the commands on a CPU")
        return 2
    for old in OUT.glob("*"):
        if old.is_dir() and old.name != "pipeline":  # an earlier check's runs would be resumed
            shutil.rmtree(old)
    make_data(OUT / "data", 32 if tiny else 512)
    if not tiny and not (OUT / "pipeline/model_index.json").exists():
        make_pipeline(OUT / "pipeline")
    if tiny:
        os.environ["ACCELERATE_USE_CPU"] = "true"
    rows = []
    for name, command in commands(tiny, 2 if tiny else torch.cuda.device_count()).items():
        print(f"\n{name}: {' '.join(command[1:])}", flush=True)
        start = time.perf_counter()
        code = subprocess.run(command).returncode
        result = "passed" if code == 0 else f"FAILED, exit code {code}"
        rows.append((name, result, time.perf_counter() - start))
    print("\n| check | result | seconds |\n|---|---|---|")
    for name, result, seconds in rows:
        print(f"| {name} | {result} | {seconds:.0f} |")
    return sum(result != "passed" for _, result, _ in rows)


if __name__ == "__main__":
    sys.exit(main())
