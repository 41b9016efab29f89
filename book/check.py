"""Fails if a page of the built book has a broken link, a picture without words, or needs the network.

python book/check.py FOLDER
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"img": "src", "script": "src", "iframe": "src", "source": "src", "link": "href"}


class Page(HTMLParser):
    """What a page contains: its anchors, its links, and what is wrong with its pictures."""

    def __init__(self, text):
        super().__init__()
        self.anchors, self.links, self.problems = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.anchors.add(values.get("id"))
        if tag == "img" and (values.get("alt") or "<")[0] == "<":  # "<Figure ...>" says nothing
            self.problems.append(f"no alternative text: {values.get('src', '')[:80]}")
        link = values.get(LOADED.get(tag, "href"))
        if link is None:
            return
        if urlsplit(link).netloc:
            if tag in LOADED:
                self.problems.append(f"needs the network: {link}")
        elif not urlsplit(link).scheme:
            self.links.append(link)


def problems(folder):
    """One line for each problem in the HTML files of a folder."""
    pages = {path: Page(path.read_text()) for path in sorted(folder.resolve().rglob("*.html"))}
    for path, page in pages.items():
        name = path.relative_to(folder.resolve())
        yield from (f"{name}: {problem}" for problem in page.problems)
        for link in page.links:
            parts = urlsplit(link)
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                yield f"{name}: leads nowhere: {link}"
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                yield f"{name}: no such place on the page: {link}"


if __name__ == "__main__":
    found = list(problems(Path(sys.argv[1])))
    print("\n".join(found) or "every link leads somewhere, every picture has words")
    sys.exit(bool(found))
