"""sd.feedback.prepare: Pick-a-Pic's comparisons become images, pairs.csv and feedback.csv."""

import csv
import io

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from sd.__main__ import main
from sd.feedback import prepare
from sd.feedback.index import open_index
from toy.errors import InputError


def jpeg(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def comparison(first, second, label, caption="a cat", **changes):
    row = {
        "caption": caption,
        "jpg_0": jpeg(first),
        "jpg_1": jpeg(second),
        "image_0_uid": first,
        "image_1_uid": second,
    }
    return row | {"label_0": label, "label_1": 1 - label, "has_label": True, "user_id": 1} | changes


COMPARISONS = [
    comparison("red", "blue", 1.0),
    comparison("blue", "green", 1.0),  # blue has lost and won
    comparison("green", "pink", 0.5),
    comparison("red", "pink", 0.5),  # red has won and never lost
    comparison("red", "blue", 0.0, has_label=False),
    comparison("red", "gray", 0.0, jpg_1=None),
    comparison("tan", "red", 0.0, caption='said "so",\nthey say'),
]


def rows(path):
    return list(csv.DictReader(io.StringIO(path.read_text())))


def write(path, comparisons=COMPARISONS):
    path.parent.mkdir(exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(comparisons), path)
    return path


def test_comparisons_become_pairs_and_each_image_one_row(tmp_path, capsys):
    write(tmp_path / "source/train-0.parquet")
    out = tmp_path / "out"
    out.mkdir()
    prepare.prepare(str(tmp_path / "source"), out)
    text = (
        "3 pairs; left out 2 ties, 2 comparisons without label or image, and 1 images that were only in ties"
    )
    assert text in capsys.readouterr().out
    pairs = [(p["winner"][10:-4], p["loser"][10:-4], p["caption"]) for p in rows(out / "pairs.csv")]
    assert pairs == [
        ("red", "blue", "a cat"),
        ("blue", "green", "a cat"),
        ("red", "tan", 'said "so",\nthey say'),
    ]
    split = {r["file_name"][10:-4]: r["split"] for r in rows(out / "feedback.csv")}
    assert split == {
        "red": "exclusive_win",  # ties do not count against it
        "blue": "intersections",
        "green": "exclusive_lose",
        "tan": "exclusive_lose",
    }  # pink was in ties only, and is neither liked nor disliked
    assert (out / "images/re/red.jpg").read_bytes() == COMPARISONS[0]["jpg_0"]


def test_the_result_is_what_training_reads(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    odd = [comparison("red", "tan", 1.0, caption=caption) for caption in ("a\0b", None)]
    prepare.prepare(str(write(tmp_path / "a.parquet", COMPARISONS + odd)), out)
    feedback = open_index(out / "feedback.csv", tmp_path)
    assert (feedback.liked, feedback.images) == (2, 4)
    (tmp_path / "pairs").mkdir()
    assert open_index(out / "pairs.csv", tmp_path / "pairs").images == 10


def test_a_saved_dataset_gives_the_same(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    datasets.Dataset.from_list(COMPARISONS).save_to_disk(tmp_path / "saved")
    write(tmp_path / "source/a.parquet")
    for name in ("saved", "source"):
        (tmp_path / f"{name}-out").mkdir()
        prepare.prepare(str(tmp_path / name), tmp_path / f"{name}-out")
    for file in ("pairs.csv", "feedback.csv"):
        assert (tmp_path / "saved-out" / file).read_text() == (tmp_path / "source-out" / file).read_text()


SPLITS = ("train", "validation", "test", "validation_unique", "test_unique")


@pytest.mark.parametrize("layout", ["data/{}-00000-of-00001-ab12.parquet", "{}/data-00000-of-00001.arrow"])
def test_only_the_files_of_the_split_are_taken(tmp_path, layout):
    files = [tmp_path / layout.format(split) for split in SPLITS]
    for file in [*files, tmp_path / "readme.parquet"]:
        file.parent.mkdir(exist_ok=True)
        file.touch()
    for split, file in zip(SPLITS, files, strict=True):
        assert prepare.find(tmp_path, split) == [file]
    files[0].unlink()
    others = "test, test_unique, validation, validation_unique"
    with pytest.raises(InputError, match=f"has no split train, but {others}: choose one by --split"):
        prepare.find(tmp_path, "train")
    assert prepare.find(files[2], "train") == [files[2]]  # a file is taken as it is, and so is a folder
    for file in files[1:]:
        file.unlink()
    assert prepare.find(tmp_path, "train") == [tmp_path / "readme.parquet"]


def test_a_result_keeps_to_its_split(tmp_path, capsys):
    for split in ("train", "test"):
        write(tmp_path / f"source/{split}-0.parquet")
    command = ["prepare", str(tmp_path / "source"), "--out", str(tmp_path / "out")]
    assert main(command) == 0 and main(command) == 0
    assert capsys.readouterr().out.count("\n3 pairs; ") == 2
    before = (tmp_path / "out/pairs.csv").read_bytes()
    assert main([*command, "--split", "test"]) == 2
    assert "out has the split train; choose another --out for test" in capsys.readouterr().err
    assert (tmp_path / "out/pairs.csv").read_bytes() == before


def test_a_file_that_is_a_link_is_read_by_its_own_name(tmp_path, capsys):
    """In the cache of huggingface_hub, names are links to files without suffix."""
    write(tmp_path / "blob")
    (tmp_path / "train.parquet").symlink_to(tmp_path / "blob")
    prepare.prepare(str(tmp_path / "train.parquet"), tmp_path / "out")
    assert "3 pairs" in capsys.readouterr().out


def test_interrupted_it_goes_on_and_counts_nothing_twice(tmp_path, monkeypatch, capsys):
    write(tmp_path / "source/0.parquet")
    write(tmp_path / "source/1.parquet", [comparison("blue", "red", 1.0)])
    out = tmp_path / "out"
    out.mkdir()
    take, calls = prepare._take, []

    def stop(*arguments):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return take(*arguments)

    monkeypatch.setattr(prepare, "_take", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare.prepare(str(tmp_path / "source"), out)
    assert not (out / "pairs.csv").exists()
    prepare.prepare(str(tmp_path / "source"), out)
    assert "4 pairs;" in capsys.readouterr().out
    assert len(calls) == 9  # the first file was not taken again
    monkeypatch.chdir(tmp_path)
    prepare.prepare("source", out)  # by another name
    assert "4 pairs;" in capsys.readouterr().out and len(rows(out / "pairs.csv")) == 4
    split = {r["file_name"][10:-4]: r["split"] for r in rows(out / "feedback.csv")}
    assert split["red"] == "intersections"


def test_names_that_would_leave_the_folder_are_not_used(tmp_path, capsys):
    unsafe = [comparison("red", "blue", 1.0, image_0_uid=uid) for uid in ("../../evil", "", "evil\0", "blue")]
    write(tmp_path / "a.parquet", unsafe)
    (tmp_path / "out").mkdir()
    prepare.prepare(str(tmp_path / "a.parquet"), tmp_path / "out")
    assert "4 comparisons without label or image" in capsys.readouterr().out
    assert not list(tmp_path.rglob("*evil*"))


def test_what_cannot_be_read_is_named(tmp_path, capsys):
    with pytest.raises(InputError, match="no parquet or arrow file in"):
        prepare.prepare(str(tmp_path), tmp_path)
    (tmp_path / "bad.parquet").write_bytes(b"not parquet")
    assert main(["prepare", str(tmp_path / "bad.parquet"), "--out", str(tmp_path / "o")]) == 2
    assert "bad.parquet cannot be read" in capsys.readouterr().err
    write(tmp_path / "less.parquet", [{"caption": "x"}])
    with pytest.raises(InputError, match=r"less\.parquet has no column jpg_0, jpg_1"):
        prepare.prepare(str(tmp_path / "less.parquet"), tmp_path)
    numbers = write(tmp_path / "odd.parquet", [comparison("red", "blue", 1.0, image_0_uid=1, jpg_1="x")])
    prepare.prepare(str(numbers), tmp_path / "odd")
    assert "0 pairs; left out 0 ties, 1 comparisons without label or image" in capsys.readouterr().out
    raw = pa.Table.from_pylist([comparison("red", "blue", 1.0, caption=b"caf\xe9")])
    cast = raw["caption"].combine_chunks().view(pa.string())
    parquet.write_table(raw.set_column(0, "caption", cast), tmp_path / "latin.parquet")
    with pytest.raises(InputError, match=r"latin\.parquet cannot be read: .*UTF8"):
        prepare.prepare(str(tmp_path / "latin.parquet"), tmp_path / "latin")
