"""sd.judging.page: a page in one file, with a blind vote; and its votes, counted."""

import base64
import csv
import io
import json
import re

import pytest
import torch
from PIL import Image, PngImagePlugin

from sd.__main__ import main
from sd.judging import evaluate, page
from sd.judging.prompts import Prompt
from sd.judging.samples import Samples

MODELS = ("mymodel", "otherone", "thirdone")


@pytest.fixture
def samples(tmp_path):
    """Three models' folders of 6 prompts x 3 images, which name their model."""
    by_model = {}
    for m, name in enumerate(MODELS):
        folder = tmp_path / name
        folder.mkdir()
        files = [[f"{name}-{p}-{i}.png" for i in range(3)] for p in range(6)]
        for k, file in enumerate(file for row in files for file in row):
            note = PngImagePlugin.PngInfo()
            note.add_text("model", name)
            Image.new("RGB", (20, 20), (k, 100 * m, 0)).save(folder / file, pnginfo=note)
        prompts = [Prompt(f"prompt {p} </script>{{IMAGES}}", "") for p in range(6)]
        by_model[name] = Samples(folder, prompts, files)
    return by_model


@pytest.fixture
def html(samples, tmp_path):
    """The page's text, with scores by which prompt p is won by p - 2."""
    scores = {name: torch.arange(3.0).repeat(6, 1) for name in MODELS}
    scores["mymodel"] = scores["mymodel"] + torch.arange(6.0)[:, None] - 2
    rows = evaluate.compare(samples, {"beauty": scores})
    path = page.write(samples, {"beauty": scores}, rows, tmp_path, pairs=5)
    return path.read_text()


def part(text, name):
    return json.loads(re.search(rf'<script type="application/json" id="{name}-data">(.*?)</script>', text)[1])


def key_of(folder):
    return list(csv.DictReader((folder / "vote-key.csv").read_text().splitlines()))


def test_the_page_is_one_file_that_needs_no_other(html):
    assert "http" not in html and "{VOTE}" not in html
    assert not re.search(r"<link|@import|\bsrc=[\"']?[^\"'>]", html.split("<script>")[0])
    assert html.count("</script>") == 4  # the prompts' do not count


def test_who_is_who_is_nowhere_in_the_vote(html, tmp_path):
    before_results = html[: html.index('id="results-data"')]
    assert not any(name in before_results for name in MODELS) and str(tmp_path) not in html
    vote, images = part(html, "vote"), part(html, "images")
    for name, uri in images.items():
        content = base64.b64decode(uri.partition(",")[2])
        assert not any(model in name or model.encode() in content for model in MODELS)
    assert len(vote["pairs"]) == 5
    firsts = {row["first_image"] for row in key_of(tmp_path)}
    places = [pair["images"].index(next(iter(firsts & set(pair["images"])))) for pair in vote["pairs"]]
    assert all(pair["images"] == sorted(pair["images"]) for pair in vote["pairs"]) and len(set(places)) == 2


def test_pairs_are_of_one_prompt_and_the_same_noise_and_the_key_knows_them(html, samples, tmp_path):
    images, prompts = part(html, "images"), samples["mymodel"].prompts
    key = {row["pair"]: row for row in key_of(tmp_path)}
    assert {row["other"] for row in key.values()} == {"otherone", "thirdone"}
    for pair in part(html, "vote")["pairs"]:
        row = key[pair["id"]]
        assert {row["first_image"], row["other_image"]} == set(pair["images"])
        for model, image in ((row["first"], row["first_image"]), (row["other"], row["other_image"])):
            with Image.open(io.BytesIO(base64.b64decode(images[image].partition(",")[2]))) as picture:
                k, green, _ = picture.getpixel((0, 0))
            assert green == 100 * MODELS.index(model)
            assert k % 3 == 0 and prompts[k // 3].text == pair["prompt"]  # its first image


def test_the_worst_and_the_best_prompts_are_shown_by_their_median_images(html):
    results, images = part(html, "results"), part(html, "images")
    assert results["first"] == "mymodel" and [r["model"] for r in results["rows"]] == ["otherone", "thirdone"]
    row = results["rows"][0]
    assert [entry["prompt"][:8] for entry in row["worst"]] == ["prompt 0", "prompt 1", "prompt 2"]
    assert [entry["prompt"][:8] for entry in row["best"]] == ["prompt 5", "prompt 4", "prompt 3"]
    assert [side["score"] for side in row["best"][0]["sides"]] == ["4", "1"]  # of 3, 4, 5 and 0, 1, 2
    with Image.open(
        io.BytesIO(base64.b64decode(images[row["best"][0]["sides"][1]["image"]][22:]))
    ) as picture:
        assert picture.getpixel((0, 0)) == (5 * 3 + 1, 100, 0)


def test_large_images_are_embedded_smaller_and_without_their_comments(tmp_path):
    image = Image.effect_noise((1024, 768), 50).convert("RGB")
    image.save(tmp_path / "a.jpg", comment=b"mymodel")
    uri = page._data_uri(tmp_path / "a.jpg")
    content = base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))
    with Image.open(io.BytesIO(content)) as small:
        assert small.size == (512, 384) and b"mymodel" not in content


def vote(path, key, judge, choices):
    """A file as the page saves it: choices[k] is who won pair k, first or other."""
    lines = ["study,judge,pair,chosen"]
    for row, choice in zip(key, choices, strict=False):
        lines.append(f'{row["study"]},"{judge}",{row["pair"]},{row[f"{choice}_image"]}')
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_votes_become_win_rates_by_judge_and_together(html, tmp_path, capsys):
    key = [row for row in key_of(tmp_path) if row["other"] == "otherone"]  # 3 pairs
    a = vote(tmp_path / "a.csv", key, 'Ann, ""A""', ["first", "first", "other"])
    b = vote(tmp_path / "b.csv", key, "Bob", ["first", "other"])
    assert main(["evaluate", "--votes", a, b, b, "--out", str(tmp_path)]) == 0  # Bob's twice: no matter
    output = capsys.readouterr().out
    rows = {r["judge"]: r for r in csv.DictReader((tmp_path / "votes.csv").read_text().splitlines())}
    assert {judge: float(row["win_rate"]) for judge, row in rows.items()} == pytest.approx(
        {'Ann, "A"': 2 / 3, "Bob": 1 / 2, "all 2 judges": (1 + 0.5 + 0) / 3}
    )
    assert rows["all 2 judges"]["pairs"] == "3" and float(rows["all 2 judges"]["ties"]) == pytest.approx(
        1 / 3
    )
    assert float(rows["Bob"]["low"]) < 0.2 and float(rows["Bob"]["high"]) > 0.8
    assert "mymodel vs otherone, Bob: 50.0% [" in output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("judge", "who"), "a.csv has no column judge"),
        (
            lambda text: re.sub(r"\n\w+", "\n0123", text),
            "row 2: pair .* is from another page; use",
        ),
        (
            lambda text: re.sub(r"\w+\n", "x\n", text).replace("x", "chosen", 1),
            "chosen 'x' is not an image of pair",
        ),
        (lambda text: text.splitlines()[0], "no votes in .*a.csv"),
    ],
)
def test_votes_of_something_else_are_refused(html, tmp_path, capsys, change, message):
    file = vote(tmp_path / "a.csv", key_of(tmp_path), "Ann", ["first", "other"])
    (tmp_path / "a.csv").write_text(change((tmp_path / "a.csv").read_text()))
    assert main(["evaluate", "--votes", file, "--out", str(tmp_path)]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_key_without_its_columns_is_refused(html, tmp_path, capsys):
    file = vote(tmp_path / "a.csv", key_of(tmp_path), "Ann", ["first"])
    (tmp_path / "vote-key.csv").write_text(
        (tmp_path / "vote-key.csv").read_text().replace("pair", "number", 1)
    )
    assert main(["evaluate", "--votes", file, "--out", str(tmp_path)]) == 2
    assert "vote-key.csv has no column pair; its columns: study, number," in capsys.readouterr().err


def test_votes_need_the_key_beside_the_page(tmp_path, capsys):
    assert main(["evaluate", "--votes", "x.csv", "--out", str(tmp_path)]) == 2
    assert "no vote-key.csv in" in capsys.readouterr().err
