"""What a report is made of, for a terminal, a page and Markdown alike."""

import dataclasses

from keras_svag.reporting import html, markdown


@dataclasses.dataclass(frozen=True)
class Headline:
    """The first line, which says it all."""

    text: str

    def to_text(self) -> str:
        return self.text

    def to_html(self) -> str:
        return f"<p><b>{html.escaped(self.text)}</b></p>"

    def to_markdown(self) -> str:
        return f"**{markdown.escaped(self.text)}**"


@dataclasses.dataclass(frozen=True)
class Line:
    """A sentence."""

    text: str

    def to_text(self) -> str:
        return f"  {self.text}"

    def to_html(self) -> str:
        return f"<p>{html.escaped(self.text)}</p>"

    def to_markdown(self) -> str:
        return markdown.escaped(self.text)


@dataclasses.dataclass(frozen=True)
class Items:
    """Phrases under a title."""

    title: str
    items: tuple[str, ...]

    def to_text(self) -> str:
        return "\n".join([f"  {self.title}", *map("  - {}".format, self.items)])

    def to_html(self) -> str:
        items = "".join(f"<li>{html.escaped(item)}</li>" for item in self.items)
        return f"<p>{html.escaped(self.title)}</p><ul>{items}</ul>"

    def to_markdown(self) -> str:
        items = "\n".join(f"- {markdown.escaped(item)}" for item in self.items)
        return f"{markdown.escaped(self.title)}\n\n{items}"


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows under a title; a terminal shows each as a line of its own.

    Attributes:
        title: What the rows are about.
        header: Names of the columns.
        rows: Texts of the cells, a tuple a row.
        lines: The rows as sentences.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[str, ...]

    def to_text(self) -> str:
        return "\n".join(
            f"  {line}" for line in (f"{self.title}:", *self.lines)
        )

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


Block = Headline | Line | Items | Table
