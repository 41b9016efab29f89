"""What the lessons share: pictures with a description, on the screen and on a page."""

import base64
import io

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from PIL import Image


def show(fig: plt.Figure, alt: str, handle=None):
    """Display a figure and close it; alt says what it shows to who cannot see it. Returns a handle:
    given back, the new figure takes the place of the old one."""
    picture = io.BytesIO()
    fig.savefig(picture, format="png", dpi=80)
    plt.close(fig)
    return _display(picture, alt, handle)


def animate(fig: plt.Figure, update, frames: int, alt: str, milliseconds: int = 120):
    """Display the figure's states after update(0), update(1), ... as an animated PNG, which is a still
    picture of the first where nothing moves. The last one stays for a while."""
    images = []
    for k in range(frames):
        update(k)
        fig.set_dpi(60)
        fig.canvas.draw()
        images.append(Image.fromarray(np.asarray(fig.canvas.buffer_rgba())).convert("RGB").quantize(32))
    plt.close(fig)
    picture, pauses = io.BytesIO(), [milliseconds] * (frames - 1) + [2000]
    images[0].save(picture, "PNG", save_all=True, append_images=images[1:], duration=pauses, loop=0)
    return _display(picture, alt, None)


def controls(widget, instead: str) -> None:
    """Display a widget; where there is no kernel behind it, a line of text instead."""
    display(widget._repr_mimebundle_() | {"text/plain": instead}, raw=True)


def _display(picture: io.BytesIO, alt: str, handle):
    content = {"image/png": base64.b64encode(picture.getvalue()).decode(), "text/plain": alt}
    options = {"raw": True, "metadata": {"image/png": {"alt": alt}}}
    if handle is None:
        return display(content, display_id=True, **options)
    handle.update(content, **options)
    return handle
