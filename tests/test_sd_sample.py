"""sd.judging.sample: folders of images that can be compared, model with model, image by image."""

import csv
import json
import os
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from sd import draw as drawing
from sd import models
from sd.__main__ import main, parser
from sd.judging import sample
from sd.judging.prompts import Prompt
from sd.tiny.runs import PIPELINE
from sd.trainer import train

PROMPTS = "a red circle on a gray background\na blue square on a white background\n" * 2


@pytest.fixture
def ask(tmp_path):
    """Runs the command on a file of prompts; its exit code, and the folder."""
    (tmp_path / "prompts.txt").write_text(PROMPTS)

    def run(out, *more, model=PIPELINE):
        options = {"--model": model, "--prompts": tmp_path / "prompts.txt", "--out": tmp_path / out}
        flat = [str(part) for option in options.items() for part in option]
        few = ["--count", "2", "--steps", "2", "--guidance", "3", "--batch", "3"]
        return main(["sample", *flat, *few, *more]), tmp_path / out

    return run


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


def test_a_folder_of_images_says_what_each_shows(ask, capsys):
    code, out = ask("o", "--seed", "3")
    assert code == 0 and "2 of 4 prompts repeat an earlier one" in capsys.readouterr().out
    rows = list(csv.DictReader((out / "index.csv").read_text().splitlines()))
    assert [(r["number"], r["index"]) for r in rows] == [(str(p), str(i)) for p in range(4) for i in range(2)]
    assert {r["file_name"] for r in rows} == set(bytes_of(out))
    with Image.open(out / rows[2]["file_name"]) as image:
        assert image.size == (32, 32)
        note = {"prompt": "a blue square on a white background", "seed": "3", "model": "pipeline"}
        assert rows[2]["prompt"] == note["prompt"] and image.text == note


def test_the_defaults_are_those_of_the_papers_authors_and_of_the_device(ask):
    given = parser().parse_args(["sample", "--model", "m", "--prompts", "p", "--out", "o"])
    assert given.steps == 50 and given.precision is None
    assert (
        json.loads((ask("o")[1] / "sampling.json").read_text())["device and precision"]
        == "cpu, torch.float32"
    )


def pixels(path):
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


def test_each_image_has_a_noise_of_its_own_the_same_for_every_model_and_batch(ask):
    whole, parts = ask("a", "--batch", "8")[1], ask("b", "--batch", "3")[1]
    prompts = [prompt for prompt in PROMPTS.splitlines() for _ in range(2)]
    reference = drawing.draw(models.load(PIPELINE), prompts, steps=2, guidance=3)
    for folder in (whole, parts):
        images = torch.stack([pixels(path) for path in sorted(folder.glob("*.png"))])
        assert (images - reference).abs().max() < 1.5 / 255  # rounded to bytes; batches differ by rounding
    assert len(set(bytes_of(whole).values())) == 8  # though every prompt is there twice


def test_an_interrupted_command_goes_on_to_the_same_images(ask, monkeypatch, capsys):
    whole = bytes_of(ask("whole")[1])
    draw, calls = sample.draw_batch, []

    def interrupt(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return draw(*arguments)

    monkeypatch.setattr(sample, "draw_batch", interrupt)
    code, out = ask("parts")
    assert code == 2 and "run the same command again to resume" in capsys.readouterr().err
    assert len(bytes_of(out)) == 6 and not (out / "index.csv").exists()
    (out / "00000-0.png").write_bytes(b"broken")
    code, out = ask("parts")
    assert code == 0 and bytes_of(out) == whole
    assert len(calls) == 3 + 2  # the batch that was cut, and the one with the broken file


def test_a_folder_of_other_images_is_refused_by_what_differs(ask, capsys):
    ask("o")
    before = bytes_of(ask("o")[1])
    assert ask("o", "--seed", "1", "--steps", "3")[0] == 2
    assert "holds images made with another seed, steps; choose another --out" in capsys.readouterr().err
    for damage in (lambda file: file.write_text("[]"), lambda file: file.unlink()):
        damage(ask("o")[1] / "sampling.json")
        capsys.readouterr()
        assert ask("o")[0] == 2 and "holds something other than samples" in capsys.readouterr().err
    assert bytes_of(ask("o")[1]) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--guidance nan", "--guidance: nan is out of range"),
        ("--guidance inf", "--guidance: inf is out of range"),
        ("--steps 1000", "--steps 1000 must be below 1000, the number of steps of the model's training"),
        ("--steps 1001", "--steps: 1001 is out of range"),
        (f"--seed {2**128}", "--seed: 340282366920938463463374607431768211456 is out of range"),
        ("--count 1001", "--count: 1001 is out of range"),
        ("--batch 100000000000", "--batch: 100000000000 is out of range"),
        ("--prefix good\udcff", "'good\\udcff' is not UTF-8 text: rename it"),
    ],
)
def test_numbers_without_bounds_and_text_without_letters_are_one_clear_line(ask, capsys, arguments, message):
    assert ask("o", *arguments.split())[0] == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1


def test_a_prefix_changes_the_image_but_neither_noise_nor_index(ask, monkeypatch):
    inputs = []
    monkeypatch.setattr(sample, "draw_batch", lambda _, texts, noises, *rest: (
        inputs.append((texts, noises)) or torch.zeros(len(texts), 3, 8, 8)))  # fmt: skip
    plain, with_prefix = ask("a")[1], ask("b", "--prefix", "good image, ")[1]
    assert (plain / "index.csv").read_bytes() == (with_prefix / "index.csv").read_bytes()
    (texts, noises), (others, same) = inputs[0], inputs[3]
    assert noises == same and others == [f"good image, {text}" for text in texts]


def test_adapters_change_the_images_and_are_named(ask, config, tmp_path, capsys):
    for state in train(config(tune="lora", lora_rank=2, steps=2, lr=0.1)):
        pass
    state.trainer.export()
    plain, with_lora = ask("a")[1], ask("b", "--lora", str(tmp_path / "run" / "lora"))[1]
    assert bytes_of(plain) != bytes_of(with_lora)
    assert Image.open(with_lora / "00000-0.png").text["model"] == "pipeline + run"
    assert ask("c", "--lora", str(tmp_path))[0] == 2
    assert "no pytorch_lora_weights.safetensors in" in capsys.readouterr().err


def test_adapters_of_another_model_are_refused(ask, config, kinds, tmp_path, capsys):
    for state in train(config(tune="lora", steps=1, model=str(kinds["xl"]))):
        pass
    state.trainer.export()
    assert ask("a", "--lora", str(tmp_path / "run" / "lora"))[0] == 2
    assert "does not fit the model" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["v1", "xl"])
def test_prompts_longer_than_a_text_encoder_takes_are_counted(kinds, kind):
    pipeline = models.load(kinds[kind])
    texts = ["a red circle", "a red circle " * 9]
    assert sample.count_too_long(pipeline, texts) == 1
    if kind == "xl":
        pipeline.tokenizer_2.model_max_length = 4
        assert sample.count_too_long(pipeline, texts) == 2


def test_memory_holds_one_batch_of_images(tmp_path, monkeypatch):
    alive = []

    class Watched:
        def __init__(self, images):
            self.images = images
            alive.append(1)

        def __iter__(self):
            return iter(self.images)

        def __len__(self):
            return len(self.images)

        def __del__(self):
            alive.pop()

    most = []

    def draw(pipeline, texts, *rest):
        most.append(len(alive))
        return Watched(torch.zeros(len(texts), 3, 4, 4))

    monkeypatch.setattr(sample, "draw_batch", draw)
    sample.sample(models.load(PIPELINE), [Prompt("a", "")] * 20, tmp_path, name="x", count=2, batch=4)
    assert len(most) == 10 and max(most) <= 1


def test_models_are_named_without_their_place(tmp_path):
    assert sample.model_name(tmp_path / "sd15") == "sd15"
    assert sample.model_name(tmp_path / "run" / "model") == "run"
    assert sample.model_name("run/lora") == "run"


def test_two_processes_write_what_one_writes(ask, red, tmp_path):
    """Of sample, evaluate and score-pairs; only the first process speaks."""
    shutil.copytree(red, tmp_path / "data", ignore=shutil.ignore_patterns("cache"))

    def commands(out):
        options = ["--prompts", f"{tmp_path}/prompts.txt", "--count", "2", "--steps", "2", "--batch", "3"]
        for name, seed in (("a", "0"), ("b", "1")):
            yield ["sample", "--model", str(PIPELINE), "--out", f"{out}/{name}", "--seed", seed, *options]
        names = [f"a={out}/a", f"b={out}/b"]
        yield ["evaluate", "--images", *names, "--scorers", "redness", "--out", f"{out}/judged"]
        yield [
            "score-pairs",
            f"{tmp_path}/data",
            "--scorer",
            "redness",
            "--out",
            f"{tmp_path}/data/scored.csv",
        ]

    def content(folder):
        files = [path for path in folder.rglob("*.*") if path.is_file() and path.suffix != ".sqlite"]
        return {path.relative_to(folder): path.read_bytes() for path in files}

    output = launch(list(commands(tmp_path / "two")))
    assert output[0].count("done in") == 4 and output[1] == ""
    two, scored = content(tmp_path / "two"), content(tmp_path / "data")
    shutil.rmtree(tmp_path / "data/cache")
    assert [main(command) for command in commands(tmp_path / "one")] == [0] * 4
    assert content(tmp_path / "one") == two and len(two) == 2 * 10 + 6
    assert content(tmp_path / "data") == scored


def launch(commands):
    """Runs commands in two processes, as accelerate launch does; what each printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    shared |= {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": os.pathsep.join(sys.path)}
    code = "import json, sys; from sd.__main__ import main; [main(c) for c in json.loads(sys.argv[1])]"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, json.dumps(commands)],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    output = [process.communicate(timeout=200) for process in processes]
    assert all("error: " not in errors for _, errors in output), output
    return [text for text, _ in output]
