"""Controls for a running lesson: buttons beside the picture that they change.

All of them are buttons, because Jupyter takes most keys away from drop-down lists and sliders: Tab goes to
the next button and Space presses it. Their tooltips are what a screen reader reads out.
"""

import asyncio
import base64
from collections.abc import Callable, Sequence

import ipywidgets as widgets

from notebooks import picture

Draw = Callable[..., tuple]  # the values of the controls -> (figure, what it shows in words)
TICKED, OPEN = widgets.ButtonStyle(button_color="#F0E442"), widgets.ButtonStyle()


def choice(name: str, options: Sequence, value, form: str = "{}") -> widgets.ToggleButtons:
    """A row of buttons, one of which is pressed; `form` says how an option is written."""
    texts = [form.format(option) for option in options]
    row = widgets.ToggleButtons(
        options=list(zip(texts, options, strict=True)),
        value=value,
        description=name,
        tooltips=[f"{name} {text}" for text in texts],
        style={"button_width": "auto", "description_width": "auto"},
    )
    row.layout.width, row.layout.margin = "auto", "0 16px 0 0"
    return row


class Picture(widgets.VBox):
    """A picture with a line of words above it. A new one takes the place of the old one."""

    def __init__(self, draw: Draw):
        self.words, self.image, self._draw, self._timer = widgets.Label(), widgets.HTML(), draw, None
        super().__init__([self.words, self.image])

    def now(self, *values) -> None:
        """Draw now; an error becomes the line of words."""
        try:
            self.image.value = picture(*self._draw(*values))["text/html"]
            self.words.value = ""
        except Exception as error:
            self.words.value = f"This did not work. {error}"

    def soon(self, *values) -> None:
        """Draw when nothing more arrives: what was asked for meanwhile is outdated, and never drawn."""
        self.words.value = "working ..."
        if self._timer:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(0.2, self.now, *values)


class Panel(widgets.VBox):
    """Choices above the picture that `draw` makes of their values."""

    def __init__(self, choices: list[widgets.ToggleButtons], draw: Draw):
        self.choices, self.screen = choices, Picture(draw)
        row = widgets.Layout(flex_flow="row wrap")
        super().__init__([widgets.Box(choices, layout=row), self.screen])
        for control in choices:
            control.observe(lambda _: self.screen.soon(*self.values()), names="value")
        self.screen.now(*self.values())

    def values(self) -> list:
        return [control.value for control in self.choices]


class Board(widgets.HBox):
    """Squares to tick, beside a picture of them and of what follows.

    `counts`: rows of how many samples lie in each square; only squares with samples can be ticked.
    `ticked`: the set of ticked squares, numbered row by row; it changes with every press.
    `draw(aligned)` draws the ticks alone, or what the model makes of them.
    """

    def __init__(self, counts: list[list[int]], ticked: set[int], draw: Draw):
        self.ticked, self.screen, self.past = ticked, Picture(draw), []
        self.samples = [n for row in counts for n in row]
        size = widgets.Layout(width="30px", height="26px", margin="0", padding="0")
        nothing = widgets.Label(layout=size)
        self.squares = {i: widgets.Button(layout=size) for i, n in enumerate(self.samples) if n}
        for number, square in self.squares.items():
            square.on_click(lambda _, number=number: self.change(self.ticked ^ {number}))
        columns = len(counts[0])
        grid = widgets.GridBox(
            [self.squares.get(i, nothing) for i in range(len(self.samples))],
            layout=widgets.Layout(grid_template_columns=f"repeat({columns}, 30px)"),
        )
        self.undo, self.clear, self.done = (
            widgets.Button(description=text, layout=widgets.Layout(width="auto"))
            for text in ("undo", "clear all", "done: align the model")
        )
        self.undo.on_click(lambda _: self.past and self.change(self.past.pop(), undoing=True))
        self.clear.on_click(lambda _: self.change(set()))
        self.done.on_click(lambda _: self.screen.soon(True))
        buttons = widgets.HBox([self.undo, self.clear, self.done])
        whole = widgets.Layout(flex="0 0 auto")  # the picture gives way, not the squares
        super().__init__([widgets.VBox([grid, buttons], layout=whole), self.screen])
        self.columns = columns
        self.dress(self.squares)
        self.screen.now(False)

    def change(self, ticked: set[int], undoing: bool = False) -> None:
        """Tick these squares and no others."""
        if not undoing:
            self.past.append(set(self.ticked))
        changed = self.ticked ^ ticked
        self.ticked ^= changed
        self.dress(changed)
        self.screen.soon(False)

    def dress(self, numbers) -> None:
        for number in numbers:
            square, ticked = self.squares[number], number in self.ticked
            square.style = TICKED if ticked else OPEN
            count = self.samples[number]
            square.description = "\N{CHECK MARK}" if ticked else str(count)  # an icon has no name to read out
            row, column = divmod(number, self.columns)
            words = f"row {row + 1}, column {column + 1}: {count} sample{'s' * (count > 1)}"
            square.tooltip = f"{words}, liked" if ticked else words


class Questions(widgets.HBox):
    """Images (PNG) to like or dislike, one after the other. `answers` are True for a like."""

    def __init__(self, images: list[bytes], captions: list[str]):
        self.images, self.captions, self.answers = images, captions, []
        self.image, self.words = widgets.HTML(), widgets.HTML()
        self.like = widgets.Button(description="like", icon="thumbs-up", button_style="success")
        self.dislike = widgets.Button(description="dislike", icon="thumbs-down", button_style="danger")
        self.undo = widgets.Button(description="undo", icon="undo", tooltip="take back the last answer")
        self.like.on_click(lambda _: self.answer(True))
        self.dislike.on_click(lambda _: self.answer(False))
        self.undo.on_click(lambda _: self.answers and self.answers.pop() is not None and self.ask())
        super().__init__([self.image, widgets.VBox([self.words, self.like, self.dislike, self.undo])])
        self.ask()

    def answer(self, liked: bool) -> None:
        if len(self.answers) < len(self.images):
            self.answers.append(liked)
        self.ask()

    def ask(self) -> None:
        """Show the first image without an answer; after the last one, the buttons rest."""
        count, total = len(self.answers), len(self.images)
        self.like.disabled = self.dislike.disabled = done = count == total
        self.undo.disabled = count == 0
        number = min(count, total - 1)
        caption = self.captions[number]
        content = base64.b64encode(self.images[number]).decode()
        self.image.value = f'<img alt="{caption}" width="256" src="data:image/png;base64,{content}">'
        self.words.value = "Thank you. Go on below." if done else f"{count + 1} of {total}<br>{caption}"
