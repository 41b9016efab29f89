"""sd.feedback.index and table: rows of a CSV, checked and indexed on disk."""

import os
from multiprocessing.reduction import ForkingPickler

import pytest
import torch

from sd.feedback import index as data
from toy.data import graded
from toy.errors import InputError

HEADER = "file_name,caption,label"


def test_desirable_images_come_first_and_keep_what_their_row_says(example, tmp_path):
    index = example(
        tmp_path, HEADER, "a.png,a dog,disliked", "b.png,a cat,liked", "c.png,a dog,1", "d.png,,false"
    )
    assert (index.images, index.liked, index.captions) == (4, 2, 3)
    rows = [index.image(i) for i in range(4)]
    assert [r.file for r in rows] == ["b.png", "c.png", "a.png", "d.png"]
    assert [r.desirable for r in rows] == [1, 1, 0, 0] and [r.line for r in rows] == [3, 4, 2, 5]
    assert [index.caption(r.caption) for r in rows] == ["a cat", "a dog", "a dog", ""]
    assert rows[3].caption == 0 and index.caption(0) == ""  # the empty caption has a number of its own


@pytest.mark.parametrize("policy, liked, images", [("liked", 2, 3), ("disliked", 1, 3), ("left_out", 1, 2)])
def test_the_authors_split_and_its_three_policies(example, tmp_path, policy, liked, images):
    rows = [
        "file_path,caption,split",
        "a.png,x,exclusive_win",
        "b.png,x,intersections",
        "c.png,x,exclusive_lose",
    ]
    index = example(tmp_path, *rows, intersections=policy)
    assert (index.liked, index.images) == (liked, images)


@pytest.mark.parametrize("threshold", [None, 2.5, -7.0])
@pytest.mark.parametrize("ratings", [[3, 0.1, 5, 4, 4, 2.5], [0.1, 0.7, 0.2], [-1, 1e9, 3, 0.3], [1, 2]])
def test_ratings_are_labelled_and_weighed_as_in_the_toy(example, tmp_path, ratings, threshold):
    rows = [f"{letter}.png,x,{rating}" for letter, rating in zip("abcdef", ratings, strict=False)]
    index = example(tmp_path, "file_name,caption,rating", *rows, threshold=str(threshold or "median"))
    desirable, weight = graded(torch.tensor(ratings, dtype=torch.float64), threshold, c=2.0)
    images = sorted((index.image(i) for i in range(index.images)), key=lambda row: row.line)
    assert [bool(image.desirable) for image in images] == desirable.tolist()
    assert index.liked == desirable.sum() and index.image(0).desirable == desirable.any()
    weights = [graded(image.score, index.threshold, c=2.0)[1] for image in images]
    assert weights == pytest.approx(weight.tolist(), rel=1e-12)


def test_another_threshold_makes_another_index(example, tmp_path, capsys):
    rows = ["file_name,caption,rating", "a.png,x,1", "b.png,x,2", "c.png,x,3"]
    assert example(tmp_path, *rows).liked == 2
    csv = tmp_path / "feedback.csv"
    assert data.open_index(csv, tmp_path, threshold="2.5").liked == 1
    assert "--threshold has changed: indexing it again" in capsys.readouterr().out


def test_pairs_are_neighbours_and_scores_are_normalised_over_all(example, tmp_path):
    header = "winner,loser,caption,winner_score,loser_score"
    index = example(tmp_path, header, "a.png,b.png,x,20,15", "c.png,d.png,y,25,20", name="pairs.csv")
    assert index.pairs and [index.image(i).file for i in range(4)] == ["a.png", "b.png", "c.png", "d.png"]
    assert [index.image(i).desirable for i in range(4)] == [1, 0, 1, 0]
    assert [index.normalised(index.image(i).score) for i in range(4)] == [0.5, 0.0, 1.0, 0.5]


def test_an_index_is_kept_and_made_anew_when_the_csv_or_the_policy_changes(example, tmp_path, capsys):
    rows = [HEADER, "a.png,x,liked", "b.png,x,disliked"]
    first = example(tmp_path, *rows)
    inode = first.path.stat().st_ino
    csv = tmp_path / "feedback.csv"
    assert data.open_index(csv, tmp_path).path.stat().st_ino == inode
    csv.write_text(csv.read_text() + "c.png,x,liked\n")
    assert data.open_index(csv, tmp_path).images == 3
    assert "changed: indexing it again" in capsys.readouterr().out


def test_an_index_travels_to_another_process(example, tmp_path):
    index = example(tmp_path, HEADER, "a.png,x,liked", "b.png,x,disliked")
    index.image(0)
    assert ForkingPickler.loads(ForkingPickler.dumps(index)).image(1).file == "b.png"


def test_rows_of_nothing_but_commas_are_passed_over(example, tmp_path):
    assert example(tmp_path, HEADER, "a.png,x,liked", ",,", "b.png,x,disliked", ",,").images == 2


def test_commas_quotes_newlines_and_a_byte_order_mark_are_read(example, tmp_path):
    index = example(
        tmp_path, "\ufefffile_name,caption,label", 'a.png,"one, ""two""\nthree",liked', "b.png,x,disliked"
    )
    assert index.caption(index.image(0).caption) == 'one, "two"\nthree'
    assert index.image(1).line == 4


@pytest.mark.parametrize(
    "rows, words",
    [
        (["file_name,caption", "a.png,x"], "no column label or split or rating; its columns: file_name"),
        (["image,caption,label", "a.png,x,1"], "no column file_name or file_path"),
        (
            [HEADER, "a.png,x,liked", "b.png,x,good"],
            "row 3: unknown label 'good': use one of liked, disliked",
        ),
        ([HEADER, "a.png,x,liked", "z.png,x,disliked"], "row 3: no image 'z.png'"),
        ([HEADER, "../a.png,x,liked"], "row 2: image '../a.png' must lie in"),
        ([HEADER, "/etc/passwd,x,liked"], "row 2: image '/etc/passwd' must lie in"),
        ([HEADER, "link.png,x,liked"], "row 2: image 'link.png' must lie in"),
        ([HEADER, "a.png,x,liked", "b.png,x"], "row 3: has fewer fields than the header"),
        ([HEADER, "a.png,x,liked,y"], "row 2: has more fields than the header"),
        ([HEADER, "a\0.png,x,liked"], "row 2: has a zero byte; save the CSV as UTF-8"),
        ([HEADER, "x" * 300 + ".png,x,liked"], "row 2: no image 'xxx"),
        ([HEADER, "d/" * 3000 + "a.png,x,liked"], "row 2: no image 'd/d/"),
        ([HEADER, "a.png," + "x" * 140000 + ",liked"], "row 2: field larger than field limit"),
        ([], "has no column file_name or file_path or winner; its columns: none"),
        (["file_name,caption,label, label", "a.png,x,liked,liked"], "has 2 columns of the name 'label'"),
        (
            ["file_name,caption,label,split", "a.png,x,liked,exclusive_win"],
            "label and split, which may differ",
        ),
        (
            ["file_name,caption,rating,label", "a.png,x,5,liked"],
            "has the columns label and rating, which may differ: keep one",
        ),
        (
            ["file_name,caption,rating", "a.png,x,5", "b.png,x,"],
            "row 3: rating '' is not a number below 1e30",
        ),
        (["file_name,caption,rating", "a.png,x,nan"], "row 2: rating 'nan' is not a number below 1e30"),
        (["file_name,caption,rating", "a.png,x,-inf"], "row 2: rating '-inf' is not a number below 1e30"),
        (
            ["win,lose,caption", "a.png,b.png,x"],
            "no column file_name or file_path or winner; its columns: win",
        ),
        (["winner,loser,caption", "a.png,./a.png,x"], "row 2: image 'a.png' is both winner and loser"),
        (["winner,loser,caption", "a.png,inside.png,x"], "row 2: image 'a.png' is both winner and loser"),
        (["file_name,caption,split", "a.png,x,win"], "unknown split 'win': use one of exclusive_win"),
        (["winner,loser,caption"], "has no pairs"),
        (["winner,loser,caption", "a.png,a.png,x"], "row 2: image 'a.png' is both winner and loser"),
        (["file_name;caption;label", "a.png;x;liked"], "separate columns by commas"),
        ([HEADER, "a.png,x,liked", 'b.png,"x,liked'], "row 3: "),
        (["winner,worse,caption"], "has no column loser; its columns: winner, worse, caption"),
        (
            ["winner,loser,caption,winner_score,loser_score", "a.png,b.png,x,1,high"],
            "loser_score 'high' is not a number below 1e30",
        ),
        (
            ["winner,loser,caption,winner_score,loser_score", "a.png,b.png,x,1e308,-1e308"],
            "winner_score '1e308' is not a number below 1e30",
        ),
    ],
)
def test_a_bad_row_is_named(example, tmp_path, rows, words):
    outside = tmp_path.parent / "outside.png"
    outside.touch()
    os.symlink(outside, tmp_path / "link.png")
    os.symlink("a.png", tmp_path / "inside.png")
    with pytest.raises(InputError) as error:
        example(tmp_path, *rows)
    assert words in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 700
    assert not (tmp_path / "index.sqlite").exists()


def test_text_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "feedback.csv").write_bytes(b"file_name,caption,label\na.png,caf\xe9,liked\n")
    with pytest.raises(InputError, match="row 2: not UTF-8"):
        data.open_index(tmp_path / "feedback.csv", tmp_path)


def test_where_the_csv_is_looked_for(tmp_path):
    with pytest.raises(InputError, match=r"no folder or CSV file .*nowhere"):
        data.find_csv(str(tmp_path / "nowhere"), False)
    with pytest.raises(InputError, match="no folder or CSV file"):
        data.find_csv("x" * 300, False)
    with pytest.raises(InputError, match=r"no feedback\.csv in"):
        data.find_csv(str(tmp_path), False)
    (tmp_path / "feedback.csv").touch()
    assert data.find_csv(str(tmp_path), False).name == "feedback.csv"
    with pytest.raises(
        InputError, match=r"no pairs\.csv in .*it has feedback\.csv, for objectives on likes and dislikes"
    ):
        data.find_csv(str(tmp_path), True)
