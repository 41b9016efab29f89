"""The commands on images: python -m sd COMMAND; on many GPUs, accelerate launch -m sd COMMAND."""

import argparse
import sys

from sd.config import PRECISIONS, add_arguments
from toy.cli import Parser, add_command, number, run

SCORERS = "redness, following, left, clip, pickscore, aesthetic, hpsv2, imagereward"
COUNT = {"type": number(0, 1000, int), "metavar": "N"}
SEED = {"type": number(-1, 2**32 - 1, int), "metavar": "N", "default": 0}
OUT = {"required": True, "metavar": "DIR"}


def parser() -> Parser:
    top = Parser("python -m sd", description="Align Stable Diffusion with likes and dislikes.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: str, about: str, **options) -> Parser:
        return add_command(commands, name, function, about, **options)

    about = "align a Stable Diffusion pipeline with your feedback"
    options = {"usage": "python -m sd train [RECIPE] [--SETTING VALUE ...]", "allow_abbrev": False}
    options["argument_default"] = argparse.SUPPRESS  # what is not given, the recipe says
    add_arguments(command("train", "sd.train:train", about, resumes=True, **options))

    about = "say what such a training run will take, and whether it fits"
    options["usage"] = "python -m sd plan [RECIPE] [--SETTING VALUE ...]"
    add_arguments(command("plan", "sd.plan:plan", about, **options))

    sub = command("prepare", "sd.feedback.prepare:prepare", "turn Pick-a-Pic v2 into feedback", resumes=True)
    sub.add_argument("source", help="parquet file, or folder of parquet files or of a saved dataset")
    sub.add_argument("--out", **OUT, help="folder for images, pairs.csv and feedback.csv")
    text = "which part of the data: train (default), validation, test, or one of their _unique forms"
    sub.add_argument("--split", default="train", metavar="NAME", help=text)

    about = "draw images of prompts, to judge a model"
    sub = command("sample", "sd.judging.sample:main", about, resumes=True)
    sub.add_argument("--model", required=True, metavar="DIR", help="folder of a Stable Diffusion pipeline")
    sub.add_argument("--lora", metavar="DIR", help="folder of adapters to add: RUN/lora")
    sub.add_argument("--prompts", required=True, metavar="FILE", help="text file, CSV, or PartiPrompts' TSV")
    sub.add_argument("--out", **OUT, help="folder for the images and index.csv")
    sub.add_argument("--count", **COUNT, default=5, help="images per prompt (5)")
    sub.add_argument("--seed", **SEED, help="seed of the starting noises (0)")
    sub.add_argument("--steps", **COUNT, default=50, help="denoising steps (50)")
    text = "guidance scale (the pipeline's own; the tiny one's is 3)"
    sub.add_argument("--guidance", type=number(-1000, 1000), metavar="G", help=text)
    sub.add_argument("--batch", **COUNT, default=16, help="images drawn together (16)")
    text = "text before each prompt: 'good image, ' for csft"
    sub.add_argument("--prefix", default="", metavar="TEXT", help=text)
    sub.add_argument("--precision", choices=PRECISIONS, help="of the weights (bf16; on a CPU, fp32)")

    about = "compare models by the images that they drew"
    sub = command("evaluate", "sd.judging.evaluate:main", about, resumes=True)
    text = "folders of samples; the first model is compared with each of the others"
    sub.add_argument("--images", nargs="+", default=[], metavar="NAME=DIR", help=text)
    text = f"{SCORERS}; those with weights as NAME=DIR"
    sub.add_argument("--scorers", nargs="+", default=[], metavar="NAME", help=text)
    text = "count these votes, saved by the page, instead"
    sub.add_argument("--votes", nargs="+", default=[], metavar="FILE", help=text)
    text = "folder for the results (out/evaluation)"
    sub.add_argument("--out", default="out/evaluation", metavar="DIR", help=text)
    sub.add_argument("--pairs", **COUNT, default=60, help="pairs to vote on (60)")

    about = "add a reward model's scores to pairs, for smpo"
    sub = command("score-pairs", "sd.judging.score_pairs:main", about, resumes=True)
    sub.add_argument("data", help="folder with pairs.csv, or such a CSV")
    text = f"{SCORERS}; those with weights as NAME=DIR"
    sub.add_argument("--scorer", required=True, metavar="NAME", help=text)
    sub.add_argument("--out", metavar="FILE", help="CSV in the same folder (pairs-NAME.csv)")

    sub = command("shapes", "sd.tiny.shapes:main", "draw likes and dislikes for the tiny pipeline")
    sub.add_argument(
        "preference", choices=("red", "large"), help="what is liked: red images, or large shapes"
    )
    sub.add_argument("--out", **OUT, help="folder for images, feedback.csv, pairs.csv and prompts.txt")

    sub = command("tiny", "sd.tiny.build:main", "train the tiny pipeline from nothing, in minutes")
    text = "which one: Stable Diffusion (unet, default) or Stable Diffusion 3 (sd3)"
    sub.add_argument("--family", choices=("unet", "sd3"), default="unet", help=text)
    sub.add_argument("--out", **OUT, help="folder for the pipeline; a pipeline there is replaced")
    sub.add_argument("--seed", **SEED, help="seed of images and weights (0)")

    def study(name: str, function: str, about: str, seeds: int, fewest: int) -> Parser:
        sub = command(name, function, about, resumes=True)
        count = number(fewest - 1, 1000, int)
        sub.add_argument("--seeds", type=count, default=seeds, metavar="N", help=f"number of seeds ({seeds})")
        sub.add_argument("--model", metavar="DIR", help="pipeline to start from (the committed tiny one)")
        sub.add_argument("--out", default="out", metavar="DIR", help="folder for picture and numbers (out)")
        sub.add_argument("--runs", default=f"out/{name}", metavar="DIR", help=f"folder for runs (out/{name})")
        return sub

    about = "teach the tiny pipeline one user's taste (the paper's Figure 7)"
    sub = study("figure7", "sd.tiny.figure7:main", about, seeds=1, fewest=1)
    text = "what is liked: red images (default), or large shapes"
    sub.add_argument("--preference", choices=("red", "large"), default="red", help=text)
    about = "judge every objective on the tiny pipeline, pushed farther and farther"
    study("study", "sd.judging.study:main", about, seeds=5, fewest=2)
    about = "try your own utility on images, with the tiny pipeline, beside Kahneman-Tversky and SFT"
    sub = study("try", "sd.judging.trial:main", about, seeds=3, fewest=2)
    sub.add_argument("utility", metavar="file.py:name", help="your function, or the name of a built-in one")

    sub = command("bench", "sd.bench:bench", "measure the speed of a training step")
    sizes = ("tiny", "sd15", "sd21", "sdxl", "sd3", "sd35-medium", "sd35-large")
    sub.add_argument("--model", choices=sizes, help="size of the model (sd15; on a CPU, tiny)")
    sub.add_argument(
        "--batch", type=number(0, 4096, int), metavar="N", help="images per step (one that fits the model)"
    )
    sub.add_argument(
        "--precision", choices=PRECISIONS, help="precision of the arithmetic (bf16; on a CPU, fp32)"
    )
    sub.add_argument("--gradient-checkpointing", action="store_true", help="less memory, more work")
    sub.add_argument("--compile", action="store_true", help="measure with torch.compile too")
    sub.add_argument("--seconds", type=number(0, 600), default=20.0, metavar="S", help="time per row (20)")
    return top


def main(argv: list[str] | None = None) -> int:
    return run(parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
