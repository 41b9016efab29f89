"""What the lessons share: pictures with a description, on the screen and on a page."""

import base64
import importlib.util
import io
from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from PIL import Image

from toy.errors import InputError


def show(fig: plt.Figure, alt: str, handle=None) -> None:
    """Display a figure and close it; alt says what it shows to who cannot see it. With the handle of
    display(display_id=True) it takes the place of what was shown there."""
    picture = io.BytesIO()
    fig.savefig(picture, format="png", dpi=80)
    plt.close(fig)
    _display(picture, alt, handle.update if handle else display)


def animate(fig: plt.Figure, update: Callable[[int], None], frames: int, alt: str) -> None:
    """Display the figure's states after update(0), update(1), ... as an animated PNG, which is a still
    picture of the first where nothing moves. The last one stays for a while."""
    images = []
    fig.set_dpi(80)
    for k in range(frames):
        update(k)
        fig.canvas.draw()
        images.append(Image.fromarray(np.asarray(fig.canvas.buffer_rgba())).convert("RGB").quantize(32))
    plt.close(fig)
    picture, pauses = io.BytesIO(), [120] * (frames - 1) + [2000]  # milliseconds
    images[0].save(picture, "PNG", save_all=True, append_images=images[1:], duration=pauses, loop=0)
    _display(picture, alt, display)


def controls(widget, instead: str) -> None:
    """Display a widget; where there is no kernel behind it, a line of text instead."""
    display(widget._repr_mimebundle_() | {"text/plain": instead}, raw=True)


def require(*modules: str) -> None:
    """Raise InputError, in one line, if one of the modules that a lesson needs is not installed."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise InputError(
            f"this lesson needs {', '.join(missing)}: in the project's folder run "
            "python -m pip install --editable '.[sd]', then restart the kernel"
        )


def _display(picture: io.BytesIO, alt: str, put: Callable) -> None:
    content = {"image/png": base64.b64encode(picture.getvalue()).decode(), "text/plain": alt}
    put(content, raw=True, metadata={"image/png": {"alt": alt}})
