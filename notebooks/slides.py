"""The slides of one session of 90 minutes: parts of the lessons as committed, in one HTML file.

nbconvert's own slides load reveal.js and MathJax from the network, which a lecture room may not have. So
nbconvert renders the text only, Matplotlib draws the formulas, and the page has a screen for each slide.
"""

import base64
import html
import io
import re
import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import nbformat
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import MathTextParser, math_to_image
from nbconvert.filters import markdown2html

from toy.errors import InputError
from toy.files import output_folder, save_atomically

# The plan in README.md. Of a section, which its heading names, all text and pictures are shown.
SECTIONS = {
    1: (
        "# 1.",
        "## The data",
        "## Forward",
        "## The denoiser",
        "## Training",
        "## Sampling",
        "## Exercise 2",
    ),
    2: ("# 2.", "## Three temp", "## Gambles", "## Gains from", "## A slope is"),
    3: (
        *("# 3.", "## The setting", "## Two models", "## The implicit", "## The reference", "## The loss"),
        *("## Exercise 3", "## All of Diff", "## In three lines"),
    ),
    4: (
        "# 4.",
        "## The objectives",
        "## Train them",
        "## Why the printed",
        "## Exercise 3",
        "## What reprod",
    ),
    7: ("# 7.", "## A live panel", "## In three lines"),
}
CODE = ("def training(", "OFFERS = {", "checks.kto_loss(kto_loss)", "def kto(")  # shown as well
PRINTED = ("def mean_utility",)  # cells whose printed output is shown
ASIDE = re.compile(r" ?\((?=[A-Z])(?:[^()]|\([^()]*\))*\.\)")  # a sentence in brackets, which is not shown
ROOM, PICTURE = 160, 70  # words that fit on a slide, and the room that a picture takes

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Diffusion-KTO in 90 minutes</title>
<style>
body {{ font: 1.6rem/1.45 system-ui, sans-serif; margin: 0; }}
section {{ min-height: 100vh; box-sizing: border-box; padding: 2rem 4rem; max-width: 80rem; margin: auto;
  display: flex; flex-direction: column; justify-content: center; break-after: page; }}
h1, h2 {{ line-height: 1.2; margin: 0 0 0.5em; }}
p, ul {{ margin: 0.4em 0; }}
table {{ border-collapse: collapse; font-size: 1.4rem; }}
th, td {{ padding: 0.2em 0.8em; text-align: left; border-bottom: 1px solid #999; }}
pre {{ font-size: 1.2rem; white-space: pre-wrap; background: #f3f3f3; padding: 0.6em; margin: 0.4em 0; }}
code {{ font-size: 0.9em; }}
.anchor-link {{ display: none; }}
img.picture {{ max-width: 100%; height: 62vh; object-fit: contain; }}
img.tall {{ height: 92vh; }}
.formula {{ text-align: center; margin: 0.7em 0; }}
</style>
{slides}
<script>
const slides = [...document.querySelectorAll("section")];
const steps = {{ ArrowRight: 1, PageDown: 1, " ": 1, ArrowLeft: -1, PageUp: -1 }};
const fit = () => slides.forEach(slide => {{
  for (let zoom = 1; zoom === 1 || slide.getBoundingClientRect().height > innerHeight + 1; zoom -= 0.02) {{
    slide.style.zoom = zoom;
    slide.style.maxWidth = 80 / zoom + "rem";
  }}
}});
addEventListener("load", fit);
addEventListener("resize", fit);
addEventListener("keydown", event => {{
  if (!(event.key in steps)) return;
  event.preventDefault();
  const at = slides.findLastIndex(slide => slide.offsetTop <= scrollY + innerHeight / 2);
  slides[Math.max(0, Math.min(slides.length - 1, at + steps[event.key]))].scrollIntoView();
}});
</script>
</html>
"""


def slides(out: str) -> list[Path]:
    """Write out/slides.html."""
    target, lessons = output_folder(out), {}
    for number in SECTIONS:
        [path] = Path(__file__).parent.glob(f"{number}_*.ipynb")
        lessons[number] = nbformat.read(path, as_version=4).cells
    everything = "\n".join(cell.source for cells in lessons.values() for cell in cells)
    for words in (*(heading for headings in SECTIONS.values() for heading in headings), *CODE, *PRINTED):
        if words not in everything:
            raise InputError(f"no lesson has '{words}': mend notebooks/slides.py")
    pages = [page for number, cells in lessons.items() for page in pack(pieces(cells, SECTIONS[number]))]
    text = PAGE.format(slides="\n".join(f"<section>\n{page}\n</section>" for page in pages))
    print(f"{len(pages)} slides; the arrow keys turn them, and a browser prints them one to a page")
    return [save_atomically(target / "slides.html", lambda temporary: temporary.write_text(text, "utf-8"))]


def pieces(cells: list, headings: tuple[str, ...]) -> Iterator[tuple[bool, int, str]]:
    """What is shown of a lesson: whether it is a heading, its size in words, and its HTML."""
    shown = False
    for cell, following in zip(cells, [*cells[1:], None], strict=True):
        if cell.cell_type == "code":
            yield from outcome(cell) if shown else ()
            continue
        source = ASIDE.sub("", cell.source)
        for text in re.split(r"(?m)^(?=#+ |\*\*What you should see|\*\*Sources)", source):
            if text.startswith("#"):
                shown = text.startswith(headings)
            if following and following.cell_type == "code" and not outcome(following):
                text = re.sub(
                    r"(?:(?<=\. )|(?<=\n)|^)(?:(?!\. |\n).)*:\s*$", "", text
                )  # it announces what is not shown
            if shown and text.strip() and not text.startswith("**Sources"):
                parts = text.split("\n\n") if len(text.split()) > 1.6 * ROOM else [text]
                yield from ((part.startswith("#"), len(part.split()), render(part)) for part in parts)


def outcome(cell) -> list[tuple[bool, int, str]]:
    """The same of a code cell: its pictures, and its code or its printed lines if they are named above."""
    shown = []
    if any(part in cell.source for part in CODE):
        shown.append((False, 5 * cell.source.count("\n"), f"<pre>{html.escape(cell.source)}</pre>"))
    if any(part in cell.source for part in PRINTED):
        lines = "".join(output.text for output in cell.outputs if "text" in output)
        shown.append((False, PICTURE, f"<pre>{html.escape(lines)}</pre>"))
    for output in cell.outputs:
        if picture := output.get("data", {}).get("image/png"):
            alt = html.escape(output.metadata["image/png"]["alt"])
            width, height = struct.unpack(">II", base64.b64decode(picture)[16:24])  # a PNG's header
            kind, size = ("tall picture", ROOM) if height > 0.9 * width else ("picture", PICTURE)
            image = f'<img class="{kind}" alt="{alt}" src="data:image/png;base64,{picture}">'
            shown.append((False, size, image))
    return shown


def pack(pieces: Iterator[tuple[bool, int, str]]) -> list[str]:
    """Slides: each begins with a heading, or with what no longer fits on the slide before."""
    pages, words = [], 0
    for heading, size, text in pieces:
        words += size
        if not pages or heading or words > ROOM:
            pages.append([])
            words = size
        pages[-1].append(text)
    return ["\n".join(page) for page in pages]


def render(text: str) -> str:
    """Markdown with formulas as HTML."""
    formulas = []

    def keep(match: re.Match) -> str:
        shown = match[1] is not None
        picture = draw((match[1] if shown else match[2]).replace("\n", " "))
        formulas.append(f'<div class="formula">{picture}</div>' if shown else picture)
        return f"@formula{len(formulas) - 1}@"

    text = re.sub(r"\$\$(.*?)\$\$|\$([^$\n]+)\$", keep, text, flags=re.S)
    return re.sub(r"@formula(\d+)@", lambda match: formulas[int(match[1])], markdown2html(text))


@cache
def draw(formula: str) -> str:
    """A formula as an image whose height is in units of the text around it."""
    simple = re.sub(r"\\underbrace\{(.*?)\}_\{.*?\}\}", r"\1", formula)  # Matplotlib knows no braces below
    for longer, short in (
        (r"\\[td]?frac(\w)(\w)", r"\\frac{\1}{\2}"),
        (r"\\[td]frac", r"\\frac"),
        (r"\\sqrt (\w)", r"\\sqrt{\1}"),
        (r"\\mathbb (\w)", r"\\mathbb{\1}"),
        (r"\\[lr]vert\b", "|"),
        (r"\\[lr]Vert\b", r"\\|"),
        (r"\\[bB]ig(?=\W)", ""),
        (r"\\([gl])e\b", r"\\\1eq"),
        (r"\\longmapsto", r"\\mapsto"),
    ):
        simple = re.sub(longer, short, simple)
    font, file = FontProperties(size=12, math_fontfamily="cm"), io.BytesIO()
    try:
        _, height, *_ = MathTextParser("path").parse(f"${simple}$", 72, font)
        depth = math_to_image(f"${simple}$", file, prop=font, dpi=72, format="svg")
    except ValueError as error:
        raise InputError(f"Matplotlib cannot draw the formula {formula}") from error
    style = f"height: {1.1 * height / 12:.3f}em; vertical-align: {-1.1 * depth / 12:.3f}em"
    data, alt = base64.b64encode(file.getvalue()).decode(), html.escape(formula)
    return f'<img alt="{alt}" style="{style}" src="data:image/svg+xml;base64,{data}">'
