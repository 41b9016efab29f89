"""The laboratory's command line: python -m toy COMMAND. Everything runs on a CPU."""

import argparse
import ctypes
import os
import sys
import time
from pathlib import Path

from toy.errors import InputError

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "diffusion-kto"


class Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise InputError(f"{message} (see {self.prog} --help)")


def number(low: float, high: float, kind=float):
    """An argument type: a number above low, up to high."""

    def parse(text: str):
        value = kind(text)
        if not low < value <= high:
            raise argparse.ArgumentTypeError(f"{text} is out of range: above {low:g}, up to {high:g}")
        return value

    parse.__name__ = "number"
    return parse


def parser() -> Parser:
    top = Parser("python -m toy", description="What a utility function does to samples, in two dimensions.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, seeds: int | None = None) -> Parser:
        sub = commands.add_parser(name, help=text, description=text)
        if name != "bench":
            sub.add_argument(
                "--out", default="out", metavar="DIR", help="folder for pictures and numbers (out)"
            )
        if seeds:
            count = number(0, 1000, int)
            sub.add_argument(
                "--seeds", type=count, default=seeds, metavar="N", help=f"how many seeds ({seeds})"
            )
            sub.add_argument(
                "--cache", default=str(CACHE), metavar="DIR", help=f"pretrained models ({CACHE})"
            )
            sub.add_argument(
                "--world", default="figure6", help="what to generate: figure6 (default), moons, rings or grid"
            )
        return sub

    beta = {"type": number(0, 1e6), "default": 4.0, "metavar": "B", "help": "strength of the reward (4)"}
    command("figure6", "the paper's Figure 6: what each objective does to samples", 1).add_argument(
        "--beta", **beta
    )
    sub = command("utilities", "each utility and its slope, centred (the paper's Figures 3 and 9)")
    sub.add_argument("extra", nargs="*", metavar="file.py:name", help="utilities of your own to add")
    sub = command("try", "align with your own utility and compare it with the paper's", 3)
    sub.add_argument("utility", metavar="file.py:name", help="your function, or the name of a built-in one")
    sub.add_argument("--beta", **beta)
    command("sweep", "the paper's Figure 8 in 2-D: gamma, beta, label noise, utility", 5)
    sub = command("bench", "how much of the machine's matrix product rate training reaches")
    sub.add_argument(
        "--seconds", type=number(0.0, 60), default=2.0, metavar="S", help="time for each figure (2)"
    )
    return top


def run(arguments: argparse.Namespace) -> list[Path]:
    """Do what the arguments ask for; the files written."""
    options = dict(vars(arguments))
    name = options.pop("command")
    if name == "bench":
        from toy import bench

        bench.main(**options)
        return []
    import matplotlib

    matplotlib.use("Agg")
    from toy import experiments  # here, so that --help does not wait for torch

    commands = {
        "figure6": experiments.figure6,
        "utilities": experiments.utilities,
        "try": experiments.try_utility,
        "sweep": experiments.sweep,
    }
    return commands[name](**options)


def suit_machine() -> None:
    """Two settings of GNU/Linux that suit many short products; elsewhere they do nothing."""
    # threads that wait for each other by spinning crawl when any other program is busy (2 to 20 times)
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:  # returning freed memory to the system after each step, and faulting it in anew, costs a tenth
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(-1, 2**30)  # M_TRIM_THRESHOLD
    mallopt(-3, 2**25)  # M_MMAP_THRESHOLD


def main(argv: list[str] | None = None) -> int:
    start = time.perf_counter()
    suit_machine()
    try:
        written = run(parser().parse_args(argv))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "\nerror: interrupted; nothing was left half-written, run it again to start over", file=sys.stderr
        )
        return 2
    for path in written:
        print(f"wrote {path}")
    print(f"done in {time.perf_counter() - start:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
