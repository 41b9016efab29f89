"""The one exception that means: the input is wrong, and here is the way out."""


class InputError(ValueError):
    """Bad input, described in one line. Command lines print it without a traceback and exit with 2."""

    def _render_traceback_(self) -> list[str]:
        return [f"error: {self}"]  # so that a notebook, too, shows only the line
