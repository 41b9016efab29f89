"""How Sphinx makes a web book of README.md, the lessons and docs/. See `make book`."""

from importlib.util import find_spec
from pathlib import Path

from docutils import nodes
from sphinx import addnodes

ROOT = Path(__file__).parent.parent
MATHJAX = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax" / "tex-svg.js"

project = "Diffusion-KTO, from toy to real"
html_title = project
html_theme = "furo"
extensions = ["myst_nb", "sphinx.ext.mathjax"]
root_doc = "README"
# listings: Python files that a page links to
include_patterns = ["README.md", "notebooks/*.ipynb", "notebooks/*.md", "docs/*.md"]
include_patterns += ["toy/plain.py", "docs/more_utilities.py"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb", ".py": "myst-nb"}

nb_execution_mode = "off"
nb_ipywidgets_js = {}  # a widget shows its picture or text: it needs a kernel, and its scripts the network
LIVE = ("application/vnd.jupyter.widget-view+json", "application/javascript")
nb_mime_priority_overrides = [("*", kind, None) for kind in LIVE]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4

html_static_path = [str(MATHJAX), "book.css"]
html_css_files = ["book.css"]
mathjax_path = MATHJAX.name  # one file, glyphs included
html_copy_source = False
html_use_index = html_show_copyright = False
html_extra_path = [str(path) for path in [ROOT / "figures" / "explore.html"] if path.exists()]
if html_extra_path:
    tags.add("explore")  # noqa: F821, Sphinx defines it


def complete(app, docname, source):
    """README.md gets a welcome below its title and the table of contents, and a listing its frame."""
    if docname == root_doc:
        title, rest = source[0].split("\n", 1)
        welcome, contents = ((ROOT / "book" / name).read_text() for name in ("welcome.md", "contents.md"))
        source[0] = "\n\n".join([title, welcome, rest, contents])
    elif app.env.doc2path(docname).suffix == ".py":
        name = f"{docname}.py"
        source[0] = f"# {name}\n\n```````python\n{source[0]}\n```````\n"


def describe_pictures(app, doctree):
    """The lessons keep a picture's alternative text beside it, as text/plain."""
    for output in doctree.findall(nodes.container):
        if output.get("nb_element") == "mime_bundle":
            texts = [child.astext() for child in output if child["mime_type"] == "text/plain"]
            for image in output.findall(nodes.image):
                image["alt"] = "".join(texts)  # without this, Sphinx takes the file's name


def unlink_folders(app, doctree):
    """A folder has no page: a link to it becomes its name."""
    for link in list(doctree.findall(addnodes.pending_xref)):
        if (Path(doctree["source"]).parent / link["reftarget"]).is_dir():
            link.replace_self(link.children)


def open_explore(app, doctree, docname):
    """explore.html is a page of the book: a link to it opens it, and does not download it."""
    for link in list(doctree.findall(addnodes.download_reference)):
        if Path(link["reftarget"]).name == "explore.html":
            address = "../" * docname.count("/") + "explore.html"
            link.replace_self(nodes.reference("", "", *link.children, refuri=address))


def setup(app):
    app.connect("source-read", complete)
    app.connect("doctree-read", describe_pictures)
    app.connect("doctree-read", unlink_folders)
    app.connect("doctree-resolved", open_explore)
