"""Marking: the exercises of many students, each run in a process of its own.

Of a student's notebook only what an exercise needs is run: the function itself, the statements that bind the
names it uses, and those that these use in turn. So nothing is trained, and a broken cell elsewhere does no
harm. The limits are for mistakes: they do not protect a machine from code that means harm.
"""

import ast
import json
import linecache
import multiprocessing
import os
import re
import symtable
import sys
import tempfile
from pathlib import Path

from tqdm import tqdm

from notebooks.checks import EXERCISES
from toy.errors import InputError
from toy.files import output_folder, save_csv

RIGHT, MISSING = "right", "missing"
LAYOUT = "it has one folder, or one notebook, for each student"
Statement = tuple[int, ast.stmt]  # with the number of its cell


def grade(folder: str, out: str, seconds: float, memory: float) -> list[Path]:
    """Write grades.csv: one row for each student, one column for each exercise, and how many are right."""
    students, target = find_students(Path(folder)), output_folder(out)
    # on Linux and macOS one process imports PyTorch, and every exercise runs in a fork of it
    context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    if os.name == "posix":
        context.set_forkserver_preload(["notebooks.grade", "scipy.special"])
    rows = []
    for student, paths in tqdm(students.items(), "students", unit="", leave=False):
        notebooks, unreadable = read_cells(paths)
        texts = [mark(context, notebooks, name, seconds, memory) for name in EXERCISES]
        if unreadable:
            texts = [f"{t} ({', '.join(unreadable)} cannot be read)" if t == MISSING else t for t in texts]
        rows.append([student, *texts, texts.count(RIGHT)])
    right = {name: sum(row[i] == RIGHT for row in rows) for i, name in enumerate(EXERCISES, 1)}
    hardest = min(right, key=right.get)
    print(f"{len(rows)} students, {sum(right.values())} of {len(rows) * len(right)} answers right;", end=" ")
    print(f"fewest in {hardest}: {right[hardest]} of {len(rows)}")
    return [save_csv(target / "grades.csv", ["student", *EXERCISES, "total"], rows)]


def find_students(folder: Path) -> dict[str, list[Path]]:
    """{student: notebooks}. A student is a folder, with notebooks at any depth, or a single notebook."""
    if not folder.is_dir():
        raise InputError(f"no folder {folder}; {LAYOUT}")
    students = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "__")):
            continue
        if path.is_dir():
            students[path.name] = [
                file for file in sorted(path.rglob("*.ipynb")) if ".ipynb_checkpoints" not in file.parts
            ]
        elif path.suffix == ".ipynb":
            students[path.stem] = [*students.get(path.stem, []), path]
    if not any(students.values()):
        raise InputError(f"no notebooks in {folder}; {LAYOUT}")
    return students


def read_cells(paths: list[Path]) -> tuple[list[list[str]], list[str]]:
    """The code cells of each notebook, without magics, and the names of files that are no notebook."""
    notebooks, unreadable = [], []
    for path in paths:
        try:
            cells = json.loads(path.read_text("utf-8"))["cells"]
            sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            unreadable.append(path.name)
        else:
            notebooks.append([re.sub(r"(?m)^([ \t]*)[%!].*$", r"\1pass", source) for source in sources])
    return notebooks, unreadable


def mark(context, notebooks: list[list[str]], name: str, seconds: float, memory: float) -> str:
    """What to say of an exercise. Of several copies a right one counts, else the last that has it."""
    texts = [MISSING]
    for cells in notebooks:
        if any(name in source for source in cells):
            text = run_apart(context, cells, name, seconds, memory)
            texts += [text] if text != MISSING else []
    return RIGHT if RIGHT in texts else texts[-1]


def run_apart(context, cells: list[str], name: str, seconds: float, memory: float) -> str:
    """The verdict on one exercise of one notebook, from a process of its own in a folder of its own."""
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = context.Process(target=_child, args=(sender, cells, name, memory, folder), daemon=True)
        process.start()
        sender.close()
        try:
            receiver.recv()  # it has started: where there are no forks, that takes a while
            return receiver.recv() if receiver.poll(seconds) else f"time limit: more than {seconds:g} s"
        except EOFError:
            process.join()
            return f"crash: its process ended with code {process.exitcode}"
        finally:
            process.kill()
            process.join()
            receiver.close()


def _child(sender, cells: list[str], name: str, memory: float, folder: str) -> None:
    sender.send("started")
    try:
        _isolate(folder, memory)
        text = verdict(cells, name)
    except MemoryError:
        text = f"memory limit: more than {memory:g} GB"
    except BaseException as error:  # also SystemExit
        text = f"it stops with {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    sender.send(text)


def _isolate(folder: str, memory: float) -> None:
    """Print into nothing, write files into a folder that is thrown away, and limit the memory."""
    os.chdir(folder)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    if sys.platform == "linux":
        import resource  # there is none on Windows

        resource.setrlimit(resource.RLIMIT_DATA, (int(memory * 1e9),) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def verdict(cells: list[str], name: str) -> str:
    """What the check says of the function `name` in a notebook's cells."""
    statements, broken = [], MISSING
    for number, source in enumerate(cells):
        try:
            statements += [(number, node) for node in ast.parse(source).body]
        except SyntaxError as error:
            if f"def {name}" in source:
                broken = f"its cell is not Python: {error.msg} in line {error.lineno}"
    namespace = {"__name__": "__main__"}
    places = needed(statements, name)
    for place in places:
        number, node = statements[place]
        file = f"<cell {number}>"
        linecache.cache[file] = (0, None, cells[number].splitlines(True), file)  # so that checks can quote it
        exec(compile(ast.Module([node], []), file, "exec"), namespace)
    if name not in namespace:
        return broken
    right, text = EXERCISES[name](namespace[name])
    if "MemoryError" in text or "can't allocate memory" in text:  # Python's words and PyTorch's
        raise MemoryError
    return RIGHT if right else text


def needed(statements: list[Statement], name: str) -> list[int]:
    """The places of the statements that the function `name` needs when its check is run, in their order."""
    tables = [symtable.symtable(ast.unparse(node), "cell", "exec") for _, node in statements]
    bound = [{s.get_name() for s in table.get_symbols() if _binds(s)} for table in tables]
    checked = [i for i, (_, node) in enumerate(statements) if f"checks.{name}(" in ast.unparse(node)]
    chosen = {
        i for i, (_, n) in enumerate(statements) if isinstance(n, ast.ImportFrom) and n.names[0].name == "*"
    }

    def bring(name: str, end: int) -> None:
        """Choose what binds a name for a reader at `end`: the last statement before, else the first after."""
        where = [i for i, names in enumerate(bound) if name in names]
        before = [i for i in where if i < end]
        if not where or (place := before[-1] if before else where[0]) in chosen:
            return
        chosen.add(place)
        later = isinstance(statements[place][1], ast.FunctionDef)  # its names are looked up when it is called
        for other in _uses(tables[place]):
            bring(other, end if later else place)

    bring(name, checked[-1] if checked else len(statements))
    return sorted(chosen)


def _binds(symbol: symtable.Symbol) -> bool:
    return symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace()


def _uses(table: symtable.SymbolTable, top: bool = True) -> set[str]:
    """The global names that a statement reads, in its functions too."""
    own = {s.get_name() for s in table.get_symbols() if s.is_referenced() and (top or s.is_global())}
    return own.union(*(_uses(child, False) for child in table.get_children()))
