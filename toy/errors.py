"""The one exception that means: the input is wrong, and here is the way out."""


class InputError(ValueError):
    """Bad input, described in one line. Command lines print it without a traceback and exit with 2."""

    def __init__(self, message: str):
        # a name in it may hold anything: line breaks, bytes that are no text, a million letters
        line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)
        super().__init__(line if len(line) <= 600 else f"{line[:300]} ... {line[-300:]}")

    def _render_traceback_(self) -> list[str]:
        return [f"error: {self}"]  # so that a notebook, too, shows only the line
