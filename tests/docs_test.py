"""The site: every public name, no warning, no dead link, no network."""

import functools
import html.parser
import re
import shutil
import subprocess
import sys
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt
from mdit_py_plugins.anchors import anchors_plugin

import keras_svag
from tests.helpers.paths import ROOT

SOURCES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ELSEWHERE_IN_CSS = re.compile(r"url\(\s*['\"]?(?:https?:)?//|@import")
NAMED = re.compile(
    r"(?:keras_svag|experiments|tests|benchmarks|configs|docs)/[\w/]+\.\w+"
)
EXAMPLE = re.compile(r"^```(?:python)?\n.*?^```$", re.MULTILINE | re.DOTALL)


class Page(html.parser.HTMLParser):
    """What a page is linked by, links to, and is shown with."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.assets = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.ids.add(attributes.get("id"))
        if tag == "a":
            self.links.append(attributes.get("href"))
        else:
            self.assets += [attributes.get("src"), attributes.get("href")]


@functools.cache
def page(path):
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        # Anchors are made as a code host makes them.
        reader = MarkdownIt().enable("table")
        text = reader.use(anchors_plugin, max_level=6).render(text)
    return Page(text)


def dead(path, links):
    """Those of a page's links to this project that lead nowhere."""
    for link in filter(None, links):
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = (path.parent / unquote(parts.path)) if parts.path else path
        if not target.is_file():
            yield link
        elif parts.fragment and target.suffix in (".md", ".html"):
            if unquote(parts.fragment) not in page(target.resolve()).ids:
                yield link


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, built as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site").resolve()
    # Where the documents are links to files elsewhere, Sphinx follows them.
    shutil.copytree(ROOT / "docs", folder / "docs")
    (folder / "keras_svag").symlink_to(ROOT / "keras_svag")
    command = [sys.executable, *"-m sphinx --fail-on-warning".split()]
    command += "--keep-going --quiet --doctree-dir".split()
    command += [folder / "doctrees", folder / "docs", folder / "html"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.mark.slow
def test_site_has_every_public_name_and_needs_no_network(site):
    ids = set()
    for path in site.rglob("*.html"):
        found = page(path)
        ids |= {i.removeprefix("module-") for i in found.ids if i}
        assert list(dead(path, found.links + found.assets)) == [], path.name
        for asset in filter(None, found.assets):
            assert not urlsplit(asset).netloc, f"{path.name} needs {asset}"
    for path in site.rglob("*.css"):
        assert not ELSEWHERE_IN_CSS.search(path.read_text()), path.name
    modules = (keras_svag, keras_svag.applications, keras_svag.scaling)
    for module in modules:
        assert {f"{module.__name__}.{name}" for name in module.__all__} <= ids


def test_no_link_is_dead_on_a_code_host():
    for path in SOURCES:
        found = page(path)
        assert list(dead(path, found.links + found.assets)) == []


def test_files_that_are_named_exist():
    named = {
        name for path in SOURCES for name in NAMED.findall(path.read_text())
    }
    # A script of an earlier commit, as the page says.
    named -= {"benchmarks/pytorch_step.py"}
    assert {name for name in named if not (ROOT / name).is_file()} == set()


def test_start_page_has_the_example_of_the_readme():
    readme, start = (
        EXAMPLE.findall((ROOT / name).read_text(encoding="utf-8"))[:2]
        for name in ("README.md", "docs/index.md")
    )
    assert start == readme
