"""sd.judging.prompts: the forms in which prompts come."""

import re

import pytest

from sd.judging.prompts import Prompt, read_prompts
from toy.errors import InputError


def write(folder, name, text, encoding="utf-8"):
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def test_a_text_file_has_a_prompt_on_each_line(tmp_path):
    path = write(tmp_path, "a.txt", "\ufeffa fox\r\n\n  a “red” fox, running \na fox\n")
    assert read_prompts(path) == [("a fox", ""), ("a “red” fox, running", ""), ("a fox", "")]


def test_a_csv_may_have_styles(tmp_path):
    path = write(tmp_path, "a.csv", 'style,prompt\nanime,"a fox, running"\nphoto,a cat\n')
    assert read_prompts(path) == [Prompt("a fox, running", "anime"), Prompt("a cat", "photo")]
    assert read_prompts(write(tmp_path, "b.csv", "prompt\na cat\n")) == [("a cat", "")]


def test_partiprompts_have_categories_and_quotes_that_are_text(tmp_path):
    rows = (
        'Prompt\tCategory\tChallenge\tNote\n"Fly" on a wall\tArts\tBasic\t\na cat\tAnimals\tBasic\tsays "x\n'
    )
    path = write(tmp_path, "PartiPrompts.tsv", rows)
    assert read_prompts(path) == [('"Fly" on a wall', "Arts"), ("a cat", "Animals")]


@pytest.mark.parametrize(
    ("name", "text", "encoding", "message"),
    [
        ("a.txt", "\n \n", "utf-8", r"a.txt has no prompts"),
        ("a.csv", "prompt,style\n", "utf-8", r"a.csv has no prompts"),
        ("a.csv", "", "utf-8", r"a.csv has no column prompt .*; its columns: none"),
        (
            "a.csv",
            "text\na fox\n",
            "utf-8",
            r"a.csv has no column prompt or Prompt or caption; its columns: text",
        ),
        ("a.tsv", "Prompt,Note\na fox,\n", "utf-8", r"a.tsv has no column .*separate columns by tabs"),
        ("a.csv", "prompt,style\na fox,x\n ,x\n", "utf-8", r"a.csv, row 3: the prompt is empty"),
        ("a.txt", "a café\n", "latin-1", r"a.txt is not UTF-8 text \(byte 5\)"),
        ("a.csv", "prompt\na fox\na café\n", "latin-1", r"a.csv, row 3: not UTF-8"),
        ("a.json", "[]", "utf-8", r"a.json must end in .txt \(one per line\), .csv or .tsv"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, name, text, encoding, message):
    try:
        read_prompts(write(tmp_path, name, text, encoding))
    except InputError as error:  # not pytest.raises, whose traceback would keep the file open
        assert re.search(message, str(error))
    else:
        pytest.fail("it was read")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no file .*nowhere.txt; --prompts takes"):
        read_prompts(tmp_path / "nowhere.txt")
