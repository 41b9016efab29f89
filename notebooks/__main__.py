"""The lecturer's commands: python -m notebooks COMMAND."""

import sys

from toy.cli import Parser, add_command, number, run


def parser() -> Parser:
    top = Parser("python -m notebooks", description="Hand out the course, collect it and mark it.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    about = "run the exercises of many students and write one table"
    sub = add_command(commands, "grade", "notebooks.grade:grade", about)
    text = "it has one folder, or one notebook, for each student"
    sub.add_argument("folder", metavar="FOLDER", help=text)
    sub.add_argument("--out", default="out", metavar="DIR", help="folder for grades.csv (out)")
    text = "time limit of an exercise (20)"
    sub.add_argument("--seconds", type=number(0, 3600), default=20, metavar="S", help=text)
    text = "memory limit of an exercise, on Linux (4)"
    sub.add_argument("--memory", type=number(0, 1000), default=4, metavar="GB", help=text)
    return top


def main(argv: list[str] | None = None) -> int:
    return run(parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
