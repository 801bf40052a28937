"""Names and tables as Markdown."""

import html
import re

from keras_svag.arguments import printable

# A bare address would become a link.
_MARKUP = re.compile(r"[\\`*_\[\]|~#$]|:(?=//)")


def escaped(text):
    """Text that Markdown and HTML show as it is, on one line."""
    line = html.escape(printable(text), quote=False)
    return _MARKUP.sub(r"\\\g<0>", line)


def table(header, rows):
    """A table; its cells are Markdown already, the first column a name."""
    ruler = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(
        f"| {' | '.join(cells)} |" for cells in [header, ruler, *rows]
    )
