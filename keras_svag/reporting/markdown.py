"""Names and tables as Markdown."""

import html
import re

# A bare address would become a link.
_MARKUP = re.compile(r"[\\`*_\[\]|~#$]|:(?=//)")


def escaped(text):
    """Text that Markdown and HTML show as it is, on one line."""
    line = " ".join(str(text).split())
    return _MARKUP.sub(r"\\\g<0>", html.escape(line, quote=False))


def table(header, rows):
    """A table; its cells are Markdown already, the first column a name."""
    ruler = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(
        f"| {' | '.join(cells)} |" for cells in [header, ruler, *rows]
    )
