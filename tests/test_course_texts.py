"""The course's texts beside the lessons: the quiz, the glossary and the README."""

import json
import math
import re
from pathlib import Path

import pytest
import torch

from notebooks import slides
from notebooks.__main__ import main
from notebooks.solutions import lesson4, lesson6
from toy import diffusion, losses, utilities

ROOT = Path(__file__).parent.parent / "notebooks"
LESSONS = sorted(ROOT.glob("*.ipynb"))
QUIZ = re.split(r"^## ", (ROOT / "quiz.md").read_text(), flags=re.M)[1:]
GLOSSARY = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in (ROOT / "glossary.md").read_text().splitlines()
    if re.search(r"\| \d \|$", line)
]


def words(path):
    return "\n".join("".join(cell["source"]) for cell in json.loads(path.read_text())["cells"])


@pytest.mark.parametrize("number", range(1, 10))
def test_every_lesson_has_five_questions_with_folded_answers(number):
    part = QUIZ[number - 1]
    assert part.startswith(f"Lesson {number}: ")
    questions = re.findall(
        r"^\*\*(\d)\.\*\* .*?\?\n\n<details><summary>Answer</summary>\n\n", part, re.M | re.S
    )
    assert questions == list("12345") and part.count("\n\n</details>\n") == 5
    assert part.count("<details>") == 5


def test_what_the_answers_calculate_is_right():
    x = torch.linspace(-6, 6, 25)
    U = utilities.UTILITIES
    abar = diffusion.linear_schedule()
    assert f"{abar[999].sqrt():.4f}" == "0.0064" and "0.0064" in QUIZ[0] and 1 / abar[999].sqrt() > 150
    kahneman_tversky = U["kahneman_tversky"]
    assert kahneman_tversky(torch.tensor([0.0, 4.0])).mean() < kahneman_tversky(torch.tensor(2.0))
    assert kahneman_tversky(torch.tensor([0.0, -4.0])).mean() > kahneman_tversky(torch.tensor(-2.0))
    most = {name: x[utilities.slope(U[name], x).argmax()].item() for name in ("loss_averse", "risk_seeking")}
    assert most == {"loss_averse": -6, "risk_seeking": 6}
    slope = utilities.slope(kahneman_tversky, x)
    assert x[slope.argmax()] == 0 and torch.allclose(slope, slope.flip(0), atol=1e-5)
    errors, liked = torch.rand(8), torch.arange(8) < 5
    assert losses.diffusion_kto(errors, errors, liked, beta=7.0, z0=0.0)[0] == 0.5
    half = torch.tensor(0.15, dtype=torch.float16)
    gap = torch.nextafter(half, torch.tensor(1.0, dtype=torch.float16)).float() - half.float()
    assert f"{5000 * gap:.2f}" == "0.61" and "0.61" in QUIZ[2]
    assert lesson4.balance(0.9, 0.6) == pytest.approx(0.72) and lesson4.balance(0.9, -0.1) == 0
    assert losses.diffusion_dpo(errors, errors, errors, errors, beta=3.0)[0].item() == pytest.approx(
        math.log(2)
    )
    assert (lesson6.pair_weight(errors, errors, 10.0) == 0).all()
    assert 4 + 4 + 8 + 2 == 18 and "4 + 4 + 8 + 2 bytes" in words(LESSONS[7])


def test_what_is_said_of_the_minority_is_what_was_measured():
    rows = json.loads((ROOT.parent / "figures" / "taste.json").read_text())["rows"]

    def percents(name, beta=4, share=0.2):
        fits = [r for r in rows if (r["name"], r["beta"], r["share"]) == (name, beta, share)]
        by_world = [[r["minority"] for r in fits if r["world"] == world] for world in ("figure6", "grid")]
        assert [len(values) for values in by_world] == [10, 10]
        return sorted(round(100 * sum(values) / 10) for values in by_world)

    averse, ours = percents("loss_averse"), percents("kahneman_tversky")
    assert [averse, ours, percents("sft")] == [[16, 18], [5, 7], [14, 16]]
    assert percents("risk_seeking_bounded") == percents("kahneman_tversky", share=0.1) == [0, 0]
    assert percents("pretrained", None, None) == [35, 36]
    front = " ".join((ROOT / "README.md").read_text().split())
    assert "16 to 18% of the samples from loss-averse, 5 to 7% from Kahneman-Tversky, and none" in front
    assert "14 to 18% of the samples, Kahneman-Tversky 5 to 7%" in words(LESSONS[4])


def test_the_glossary_is_in_order_and_has_no_term_twice():
    terms = [term.lower() for term, *_ in GLOSSARY]
    assert terms == sorted(set(terms)) and len(terms) > 40


@pytest.mark.parametrize("row", GLOSSARY, ids=lambda row: row[0])
def test_a_term_stands_in_its_lesson_with_its_symbol(row):
    term, symbols, meaning, lesson = row
    text = words(LESSONS[int(lesson) - 1])
    assert all(part in text.lower() for part in term.lower().split(", "))
    for symbol in re.findall(r"`([^`]+)`", symbols):
        assert symbol in text, symbol
    assert meaning.endswith(".") and 1 <= len(re.findall(r"[.!?](?: |$)", meaning)) <= 3


@pytest.fixture(scope="module")
def deck(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deck")
    assert main(["slides", "--out", str(folder)]) == 0
    return (folder / "slides.html").read_text("utf-8")


def test_the_slides_need_no_network_and_show_every_picture_of_their_sections(deck):
    assert not re.search(r"(?:src|href)=.(?!data:|#)|@import|url\(", deck)
    assert 40 <= deck.count("<section>") <= 65
    assert deck.count('picture"') >= 14 and "Exercise 1: " not in deck
    assert "def kto_loss(policy_error" in deck and "win 4 or nothing / win 2     " in deck


def test_the_slides_have_no_formula_left_in_latex(deck):
    words = re.sub(r"<(script|style|pre)>.*?</\1>|<[^>]*>", " ", deck, flags=re.S)
    assert deck.count("data:image/svg+xml") > 80 and not re.search(r"\$|\\[a-z]+|@formula", words)


def test_a_section_that_is_no_longer_in_the_lessons_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(slides.SECTIONS, 1, ("## The old name",))
    assert main(["slides", "--out", str(tmp_path)]) == 2
    assert "no lesson has '## The old name'" in capsys.readouterr().err


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_every_formula_of_the_lessons_could_be_put_on_a_slide(path):
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "markdown":
            slides.render("".join(cell["source"]))
