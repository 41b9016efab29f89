"""The laboratory's commands: python -m toy COMMAND. Everything runs on a CPU."""

import os
import sys
from pathlib import Path

from toy.cli import Parser, add_command, number, run

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "diffusion-kto"


def parser() -> Parser:
    top = Parser("python -m toy", description="What a utility function does to samples, in two dimensions.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    out = {"default": "out", "metavar": "DIR", "help": "folder for pictures and numbers (out)"}
    text = f"folder that keeps pretrained models ({CACHE})"
    cache = {"default": str(CACHE), "metavar": "DIR", "help": text}

    def command(name: str, function: str, about: str, seeds: int = 0) -> Parser:
        sub = add_command(commands, name, f"toy.experiments:{function}", about)
        sub.add_argument("--out", **out)
        if seeds:
            count = number(0, 1000, int)
            sub.add_argument("--seeds", type=count, default=seeds, metavar="N", help=f"how many ({seeds})")
            sub.add_argument("--cache", **cache)
            text = "what to generate: figure6 (the paper's, default), moons, rings or grid"
            sub.add_argument("--world", default="figure6", help=text)
            text = "how noise is added and what is predicted: diffusion (default) or flow"
            sub.add_argument("--process", default="diffusion", help=text)
        return sub

    text = "strength of the reward (4; for flow 1)"
    beta = {"type": number(0, 1e6), "metavar": "B", "help": text}
    sub = command("figure6", "figure6", "draw the paper's Figure 6: what each objective does to samples", 1)
    sub.add_argument("--beta", **beta)
    sub = command("utilities", "utilities", "draw each utility and its slope (the paper's Figures 3 and 9)")
    sub.add_argument("extra", nargs="*", metavar="file.py:name", help="utilities of your own to add")
    sub = command("try", "try_utility", "align with your own utility and compare it with the paper's", 3)
    sub.add_argument("utility", metavar="file.py:name", help="your function, or the name of a built-in one")
    text = f"{beta['help']}; auto: each utility's own, from short pilots"
    sub.add_argument("--beta", **beta | {"type": _auto_or(beta["type"]), "help": text})
    sub.add_argument("--report", action="store_true", help="a page with more settings instead: a minute")
    command("sweep", "sweep", "draw the paper's Figure 8 in 2-D: gamma, beta, label noise, utility", 5)
    text = "write Figure 6 as a page with sliders for utility, beta, gamma, wrong labels and step"
    sub = add_command(commands, "explore", "toy.explore:explore", text)
    sub.add_argument("--out", **out)
    sub.add_argument("--cache", **cache)
    sub.add_argument("--utility", metavar="file.py:name", help="a utility of your own to add")
    text = "measure the speed of training against the machine's matrix product rate"
    sub = add_command(commands, "bench", "toy.bench:bench", text)
    sub.add_argument("--seconds", type=number(0.0, 60), default=2.0, metavar="S", help="time per row (2)")
    return top


def _auto_or(kind):
    def parse(text: str):
        return text if text == "auto" else kind(text)

    parse.__name__ = "number or auto"
    return parse


def main(argv: list[str] | None = None) -> int:
    return run(parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
