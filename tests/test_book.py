"""The web book: it has every page, and its check finds what readers would stumble over."""

import re
from pathlib import Path

from book import check

ROOT = Path(__file__).parent.parent


def test_every_lesson_and_page_is_in_the_table_of_contents_once():
    contents = (ROOT / "book" / "contents.md").read_text()
    listed = re.findall(r"^(?:.* <)?((?:notebooks|docs)/\w[\w-]*)>?$", contents, re.M)
    written = [*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("notebooks/*.md"), *ROOT.glob("docs/*.md")]
    pages = {str(path.relative_to(ROOT).with_suffix("")) for path in written}
    assert pages <= set(listed) and len(listed) == len(set(listed))
    lessons = [name for name in listed if re.match(r"notebooks/\d", name)]
    assert lessons == sorted(lessons)


def problems(folder, page):
    (folder / "page.html").write_text(page)
    (folder / "other.html").write_text('<h1 id="top">other</h1>')
    return list(check.problems(folder))


def test_a_good_page_has_no_problems(tmp_path):
    good = '<a href="other.html#top">a</a> <a href="#here">b</a> <img id="here" src="other.html" alt="words">'
    web = '<a href="https://arxiv.org/abs/2404.04465">c</a> <a href="mailto:a@b.org">d</a>'
    data = '<img src="data:image/png;base64,AA" alt="words">'
    assert problems(tmp_path, good + web + data) == []


def test_a_picture_without_words_is_found(tmp_path):
    for words in ("", ' alt=""', " alt", ' alt="&lt;Figure size 640x480 with 1 Axes&gt;"'):
        [problem] = problems(tmp_path, f'<img src="other.html"{words}>')
        assert problem == "page.html: no alternative text: other.html"


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    for link in ("missing.html", "#missing", "other.html#missing", "."):
        [problem] = problems(tmp_path, f'<a href="{link}">there</a>')
        assert problem.startswith("page.html: ") and problem.endswith(f": {link}")
    [problem] = problems(tmp_path, '<img src="missing.png" alt="words">')
    assert problem == "page.html: leads nowhere: missing.png"


def test_what_would_be_loaded_from_the_network_is_found(tmp_path):
    for tag in (
        '<script src="https://cdn.example.org/a.js">',
        '<link rel="stylesheet" href="//cdn.example.org/a.css">',
        '<img src="https://example.org/a.png" alt="words">',
    ):
        [problem] = problems(tmp_path, tag)
        assert problem.startswith("page.html: needs the network: ")


def test_the_workflow_runs_targets_that_exist_and_publishes_what_they_build():
    workflow = (ROOT / ".github" / "workflows" / "pages.yml").read_text()
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"run: make (\S+)", workflow)
    assert targets and all(re.search(rf"^{target}:", makefile, re.M) for target in targets)
    [folder] = re.findall(r"path: (\S+)", workflow)
    assert f"book/check.py {folder}\n" in makefile
