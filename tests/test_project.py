"""The project around the code: one list of needs, told the same everywhere; figures with numbers."""

import ast
import json
import re
import sys
import tomllib
from pathlib import Path

from toy.objectives import OBJECTIVES

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def names(requirements):
    return {re.match(r"[A-Za-z0-9_.-]+", r).group().lower() for r in requirements}


def test_everything_the_tests_install_is_pinned():
    pinned = names(line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    extras = PROJECT["optional-dependencies"]
    assert names(PROJECT["dependencies"] + extras["sd"] + extras["notebooks"] + extras["dev"]) <= pinned


def test_conda_installs_the_same_project():
    text = (ROOT / "environment.yml").read_text()
    assert f"python{PROJECT['requires-python']}" in text
    extras = re.search(r"--editable \.\[(.*)\]", text).group(1).split(",")
    assert set(extras) <= set(PROJECT["optional-dependencies"]) and "dev" in extras
    assert "--constraint constraints.txt" in text


def imports(file):
    """The modules that a file imports when it is imported itself: not those inside its functions."""
    found = []
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def modules(package):
    """{name: path} of every module of a package."""
    files = sorted((ROOT / package).rglob("*.py"))
    return {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in files}


def test_toy_imports_only_what_the_base_install_brings():
    allowed = {"torch", "numpy", "matplotlib", "sklearn", "scipy", "safetensors", "tqdm", "toy"}
    for file in (ROOT / "toy").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            roots = {name.split(".")[0] for name in names}
            assert roots <= allowed | set(sys.stdlib_module_names), file.name


def test_no_imports_run_in_a_circle():
    known = modules("toy") | modules("sd")
    arrows = {name: {m for m in imports(file) if m in known and m != name} for name, file in known.items()}
    done = set()
    while len(done) < len(arrows):
        ready = {name for name, needs in arrows.items() if name not in done and needs <= done | {"toy", "sd"}}
        assert ready, {name: needs - done for name, needs in arrows.items() if name not in done}
        done |= ready


def test_no_import_points_upwards():
    """From the bottom: method and tools; the laboratory. Training and feedback; the tiny world; judging."""
    method = ("losses", "utilities", "diffusion", "objectives")
    tools = ("errors", "files", "seeds", "cli")
    below = {f"toy.{name}": {f"toy.{m}" for m in (*method, *tools)} for name in (*method, *tools)}
    for name, file in modules("toy").items():
        inside = {m for m in imports(file) if m in modules("toy")} - {"toy"}
        assert inside <= below.get(name, inside), name
    for name, file in modules("sd").items():
        room = name.split(".")[1] if name.count(".") > 1 else "sd"
        higher = {
            "feedback": ("sd.tiny", "sd.judging"),
            "sd": ("sd.tiny", "sd.judging"),
            "tiny": ("sd.judging",),
        }
        assert not [m for m in imports(file) if m.startswith(higher.get(room, ("notebooks",)))], name


def test_sd_takes_losses_utilities_and_inversion_from_toy_and_defines_none():
    ours = {"reference_point", "invert", "add_noise", *OBJECTIVES}
    for name, file in modules("sd").items():
        functions = {n.name for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.FunctionDef)}
        assert not functions & ours and "logsigmoid" not in file.read_text(), name


def test_what_an_objective_needs_is_asked_of_the_table_and_not_of_its_name():
    for name, file in (modules("toy") | modules("sd")).items():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Compare):
                words = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}
                assert not words & set(OBJECTIVES), f"{name}, line {node.lineno}"


def test_every_command_of_the_readme_exists():
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make (\w+)`|^make (\w+)", readme, re.M):
        assert re.search(rf"^{''.join(target)}:", makefile, re.M), target
    from toy.__main__ import parser

    known = parser()._subparsers._group_actions[0].choices
    assert set(re.findall(r"python -m toy (\w+)", readme)) <= set(known)
    for module in re.findall(r"-m sd\.(\w+)", readme):
        assert (ROOT / "sd" / f"{module}.py").exists(), module
    for recipe in re.findall(r"-m sd\.train ([\w-]+)", readme):
        assert (ROOT / "sd" / "configs" / f"{recipe}.toml").exists(), recipe
    for file in re.findall(r"\((\w[\w/.]+)\)", (ROOT / "notebooks/README.md").read_text()):
        assert (ROOT / "notebooks" / file).exists(), file
    for picture in re.findall(r"\(((?:figures|toy|notebooks)/[^)]+)\)", readme):
        assert (ROOT / picture).exists(), picture


def test_the_readmes_example_runs(monkeypatch, tmp_path):
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S).group(1)
    monkeypatch.chdir(tmp_path)
    assert len([line for line in code.splitlines() if line.strip()]) <= 14
    exec(compile(code, "README.md", "exec"), {})
    assert list(tmp_path.glob("*.png"))


def test_the_committed_figure_rests_on_ten_seeds_and_its_claims_are_in_its_numbers():
    figure = json.loads((ROOT / "figures" / "figure6.json").read_text())
    by_name = {entry["name"]: entry for entry in figure["summary"]}
    assert {entry["seeds"] for entry in figure["summary"]} == {10}
    assert len(figure["rows"]) == 10 * len(by_name)
    best = by_name["kahneman_tversky"]
    for name in ("sft", "diffusion_dpo", "loss_averse", "risk_seeking_bounded"):
        other = by_name[name]
        assert best["balance"] - best["half_width"] > other["balance"] + other["half_width"]


def test_the_committed_sweep_shows_kahneman_tversky_ahead_over_a_factor_of_16_in_beta():
    sweep = json.loads((ROOT / "figures" / "sweep.json").read_text())["summary"]
    usual = [e for e in sweep if e["gamma"] == 0.8 and e["flipped"] == 0.0]
    for beta in (2.0, 4.0, 8.0, 16.0, 32.0):
        balance = {e["name"]: e["balance"] for e in usual if e["beta"] == beta or e["name"] == "sft"}
        for name in ("sft", "diffusion_dpo", "loss_averse", "risk_seeking_bounded"):
            assert balance["kahneman_tversky"] >= balance[name], (beta, name)


def test_the_committed_red_preference_rests_on_five_seeds_and_its_claims_are_in_its_numbers():
    summary = json.loads((ROOT / "figures" / "figure7.json").read_text())["summary"]
    assert {entry["seeds"] for entry in summary} == {5}
    at = {(entry["name"], entry["step"]): entry for entry in summary}
    end, start = at["kahneman_tversky", 90], at["kahneman_tversky", 0]
    assert end["met"] - end["met_half_width"] - start["met"] >= 0.06 and end["following"] >= 0.95
    assert at["sft", 90]["met"] - at["sft", 90]["met_half_width"] > end["met"] + end["met_half_width"]


def test_the_committed_study_rests_on_five_seeds_of_every_objective():
    study = json.loads((ROOT / "figures" / "study.json").read_text())
    assert {entry["seeds"] for entry in study["summary"]} == {5}
    assert {e["name"] for e in study["summary"]} == {"pretrained", *study["settings"]["objectives"]}
    assert len(study["summary"]) == 8 and len(study["rows"]) == 5 * 8 * 2


def test_the_readmes_numbers_are_the_figures():
    summary = []
    for file in (ROOT / "figures").glob("*.json"):
        summary += json.loads(file.read_text())["summary"]
    means = {"balance": "half_width", "met": "met_half_width", "following": "following_half_width"}
    means["win_met"] = "win_met_half_width"
    known = {(f"{e[k]:.3f}", f"{e[h]:.3f}") for e in summary for k, h in means.items() if k in e}
    claimed = re.findall(r"(\d\.\d{3}) ± (\d\.\d{3})", (ROOT / "README.md").read_text())
    assert len(claimed) >= 15 and set(claimed) <= known
