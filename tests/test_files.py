"""Writing whole files or none."""

import json
import math

import pytest

from toy.errors import InputError
from toy.files import output_folder, save_atomically, save_csv, save_json


def test_json_is_strict_and_numbers_that_are_not_finite_are_null(tmp_path):
    path = save_json(
        tmp_path / "a.json", {"rows": [{"x": math.inf, "y": math.nan, "z": 0.5, "n": 3, "s": None}]}
    )
    assert json.loads(path.read_text()) == {"rows": [{"x": None, "y": None, "z": 0.5, "n": 3, "s": None}]}


def test_csv_is_utf8_and_quoted(tmp_path):
    path = save_csv(tmp_path / "a.csv", ("text", "n"), ((f"“{n}”, x", n) for n in range(2)))
    assert path.read_bytes().decode() == 'text,n\r\n"“0”, x",0\r\n"“1”, x",1\r\n'


def test_a_failure_in_the_middle_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def half(temporary):
        temporary.write_text("ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=r"cannot write .*a.txt: No space left on device"):
        save_atomically(path, half)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_file_where_a_folder_should_be_is_named(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(InputError, match=r"a is a file, not a folder; choose another --out"):
        output_folder(tmp_path / "a")
    with pytest.raises(InputError, match="--cache is empty"):
        output_folder("", "--cache")
