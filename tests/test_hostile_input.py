"""Whatever is in a CSV, a recipe or a command line gives a result or one InputError of one short line."""

from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sd.__main__ import parser as sd_parser
from sd.config import Config, configure, option
from sd.feedback.index import open_index
from toy.__main__ import parser as toy_parser
from toy.errors import InputError

bounded = settings(derandomize=True, database=None, deadline=None, max_examples=200)
words = st.text(max_size=20) | st.sampled_from(("x" * 300, "d/" * 3000, "\0", "a\nb", "..", "/", "a,b", '"'))
numbers = (st.integers() | st.floats() | st.sampled_from((2**64, 10**400, "9" * 5000, "1e999"))).map(str)


def outcome(function, *arguments, **options):
    """What the function returns, or None for an InputError. Any other exception fails the test."""
    try:
        return function(*arguments, **options)
    except InputError as error:
        assert str(error).isprintable() and len(str(error)) < 700


HEADERS = (
    "file_name,caption,label",
    "file_path,caption,split",
    "file_name,caption,rating",
    "winner,loser,caption,winner_score,loser_score",
)
USUAL = {"file_name": "a.png", "file_path": "b.png", "winner": "a.png", "loser": "b.png", "label": "liked"}
USUAL |= {"caption": "a", "split": "intersections", "winner_score": "1", "loser_score": "0", "rating": "3"}


@st.composite
def csvs(draw):
    """Bytes of a CSV in which most cells are right."""
    columns = draw(st.sampled_from(HEADERS)).split(",")
    other = words | numbers | st.sampled_from(sorted(USUAL.values()))
    cells = [st.sampled_from((USUAL[column],) * 9 + (None,)) for column in columns]
    rows = draw(st.lists(st.tuples(*cells)))
    lines = [columns, *([draw(other) if cell is None else cell for cell in row] for row in rows)]
    return draw(st.sampled_from(("\n", "\r\n", "\n\n"))).join(map(",".join, lines)).encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(folder / name)
    return folder


@bounded
@given(content=csvs() | st.binary())
def test_any_csv_is_indexed_or_refused(folder, content):
    (folder / "feedback.csv").write_bytes(content)
    (folder / "index.sqlite").unlink(missing_ok=True)
    index = outcome(open_index, folder / "feedback.csv", folder)
    if index:
        assert {index.image(i).file for i in range(index.images)} <= {"a.png", "b.png"}


KEYS = st.sampled_from([f.name for f in fields(Config)]) | words
PLACES = {"model": "m", "data": "d", "out": "o"}
TOML = numbers | words.map('"{}"'.format) | st.sampled_from(("true", "[]", "['a']", "{}", "[" * 3000))
recipes = st.lists(st.tuples(KEYS, TOML).map(" = ".join), max_size=3).map(lambda t: "\n".join(t).encode())


@bounded
@given(content=recipes | st.binary())
def test_any_recipe_is_a_config_or_refused(folder, content):
    (folder / "recipe.toml").write_bytes(content)
    config = outcome(configure, str(folder / "recipe.toml"), **PLACES)
    assert config is None or config.run.beta < 1e9


@bounded
@given(data=st.data())
@pytest.mark.parametrize("parser", [toy_parser(), sd_parser()], ids=lambda parser: parser.prog)
def test_any_command_line_is_read_or_refused(parser, data):
    choices = parser._subparsers._group_actions[0].choices
    name = data.draw(st.sampled_from(sorted(choices)))
    options = st.sampled_from(sorted({*choices[name]._option_string_actions} - {"-h", "--help"}))
    anything = words.filter(lambda text: not text.startswith("-h")) | numbers
    command = [name, *data.draw(st.lists(options | anything, max_size=8))]
    read = outcome(parser.parse_args, command)
    assert read is None or read.function


@bounded
@given(name=st.sampled_from([f.name for f in fields(Config)]), value=numbers | words)
def test_any_setting_is_taken_or_refused(name, value):
    read = outcome(sd_parser().parse_args, ["train", option(name), value])
    if read and name in vars(read):
        config = outcome(configure, **PLACES | {name: getattr(read, name)})
        assert config is None or (config.seed < 2**32 and config.lr <= 10 and config.batch <= 4096)
