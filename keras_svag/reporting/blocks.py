"""What a report is made of, for a terminal, a page and Markdown alike."""

import dataclasses
import re
import textwrap

from keras_svag.arguments import printable
from keras_svag.reporting import html, markdown

WIDTH = 80
# What no line ends within: `1.5 [1.2, ∞)`, `51 (×3.2)`, `G × [1, 2]`,
# `0.3 ± 0.1`, `C = 2`.
_ONE_WORD = re.compile(
    r"(?:[\d.,]+ |\S+ × )?\[[-\d.,e+∞− ]+[])]|[\d.,]+ \(×[^() ]+\)"
    r"|\S+ [±=] \S+"
)
# `textwrap` breaks no line at it.
_FIXED_SPACE = "\N{NO-BREAK SPACE}"


def wrapped(text, first="  ", rest="    "):
    """Text on lines of at most 80 characters, as far as its words allow.

    A number stays on one line with its interval, factor or error.
    """
    lines = textwrap.fill(
        _ONE_WORD.sub(
            lambda words: words[0].replace(" ", _FIXED_SPACE), printable(text)
        ),
        WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines.replace(_FIXED_SPACE, " ")


@dataclasses.dataclass(frozen=True)
class Headline:
    """The first line, which answers what was asked."""

    text: str

    def to_text(self) -> str:
        return wrapped(self.text, "", "")

    def to_html(self) -> str:
        return f"<p><b>{html.escaped(self.text)}</b></p>"

    def to_markdown(self) -> str:
        return f"**{markdown.escaped(self.text)}**"


@dataclasses.dataclass(frozen=True)
class Line:
    """A sentence, and phrases under it."""

    text: str
    items: tuple[str, ...] = ()

    def to_text(self) -> str:
        items = (wrapped(item, "  - ") for item in self.items)
        return "\n".join([wrapped(self.text), *items])

    def to_html(self) -> str:
        items = "".join(f"<li>{html.escaped(item)}</li>" for item in self.items)
        line = f"<p>{html.escaped(self.text)}</p>"
        return f"{line}<ul>{items}</ul>" if items else line

    def to_markdown(self) -> str:
        items = "\n".join(f"- {markdown.escaped(item)}" for item in self.items)
        line = markdown.escaped(self.text)
        return f"{line}\n\n{items}" if items else line


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows under a title.

    Attributes:
        title: What the rows are about.
        header: Names of the columns.
        rows: Texts of the cells, a tuple a row.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def to_text(self) -> str:
        rows = [[*map(printable, row)] for row in (self.header, *self.rows)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(map(str.rjust, row, widths)) for row in rows)
        title = wrapped(f"{self.title}:")
        return "\n".join([title, *map("    {}".format, lines)])

    def to_html(self) -> str:
        return f"<p>{html.escaped(self.title)}:</p>" + html.table(
            self.header, self.rows
        )

    def to_markdown(self) -> str:
        header, *rows = (
            [*map(markdown.escaped, row)] for row in (self.header, *self.rows)
        )
        return f"{markdown.escaped(self.title)}:\n\n" + markdown.table(
            header, rows
        )


Block = Headline | Line | Table
