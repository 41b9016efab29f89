"""sd.config: a recipe file, overridden by options; what cannot be is refused in one line."""

import dataclasses
import tomllib

import pytest

from sd.__main__ import parser
from sd.config import RECIPES, Config, configure, option
from toy.errors import InputError
from toy.objectives import OBJECTIVES

PLACES = ["--model", "m", "--data", "d", "--out", "o"]


def read(arguments):
    """The settings of a command line of `sd train`."""
    options = vars(parser().parse_args(["train", *arguments]))
    return configure(**{k: v for k, v in options.items() if k not in ("function", "resumes", "first_line")})


def test_options_override_the_recipe_and_the_rest_is_default(tmp_path):
    (tmp_path / "mine.toml").write_text(
        'beta = 7\ngamma = 0.5\nmodel = "m"\ndata = "d"\nout = "o"\nflip = true\n'
    )
    config = read(
        [str(tmp_path / "mine.toml"), "--gamma", "0.9", "--no-flip", "--validation-prompts", "a", "b c"]
    )
    assert (config.beta, config.gamma, config.flip, config.seed) == (7.0, 0.9, False, 0)
    assert config.validation_prompts == ("a", "b c")


def test_every_setting_is_an_option_with_a_word_of_help(capsys):
    with pytest.raises(SystemExit):
        read(["--help"])
    output = capsys.readouterr().out
    text = " ".join(output.split())
    for f in dataclasses.fields(Config):
        assert option(f.name) in text and f.metadata["help"][:20] in text, f.name
        assert f"\n{f.metadata['group']}:\n" in output or not f.metadata["group"]


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_recipes_load_and_fit_on_a_screen(recipe):
    config = read([recipe.stem, *PLACES])
    assert config.objective in recipe.stem.replace("-", "_") or recipe.stem in (
        "tiny",
        "tiny-sd3",
        "tgo-sd15",
    )
    assert len(recipe.read_text().splitlines()) <= 40


@pytest.mark.parametrize(
    "recipe", [*RECIPES.glob("[!t]*-*.toml"), RECIPES / "tgo-sd15.toml"], ids=lambda path: path.stem
)
def test_every_value_of_a_recipe_says_where_it_is_from(recipe):
    lines = [line for line in recipe.read_text().splitlines() if line.partition(" = ")[1]]
    lines = [line for line in lines if not line.startswith(("#", "objective"))]
    assert len(lines) == len(tomllib.loads(recipe.read_text())) - 1 > 9
    for line in lines:
        assert line.partition("  # ")[2].startswith(("paper", "script", "ours")), line


@pytest.mark.parametrize(
    "settings, processes, expected",
    [
        ({"total_batch": 8, "accumulate": 1}, 1, (8, 1)),
        ({"total_batch": 8, "accumulate": 1}, 4, (2, 1)),
        ({"total_batch": 2048, "batch": 4}, 16, (4, 32)),
        ({"total_batch": 8, "batch": 4, "accumulate": 2}, 1, (4, 2)),
        ({"total_batch": 8}, 2, (4, 1)),
        ({"batch": 3}, 2, (3, 1)),
        ({}, 1, (2, 1)),
        ({"total_batch": 8, "batch": 3}, 1, None),
        ({"total_batch": 8, "accumulate": 1}, 16, None),
        ({"total_batch": 8, "batch": 4, "accumulate": 1}, 1, None),
    ],
)
def test_the_batch_of_a_process_follows_from_the_total_batch(settings, processes, expected):
    config = Config(model="m", data="d", out="o", **settings)
    if expected is None:
        with pytest.raises(
            InputError, match=r"--total-batch \d+ is not --batch \d+ x --accumulate \d+ x \d+ \(processes\)"
        ):
            config.shared_by(processes)
    else:
        shared = config.shared_by(processes)
        assert (shared.batch, shared.accumulate) == expected
        assert shared.total_batch == shared.batch * shared.accumulate * processes
        assert shared.shared_by(processes) == shared


def test_the_recipe_of_the_paper_says_what_the_paper_says():
    recipe = tomllib.loads((RECIPES / "diffusion-kto-sd15.toml").read_text())
    paper = {"beta": 5000, "gamma": 0.8, "lr": 1e-7, "warmup": 1000, "steps": 10000, "prompt_dropout": 0.2}
    paper["total_batch"] = 8
    assert {k: recipe[k] for k in paper} == paper and recipe["utility"] == "kahneman_tversky"


def test_the_recipe_of_tgo_has_its_labels_weights_and_loss():
    recipe = read(["tgo-sd15", *PLACES])
    assert (recipe.threshold, recipe.rating_weight, recipe.reference_point) == ("median", 5.0, "none")
    assert recipe.objective == "diffusion_kto" and recipe.utility == "loss_averse"


def test_the_help_names_every_objective():
    about = Config.__dataclass_fields__["objective"].metadata["help"]
    assert about.replace(" or ", ", ").split(", ") == list(OBJECTIVES)


def test_sft_draws_desirable_examples_only():
    assert read([*PLACES, "--objective", "sft"]).run.gamma == 1.0
    assert read([*PLACES, "--objective", "csft"]).run.gamma == 0.8
    assert read([*PLACES, "--objective", "smpo"]).pairs


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--bta", "3"], "unrecognized arguments: --bta"),
        (["--beta", "much"], "--beta"),
        (["--beta", "-1"], "--beta must be between 0 and 99999999, not -1.0"),
        (["--objective", "ppo"], "unknown objective 'ppo'"),
        (["--utility", "nothing"], "unknown utility"),
        (["--utility", "missing.py:u"], "no file missing.py"),
        (["--tune", "lora", "--lora-rank", "0"], "--lora-rank must be between 1 and 4096, not 0"),
        (["--lora-rank", "1000000000"], "--lora-rank must be between 1 and 4096"),
        (["--resolution", "1000000000000"], "--resolution must be between 0 and 16384"),
        (["--batch", "100000000000"], "--batch must be between 0 and 4096"),
        (["--seed", str(2**128)], "--seed must be between 0 and 4294967295"),
        (["--steps", "9" * 400], "--steps must be between 1 and 99999999, not 999"),
        (["--steps", "9" * 5000], "argument --steps: invalid int value: '999"),
        (["--crop", "random"], "random crops cannot be encoded in advance"),
        (["--intersections", "maybe"], "use one of liked, disliked, left_out"),
        (["--threshold", "mean"], "--threshold must be median or a number, not 'mean'"),
        (["--threshold", "nan"], "--threshold must be median or a number, not 'nan'"),
        (["--rating-weight", "-1"], "--rating-weight must be between 0 and"),
        (["--prompt-dropout", "2"], "--prompt-dropout must be between 0 and 1, not 2.0"),
        (["--validate-every", "5"], "--validate-every needs --validation-prompts"),
        (["--step", "4"], "unrecognized arguments: --step"),
        (["--ema", "1"], "--ema must be between 0 and 0.999999, not 1.0"),
        (["--weight-desirable", "-1"], "--weight-desirable must be between 0 and"),
        (["--weight-undesirable", "inf"], "--weight-undesirable must be between 0 and 99999999, not inf"),
        (
            ["--objective", "csft", "--utility", "linear"],
            "--utility is for objectives that have one; csft has none",
        ),
        (["--clip", "0"], "--clip must be between 1e-09 and"),
        (["--clip", "nan"], "--clip must be between 1e-09 and"),
        (["--weight-decay", "inf"], "--weight-decay must be between 0 and 100, not inf"),
        (["--lr", "0"], "--lr must be between 1e-12 and 10"),
        (["--data", "a\0b"], r"--data has a zero byte in 'a\x00b'"),
        (["nowhere"], "no recipe"),
    ],
)
def test_a_wrong_setting_is_named(arguments, words):
    with pytest.raises(InputError, match=None) as error:
        read([*PLACES, *arguments] if arguments[0] != "nowhere" else [*arguments, *PLACES])
    assert words in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 700


@pytest.mark.parametrize(
    "text, words",
    [
        ("betta = 3", "unknown setting 'betta'"),
        ("beta = 'x'", "beta must be float, not str"),
        ("beta", "Expected '='"),
        ("model = 'caf\xe9'", "can't decode byte 0xe9"),
        (f"beta = {'9' * 5000}", "Exceeds the limit"),
        (f"beta = 0x{'f' * 5000}", "beta must be float, not int"),
        (f"validation_prompts = [0x{'f' * 5000}]", "validation_prompts must be a list of texts"),
        (f"beta = {'[' * 5000}", "recursion"),
        (f"beta = 1{' ' * 2**20}", "larger than a megabyte"),
        ("lr = inf", "--lr must be between 1e-12 and 10, not inf"),
    ],
    ids=lambda text: text[:20],
)
def test_a_wrong_recipe_names_the_file(text, words, tmp_path):
    (tmp_path / "bad.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError) as error:
        read([str(tmp_path / "bad.toml"), *PLACES])
    assert words in str(error.value) and ("bad.toml" in str(error.value) or words.startswith("--"))


def test_a_folder_is_no_recipe_and_a_byte_order_mark_does_no_harm(tmp_path):
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(InputError, match=r"folder\.toml: .*Is a directory"):
        read([str(tmp_path / "folder.toml"), *PLACES])
    (tmp_path / "mark.toml").write_text("beta = 2", "utf-8-sig")
    assert read([str(tmp_path / "mark.toml"), *PLACES]).beta == 2.0


def test_an_option_that_the_objective_does_not_read_is_noted_and_a_recipes_setting_is_not(capsys):
    read(["tiny", "--objective", "sft", "--gamma", "0.5"])
    assert capsys.readouterr().out == "note: --gamma changes nothing, since sft does not read it\n"
    read(["tiny", "--objective", "sft", "--rating-weight", "5"])
    assert capsys.readouterr().out.startswith("note: --rating-weight changes nothing, since sft does not")
    read(["tiny", "--objective", "smpo", "--beta", "3", "--inversion-steps", "2", "--gamma", "0.8"])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("missing", ["model", "data", "out"])
def test_what_must_be_given_is_asked_for(missing):
    places = {"--model": "m", "--data": "d", "--out": "o"}
    del places[f"--{missing}"]
    with pytest.raises(InputError, match=f"--{missing} is missing"):
        read([word for pair in places.items() for word in pair])
