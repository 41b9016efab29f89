"""What a utility has to be: a value and a slope for every example alone."""

import math
import re
import time
from pathlib import Path

import pytest
import torch

from toy.__main__ import main
from toy.errors import InputError
from toy.objectives import Run
from toy.train import align, last
from toy.utilities import UTILITIES, check_utility, load_utility, slope

X = torch.linspace(-5, 5, 101, dtype=torch.float64)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


FORMULAS = {
    "kahneman_tversky": sigmoid,
    "loss_averse": lambda x: math.log(sigmoid(x)),
    "risk_seeking": lambda x: -math.log(sigmoid(-x)),
    "risk_seeking_bounded": lambda x: -math.log(sigmoid(-x)),
    "linear": lambda x: x,
}
SLOPES = {
    "kahneman_tversky": lambda x: sigmoid(x) * (1 - sigmoid(x)),
    "loss_averse": lambda x: sigmoid(-x),
    "risk_seeking": sigmoid,
    "risk_seeking_bounded": sigmoid,
    "linear": lambda x: 1.0,
}


@pytest.mark.parametrize("name", FORMULAS)
def test_values_and_slopes_are_the_formulas(name):
    value = torch.tensor([FORMULAS[name](x) for x in X.tolist()], dtype=torch.float64)
    weight = torch.tensor([SLOPES[name](x) for x in X.tolist()], dtype=torch.float64)
    torch.testing.assert_close(UTILITIES[name](X), value, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(slope(UTILITIES[name], X), weight, rtol=1e-9, atol=1e-12)


def test_prospect_theory_is_the_1992_value_function_away_from_zero():
    x = torch.tensor([-200.0, -50.0, 50.0, 200.0], dtype=torch.float64)
    expected = torch.tensor([-2.25 * 200**0.88, -2.25 * 50**0.88, 50**0.88, 200**0.88], dtype=torch.float64)
    torch.testing.assert_close(UTILITIES["prospect_theory"](x), expected, rtol=2e-3, atol=0)
    weights = slope(UTILITIES["prospect_theory"], x)
    torch.testing.assert_close(weights[0] / weights[3], torch.tensor(2.25, dtype=torch.float64))


def test_prospect_theory_can_start_training():
    at_zero = slope(UTILITIES["prospect_theory"], torch.zeros(1))
    assert at_zero.item() == pytest.approx(0.88 * 0.01**-0.12)


def test_only_the_bounded_form_has_its_sign_outside():
    assert [n for n, u in UTILITIES.items() if getattr(u, "sign_outside", False)] == ["risk_seeking_bounded"]


@pytest.mark.parametrize("name", UTILITIES)
def test_every_built_in_utility_passes_its_own_check(name):
    assert check_utility(UTILITIES[name], name) == []


def test_slope_carries_no_graph_and_works_without_gradients():
    with torch.no_grad():
        assert not slope(UTILITIES["linear"], torch.ones(3)).requires_grad


WRONG = {
    "shape": ("return torch.sigmoid(x).mean()", "one value per example"),
    "number": ("return 1.0", "returns float, not a tensor"),
    "nan": ("return torch.sqrt(x)", "not finite at x = -50"),
    "overflow": ("return torch.exp(x**2)", "not finite"),
    "constant": ("return torch.ones(len(x))", "no gradient"),
    "detached": ("return torch.sigmoid(x).detach()", "no gradient"),
    "step": ("return (x > 0).float()", "no gradient"),
    "mixes": ("return torch.sigmoid(x - x.mean())", "mixes examples"),
    "raises": ("return torch.nope(x)", "fails on a tensor.*AttributeError"),
    "infinite_slope": ("return x.sign() * x.abs().sqrt()", "no finite slope"),
    "flat_at_zero": ("return x**3", "slope 0 at x = 0"),
    "complex": ("return torch.sigmoid(x) * 1j", "returns torch.complex64, not a tensor of floats"),
    "whole": ("return x > 0", "returns torch.bool, not a tensor of floats"),
    "leaves": ("raise SystemExit(3)", "fails on a tensor.*SystemExit: 3"),
    "two_lines": ("raise ValueError('one\\ntwo')", "ValueError: one$"),
    "in_place": ("x.data.mul_(2)\n    return torch.sigmoid(x)", "changes x itself: return a new tensor"),
    "random": ("return torch.sigmoid(x) * torch.rand(())", "other values the next time"),
    "stateful": ("seen.append(1)\n    return x * len(seen)\n\n\nseen = []", "other values the next time"),
    "counts": (
        "seen.append(1)\n    return x * (1 + len(seen) // 12)\n\n\nseen = []",
        "other values the next time",
    ),
    "remembers": (
        "seen.append(x.max().item())\n    return torch.tanh(x / max(seen))\n\n\nseen = []",
        "other values the next time",
    ),
    "places": ("return x * torch.arange(1, 1 + len(x))", "mixes examples"),
    "random_unseen": ("torch.rand(())\n    return torch.tanh(x)", "draws or seeds random numbers"),
    "seeds": ("torch.manual_seed(0)\n    return x * torch.rand(())", "draws or seeds random numbers"),
    "prints": ("print('x is\\n', x)\n    return torch.tanh(x)", "prints 'x is': take that out"),
    "gradient_only": ("return torch.autograd.grad(x.sum(), x)[0] * x", "fails on a tensor.*RuntimeError"),
    "two_shapes": ("return x[: 7 * (len(x) == 500) or None]", "fails on a tensor.*RuntimeError"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_users_wrong_utility_is_refused_in_one_line(tmp_path, case):
    body, message = WRONG[case]
    file = tmp_path / "mine.py"
    file.write_text(f"import torch\n\n\ndef mine(x):\n    {body}\n")
    with pytest.raises(InputError, match=message) as caught:
        load_utility(f"{file}:mine")
    assert "\n" not in str(caught.value)


def test_a_users_utility_is_taken_where_a_built_in_name_is(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("import torch\n\n\ndef mine(x):\n    return torch.tanh(x)\n")
    torch.testing.assert_close(load_utility(f"{file}:mine")(X), torch.tanh(X))
    assert load_utility("linear") is UTILITIES["linear"]


DATACLASS = """from __future__ import annotations
from dataclasses import dataclass
import torch

@dataclass
class Bend:
    slope: float = 1.0

    def __call__(self, x):
        assert x.ndim == 1
        return torch.tanh(self.slope * x)

mine = Bend()
"""


def test_a_utility_may_be_an_object_that_cannot_be_hashed_and_takes_one_axis_only(
    tmp_path, pretrained, points
):
    (tmp_path / "mine.py").write_text(DATACLASS)
    mine = load_utility(f"{tmp_path}/mine.py:mine")
    runs = [Run(utility=u, beta=beta) for u in (mine, torch.tanh) for beta in (2.0, 4.0)]
    loss = last(align(pretrained, points, runs, steps=2, batch=8)).loss
    assert torch.equal(loss[:2], loss[2:])


def test_a_utility_that_is_infinite_far_away_is_warned_about():
    [warning] = check_utility(lambda x: 1 - torch.exp(-x), "steep")
    assert warning == "steep is not finite at x = -1000 or 1000: a run that gets there is stopped"


def test_a_utility_whose_slope_breaks_far_away_is_warned_about_too():
    [warning] = check_utility(
        lambda x: torch.where(x > 80, x, torch.exp(x)), "hidden"
    )  # 0 * inf in the slope
    assert warning.startswith("hidden is not finite at x = -1000 or 1000")


def test_a_slow_utility_is_warned_about():
    def slow(x):
        time.sleep(0.05)
        return torch.tanh(x)

    [warning] = check_utility(slow, "mine")
    assert re.fullmatch(
        r"mine is \d+ times as slow as the sigmoid: it adds at least 0\.\d+ s to each step on 1000 examples",
        warning,
    )


@pytest.mark.parametrize(
    ("top", "body", "ending"),
    [
        ("raise KeyboardInterrupt", "return x", "interrupted; run the same command again to start over"),
        ("", "raise KeyboardInterrupt", "interrupted; run the same command again to start over"),
        ("print('hello')\nimport sys", "sys.exit()", "use torch functions only: SystemExit: "),
    ],
)
def test_a_file_that_interrupts_or_leaves_ends_the_command_in_one_line(tmp_path, capsys, top, body, ending):
    (tmp_path / "mine.py").write_text(f"{top}\n\n\ndef mine(x):\n    {body}\n")
    assert main(["try", f"{tmp_path}/mine.py:mine", "--out", str(tmp_path)]) == 2
    assert re.fullmatch(f"error: .*{ending}\n", capsys.readouterr().err)


def test_what_a_file_prints_when_it_is_imported_is_shown(tmp_path, capsys):
    (tmp_path / "mine.py").write_text("print('loading')\n\n\ndef mine(x):\n    return x\n")
    load_utility(f"{tmp_path}/mine.py:mine")
    assert capsys.readouterr().out == "loading\n"


MORE = Path(__file__).parent.parent / "docs" / "more_utilities.py"


@pytest.mark.parametrize("name", re.findall(r"^def (\w+)", MORE.read_text(), re.M))
def test_every_utility_of_the_docs_passes_and_its_sentence_says_its_slope(name):
    utility = load_utility(f"{MORE}:{name}")
    assert utility.__doc__.startswith("Slope ")
    warnings = check_utility(utility, name)
    assert ["pulls the wrong way" in warning for warning in warnings] == [True] * (name == "wave")


def test_the_slopes_that_the_docs_give_are_right():
    def slope_at(name, *places):
        return slope(load_utility(f"{MORE}:{name}"), torch.tensor(places, dtype=torch.float64)).tolist()

    assert slope_at("arctan", 0, 2) == pytest.approx([1, 0.2])
    assert slope_at("error_function", 0, 1) == pytest.approx([1.128, 1.128 / math.e], abs=1e-3)
    assert slope_at("clipped", 0, -1.9, 2.1) == [1, 1, 0]
    assert slope_at("huber", 0, 0.9, -4) == pytest.approx([1, 1, 0.25])
    assert slope_at("asymmetric", -9, 9) == [2, 1]
    assert slope_at("fearful_sigmoid", -1)[0] == pytest.approx(2 * slope_at("fearful_sigmoid", 1)[0])
    assert slope_at("exploding", 0, 2) == [1, 13]
    assert slope_at("wave", 0, math.pi) == pytest.approx([1.5, -0.5])
    assert slope_at("steep", 0, 0.3) == pytest.approx([10, 0.1], abs=0.02)
    assert slope_at("flat", 0, 9) == pytest.approx([0.004, 0.001], abs=1e-6)


def test_a_falling_utility_is_warned_about():
    warnings = check_utility(lambda x: torch.sin(x), "wave")
    assert len(warnings) == 1 and "pulls the wrong way" in warnings[0]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nope", "unknown utility 'nope'.*kahneman_tversky"),
        ("missing.py:mine", "no file missing.py"),
        ("{broken}:mine", "does not import: SyntaxError"),
        ("{leaves}:mine", "does not import: SystemExit: 0"),
        ("x" * 300 + ".py:mine", "no file xxx"),
        ("{fine}:nope", "has no function 'nope'; its functions: real"),
        ("{fine}:number", "has no function 'number'"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, spec, message):
    broken, fine, leaves = tmp_path / "broken.py", tmp_path / "fine.py", tmp_path / "leaves.py"
    leaves.write_text("import sys\n\nsys.exit(0)\n")
    broken.write_text("def mine(x:\n")
    fine.write_text("number = 3\n\n\ndef real(x):\n    return x\n")
    with pytest.raises(InputError, match=message):
        load_utility(spec.format(broken=broken, fine=fine, leaves=leaves))
