"""What the lessons share: pictures with a description, on the screen and on a page."""

import base64
import html
import importlib.util
import io
from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from PIL import Image

from toy.errors import InputError

WITHOUT_KERNEL = "In a running notebook there are buttons here: run all cells from the top to this one."
# JupyterLab's own "Error displaying widget: model not found" says less, and is hidden by its class. A key
# pressed on a button is no command of Jupyter's: b would insert a cell, an arrow leave the widget.
SCRIPT = """element.innerHTML = "<p>%s</p>\
<style>.jp-OutputArea-output.jupyter-widgets { display: none }</style>";
setTimeout(() => element.closest(".jp-OutputArea")?.addEventListener("keydown", event =>
  event.ctrlKey || event.metaKey || event.stopPropagation()));"""


def show(fig: plt.Figure, alt: str) -> None:
    """Display a figure and close it; alt says what it shows to who cannot see it."""
    display(picture(fig, alt), raw=True, metadata=described(alt))


def picture(fig: plt.Figure, alt: str) -> dict[str, str]:
    """A figure as what a notebook can show of it, {MIME type: content}; closes it."""
    from toy import plots  # here, so that python -m notebooks --help does not wait for torch

    return bundle(plots.png(fig, dpi=96), alt)


def bundle(png: bytes, alt: str) -> dict[str, str]:
    """HTML for JupyterLab and exported pages, which pass on no other description; a PNG for other readers."""
    content = base64.b64encode(png).decode()
    tag = f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{content}">'
    return {"text/html": tag, "image/png": content, "text/plain": alt}


def described(alt: str) -> dict:
    return {"image/png": {"alt": alt}}


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
    file, pauses = io.BytesIO(), [120] * (frames - 1) + [2000]  # milliseconds
    images[0].save(file, "PNG", save_all=True, append_images=images[1:], duration=pauses, loop=0)
    display(bundle(file.getvalue(), alt), raw=True, metadata=described(alt))


def controls(widget, instead: str, still: tuple[plt.Figure, str] | None = None) -> None:
    """Display a widget, below a line that says what to do where it does not work. A page without a kernel
    shows the text `instead`, or a still picture (figure, alt)."""
    page = picture(*still) if still else {}
    metadata = described(still[1]) if still else {}
    script = SCRIPT % WITHOUT_KERNEL
    display({"application/javascript": script, "text/plain": WITHOUT_KERNEL}, raw=True)
    display(page | widget._repr_mimebundle_() | {"text/plain": instead}, raw=True, metadata=metadata)


def require(*modules: str) -> None:
    """Raise InputError, in one line, if one of the modules that a lesson needs is not installed."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise InputError(
            f"this lesson needs {', '.join(missing)}: in the project's folder run "
            "python -m pip install --editable '.[sd]', then restart the kernel"
        )
