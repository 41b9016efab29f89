"""The one exception that means: what you gave is wrong, and here is the way out."""


class InputError(ValueError):
    """Bad input, said in one line. Command lines print it without a traceback and exit with 2."""
