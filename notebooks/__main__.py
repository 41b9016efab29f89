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

    about = "copy the lessons into a folder to work in; what is there already is kept"
    sub = add_command(commands, "lessons", "notebooks.hand_out:lessons", about)
    sub.add_argument("folder", metavar="FOLDER", help="folder of your copies")
    about = "copy the project without its solutions, to hand out"
    sub = add_command(commands, "student", "notebooks.hand_out:student", about)
    sub.add_argument("folder", metavar="FOLDER", help="folder to make")

    about = "make one data set of the likes of a class, and say how far its members agree"
    sub = add_command(commands, "pool", "notebooks.pool:pool", about)
    text = "feedback.csv with its images; or a folder of such folders"
    sub.add_argument("folders", nargs="+", metavar="FOLDER", help=text)
    sub.add_argument("--out", default="out/pool", metavar="DIR", help="folder of the data set (out/pool)")
    text = "one row for each image, with the label of the majority"
    sub.add_argument("--majority", action="store_true", help=text)

    about = "make the slides of one session of 90 minutes, from the lessons"
    sub = add_command(commands, "slides", "notebooks.slides:slides", about)
    sub.add_argument("--out", default="out", metavar="DIR", help="folder for slides.html (out)")

    about = "print the addresses of the course on Binder, Codespaces and Colab"
    sub = add_command(commands, "online", "notebooks.online:online", about)
    text = "also write into every lesson the lines that Colab needs"
    sub.add_argument("--colab", action="store_true", help=text)
    return top


def main(argv: list[str] | None = None) -> int:
    return run(parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
