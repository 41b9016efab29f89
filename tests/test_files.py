"""Writing whole files or none."""

import json
import math
import os
import subprocess
import sys

import pytest

from toy.errors import InputError
from toy.files import HIDDEN, output_folder, save_atomically, save_csv, save_json


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


def killed_while_saving(how, path):
    """Start to save in another process, and kill it in the middle."""
    script = f"""if True:
        import os
        from pathlib import Path
        from toy.files import save_atomically, save_folder

        def half(temporary):
            (temporary / "a" if temporary.is_dir() else temporary).write_text("ha")
            os.kill(os.getpid(), 9)

        {how}(Path({str(path)!r}), half)"""
    subprocess.run([sys.executable, "-c", script], check=False)


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
@pytest.mark.parametrize("how", ["save_atomically", "save_folder"])
def test_what_a_killed_process_left_is_cleared_by_the_next_and_what_a_live_one_writes_is_not(tmp_path, how):
    killed_while_saving(how, tmp_path / "a")
    assert len(list(tmp_path.iterdir())) == 1
    alive = tmp_path / f"{HIDDEN}{os.getppid()}-b"
    alive.touch()
    save_json(tmp_path / "c", {})
    assert sorted(tmp_path.iterdir()) == [alive, tmp_path / "c"]


def test_any_name_is_refused_in_one_line_or_taken(tmp_path):
    with pytest.raises(InputError, match="File name too long; choose another --out"):
        output_folder(tmp_path / ("x" * 300))
    with pytest.raises(InputError, match=r"a\\x00b: embedded null byte; choose another --out"):
        output_folder("a\0b")
    with pytest.raises(InputError, match=r"cannot write .*: File name too long"):
        save_json(tmp_path / ("x" * 300), {})


def test_the_message_of_an_error_is_one_short_line_whatever_is_in_it():
    text = str(InputError("a\nb\0c\udce9 " + "x" * 10**6 + " use y"))
    assert text.startswith(r"a\nb\x00c\udce9 xx") and text.endswith("x use y") and len(text) < 610
