"""Sphinx's configuration of the documentation site: `make docs`."""

import re
import runpy
import textwrap
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

ROOT = Path(__file__).parents[1]

project = "keras_svag"
author = "keras_svag authors"
# The file is run by itself: the version needs no TensorFlow.
release = runpy.run_path(str(ROOT / "keras_svag" / "version.py"))["__version__"]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
# Anchors of headings are those of a code host.
myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath", "html_image"]
# Notebooks are shown with the outputs that they were committed with.
nb_execution_mode = "off"
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 60
# Arguments that share a description stay together.
napoleon_use_param = False
# As a list, not as objects of their own, which would hide the methods.
napoleon_custom_sections = [("Attributes", "params_style")]
highlight_language = "none"
# Python with ∇ in it is coloured as far as it is Python.
suppress_warnings = ["misc.highlighting_failure"]

html_theme = "furo"
# Formulas are MathML, which browsers show without a script.
html_math_renderer = "mathml"
pygments_dark_style = "monokai"
html_title = f"keras_svag {release}"
html_static_path = ["assets"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
html_use_index = False
html_domain_indices = False

_CODE = re.compile(
    r"(^ *```.*?^ *```$|`[^`]+`|\[[^]]+\]\([^)]+\))", re.M | re.S
)


def as_restructured_text(markdown):
    """What autodoc reads, of the Markdown that the docstrings are in."""
    parts = _CODE.split(markdown)
    parts[::2] = map(_prose, parts[::2])
    parts[1::2] = map(_code, parts[1::2])
    return "".join(parts)


def _prose(text):
    # A colon in what is returned would divide it into a type and the rest.
    text = re.sub(r"^Returns:\n +", ":returns: ", text, flags=re.M)
    # Names of arguments that share a description and fill a line.
    text = re.sub(r"^( +\w+(?:, \w+)*,)\n +(?=\w+:)", r"\1 ", text, flags=re.M)
    # Code may end within a word, as in `name`s.
    return re.sub(r"^(?=\w)", r"\\ ", text.replace("|", r"\|"))


def _code(text):
    if text.lstrip().startswith("```"):
        indent = text[: text.index("`")]
        first, *lines, _ = text.splitlines()
        language = first.strip().removeprefix("```") or "text"
        block = textwrap.indent("\n".join(lines), "    ")
        return f"{indent}.. code-block:: {language}\n\n{block}\n"
    if text.startswith("["):
        title, url = re.fullmatch(r"\[(.+)\]\(\s*(.+)\)", text, re.S).groups()
        return f"`{title} <{url}>`__"
    name = text.strip("`")
    if re.fullmatch(r"keras_svag(\.\w+)+", name):
        return f":py:obj:`{name}`"
    return f"``{name}``"


def read_markdown(app, what, name, obj, options, lines):
    lines[:] = as_restructured_text("\n".join(lines)).splitlines()


def inline_formula(writer, node):
    writer.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def formula(writer, node):
    writer.body.append(tex2mathml(node.astext(), as_block=True))
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer(
        "mathml", (inline_formula, None), (formula, None)
    )
    # Before napoleon, which has 500.
    app.connect("autodoc-process-docstring", read_markdown, priority=400)
