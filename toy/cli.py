"""The command line that toy and sd share: python -m PACKAGE COMMAND.

A command names its function as "module:function". The module is imported after the arguments are
read, so that --help and the first line do not wait for PyTorch.
"""

import argparse
import ctypes
import gc
import importlib
import os
import sqlite3
import sys
import time

from toy.errors import InputError


class Parser(argparse.ArgumentParser):
    """A parser whose errors are InputErrors."""

    def error(self, message: str):
        raise InputError(f"{message} (see {self.prog} --help)")


def number(low: float, high: float, kind=float):
    """An argument type: a number above low, up to high."""

    def parse(text: str):
        value = kind(text)
        if not low < value <= high:
            raise argparse.ArgumentTypeError(f"{text} is out of range: above {low}, up to {high}")
        return value

    parse.__name__ = "number"
    return parse


def add_command(commands, name: str, function: str, about: str, resumes: bool = False, **options) -> Parser:
    """Add a command. Its function takes the arguments by name and returns the files it wrote; `resumes`
    says whether the same command, run again, takes up an interrupted one."""
    parser = commands.add_parser(name, help=about, description=about, **options)
    parser.set_defaults(function=function, resumes=resumes, first_line=f"{parser.prog}: {about}")
    return parser


def run(parser: Parser, argv: list[str] | None = None) -> int:
    """Read the arguments, run the command, say what it wrote; the exit code, 2 for bad input."""
    start = time.perf_counter()
    suit_machine()
    os.environ["MPLBACKEND"] = "Agg"  # pictures go into files, also where there is no screen
    if hasattr(sys.stdout, "reconfigure"):  # where a letter cannot be shown, its code is
        sys.stdout.reconfigure(errors="backslashreplace")
    resumes = False
    try:
        for word in sys.argv[1:] if argv is None else argv:
            word.encode()  # fails if it is no text, as the name of a file may be
        options = vars(parser.parse_args(argv))
        resumes = options.pop("resumes")
        if is_main_process():
            print(options.pop("first_line"), flush=True)
        options.pop("first_line", None)
        for path in _load(options.pop("function"))(**options):
            print(f"wrote {path}")
    except InputError as error:
        return _fail(str(error))
    except UnicodeEncodeError as error:
        return _fail(f"'{error.object}' is not UTF-8 text: rename it")
    except (OSError, sqlite3.Error, KeyboardInterrupt) as error:
        what = f"{error}; when that is mended," if isinstance(error, Exception) else "interrupted;"
        return _fail(f"{what} run the same command again to {'resume' if resumes else 'start over'}")
    if is_main_process():
        print(f"done in {time.perf_counter() - start:.1f} s")
    return 0


def is_main_process() -> bool:
    """Whether this process speaks for all that a launcher started."""
    return os.environ.get("RANK", "0") == "0"


def suit_machine() -> None:
    """Two settings of GNU/Linux that suit small matrix products; elsewhere they do nothing. They are read
    when PyTorch is imported, so this comes first."""
    # threads that wait for each other by spinning crawl when any other program is busy (2 to 20 times)
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:  # returning freed memory to the system after each step, and faulting it in anew, costs a tenth
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(-1, 2**30)  # M_TRIM_THRESHOLD
    mallopt(-3, 2**25)  # M_MMAP_THRESHOLD


def _load(name: str):
    """The function "module:function". Its imports make a million lasting objects; keeping the garbage
    collector off them saves half a second, now and at exit."""
    module, _, function = name.partition(":")
    gc.disable()
    try:
        return getattr(importlib.import_module(module), function)
    finally:
        gc.freeze()
        gc.enable()


def _fail(message: str) -> int:
    print(f"error: {InputError(message)}", file=sys.stderr)
    return 2
