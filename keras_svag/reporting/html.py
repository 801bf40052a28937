"""A table and the picture of N / G, as HTML and inline SVG."""

import html
import math

from keras_svag.reporting.markdown import interval, number

_WIDTH, _HEIGHT = 480, 140
_LEFT, _TOP, _BOTTOM = 48, 8, 20


def escaped(text):
    """Text that HTML shows as it is."""
    return html.escape(str(text))


def table(header, rows):
    """A table of texts."""
    return "<table>{}</table>".format(
        "".join(
            f"<tr>{''.join(f'<{tag}>{escaped(c)}</{tag}>' for c in row)}</tr>"
            for tag, row in [("th", header), *(("td", row) for row in rows)]
        )
    )


def course_svg(points, level=0.95):
    """N / G over the training with its band, as SVG.

    A point estimate that is not defined leaves a gap in the line. A band
    without an upper end is cut off at the top.

    Args:
        points: `(training step, NoiseEstimate)` in the order of training.
        level: Level of the intervals of the band.

    Returns:
        A string; empty where there are fewer than two points, or none of
        them has a point estimate.
    """
    values = [_ends(step, estimate, level) for step, estimate in points]
    ratios = [ratio for _, _, ratio, _ in values if ratio is not None]
    if len(values) < 2 or not ratios:
        return ""
    highs = [high for _, _, _, high in values if math.isfinite(high)]
    first, last = values[0][0], values[-1][0]
    top = max(*ratios, min(max(highs, default=0.0), 3 * max(ratios))) or 1.0

    def place(step, y):
        across = (step - first) / (last - first) * (_WIDTH - _LEFT - 8)
        up = min(y / top, 1.0) * (_HEIGHT - _TOP - _BOTTOM)
        return f"{_LEFT + across:.1f},{_HEIGHT - _BOTTOM - up:.1f}"

    band = [place(step, high) for step, _, _, high in values]
    band += [place(step, low) for step, low, _, _ in reversed(values)]
    lines = [[]]
    for step, _, ratio, _ in values:
        if ratio is None:
            lines.append([])
        else:
            lines[-1].append(place(step, ratio))
    drawn = "".join(
        f'<polyline points="{" ".join(line)}" fill="none" '
        'stroke="#1f77b4" stroke-width="1.5"/>'
        for line in lines
        if line
    )
    final = interval(values[-1][1], values[-1][3])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" '
        f'height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        'font-family="sans-serif" font-size="11" '
        'style="max-width:100%;height:auto">'
        f"<title>N/G over the training, at the end {escaped(final)}</title>"
        f'<polygon points="{" ".join(band)}" fill="#1f77b4" '
        f'fill-opacity="0.2"/>{drawn}'
        + _text(_LEFT - 4, _TOP + 8, number(top), "end")
        + _text(_LEFT - 4, _HEIGHT - _BOTTOM, "0", "end")
        + _text(_LEFT - 4, _HEIGHT // 2, "N/G", "end")
        + _text(_LEFT, _HEIGHT - 4, f"training step {first:,}", "start")
        + _text(_WIDTH - 8, _HEIGHT - 4, f"{last:,}", "end")
        + "</svg>"
    )


def _ends(step, estimate, level):
    """The step, the low end, the point estimate or None, and the high end."""
    low, high = estimate.interval(level)
    ratio = estimate.noise_to_signal
    if not (estimate.grad_sq_norm > 0 and math.isfinite(ratio)):
        ratio = None
    return step, low, ratio, high


def _text(x, y, text, anchor):
    return (
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" '
        f'fill="currentColor">{escaped(text)}</text>'
    )
