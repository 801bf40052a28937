"""Texts and tables as HTML, and a page of them."""

import html

from keras_svag.arguments import printable


def escaped(text):
    """Text that HTML shows as it is."""
    return html.escape(printable(text))


def table(header, rows):
    """A table of texts."""
    return "<table>{}</table>".format(
        "".join(
            f"<tr>{''.join(f'<{tag}>{escaped(c)}</{tag}>' for c in row)}</tr>"
            for tag, row in [("th", header), *(("td", row) for row in rows)]
        )
    )


def page(title, body):
    """A page that needs no other file, light or dark as its reader has it."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        f"<title>{escaped(title)}</title><style>{_STYLE}</style></head>"
        f"<body>{body}</body></html>\n"
    )


_STYLE = (
    ":root{color-scheme:light dark}"
    "body{font-family:sans-serif;max-width:50em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse}"
    "th,td{padding:.2em .8em;text-align:right;border-bottom:1px solid #8888}"
    "figure{margin:1em 0}svg{max-width:100%;height:auto}"
)
