"""The project around the code: one list of what it needs, and imports that run one way."""

import ast
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
    assert names(sum(PROJECT["optional-dependencies"].values(), PROJECT["dependencies"])) <= pinned


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
    allowed = {"torch", "numpy", "matplotlib", "PIL", "sklearn", "scipy", "safetensors", "tqdm", "toy"}
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
