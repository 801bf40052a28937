"""A report as a notebook shows it: a table, its reasons and a picture."""

import html
import math

from keras_svag.callbacks.markdown import interval, number

_WIDTH, _HEIGHT = 480, 140
_LEFT, _TOP, _BOTTOM = 48, 8, 20
# More are not told apart at this width.
_MOST_POINTS = 200


def report_html(report):
    """A `ScalingReport` as HTML, with its picture as inline SVG."""
    verdict = report.verdict
    parts = [f"<p><b>{_escaped(verdict.headline)}</b></p>"]
    if not verdict.refusal:
        parts.append(_verdicts(report))
        parts.append(f"<p>{_escaped(report.sde_line)}</p>")
    parts.append(f"<p>{_escaped(report.window_line)}</p>")
    parts += [f"<p>{_escaped(note)}</p>" for note in verdict.notes]
    parts += [f"<p>Before, {_escaped(e.summary)}</p>" for e in report.earlier]
    if verdict.heuristic and not verdict.refusal:
        reasons = "".join(
            f"<li>{_escaped(reason)}</li>"
            for reason in verdict.heuristic_reasons
        )
        parts.append(f"<p>Only a heuristic, because</p><ul>{reasons}</ul>")
    unit, x = "epoch", "epoch"
    if report.last_step is not None:
        unit, x = "training step", "last_step"
    picture = course_svg(
        [(getattr(epoch, x), epoch.estimate) for epoch in report.course], unit
    )
    return f"<div>{''.join(parts)}{picture}</div>"


def _verdicts(report):
    verdict = report.verdict
    rows = "".join(
        f"<tr><td>{kappa * verdict.batch_size:,.0f}</td>"
        f"<td>{_escaped(verdict.scaled_text(kappa))}</td>"
        f"<td>{_escaped(answer)}</td>"
        f"<td>{_escaped(report.min_closeness_text(kappa))}</td></tr>"
        for kappa, answer in verdict.multiplier_verdicts.items()
    )
    return (
        f"<p>{_escaped(verdict.compared)}:</p>"
        f"<table><tr><th>batch</th><th>{_escaped(report.scaled_name)}</th>"
        f"<th>verdict</th><th>closeness</th></tr>{rows}</table>"
    )


def course_svg(points, unit):
    """N / G over the training with its 95% band, as SVG.

    A point estimate that is not defined leaves a gap in the line. A band
    without an upper end is cut off at the top.

    Args:
        points: `(x, NoiseEstimate)` in the order of training.
        unit: What x counts.

    Returns:
        A string; empty where there are fewer than two points, or none of
        them has a point estimate.
    """
    step = math.ceil(len(points) / _MOST_POINTS) or 1
    points = [*points[:-1:step], *points[-1:]]
    values = [_ends(x, estimate) for x, estimate in points]
    ratios = [ratio for _, _, ratio, _ in values if ratio is not None]
    if len(values) < 2 or not ratios:
        return ""
    highs = [high for _, _, _, high in values if math.isfinite(high)]
    first, last = values[0][0], values[-1][0]
    top = max(*ratios, min(max(highs, default=0.0), 3 * max(ratios))) or 1.0

    def place(x, y):
        across = (x - first) / (last - first) * (_WIDTH - _LEFT - 8)
        up = min(y / top, 1.0) * (_HEIGHT - _TOP - _BOTTOM)
        return f"{_LEFT + across:.1f},{_HEIGHT - _BOTTOM - up:.1f}"

    band = [place(x, high) for x, _, _, high in values]
    band += [place(x, low) for x, low, _, _ in reversed(values)]
    lines = [[]]
    for x, _, ratio, _ in values:
        if ratio is None:
            lines.append([])
        else:
            lines[-1].append(place(x, ratio))
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
        f"<title>N/G over the training, at the end {_escaped(final)}</title>"
        f'<polygon points="{" ".join(band)}" fill="#1f77b4" '
        f'fill-opacity="0.2"/>{drawn}'
        + _text(_LEFT - 4, _TOP + 8, number(top), "end")
        + _text(_LEFT - 4, _HEIGHT - _BOTTOM, "0", "end")
        + _text(_LEFT - 4, _HEIGHT // 2, "N/G", "end")
        + _text(_LEFT, _HEIGHT - 4, f"{unit} {first:,}", "start")
        + _text(_WIDTH - 8, _HEIGHT - 4, f"{last:,}", "end")
        + "</svg>"
    )


def _ends(x, estimate):
    """x, the low end, the point estimate or None, and the high end."""
    low, high = estimate.interval()
    ratio = estimate.noise_to_signal
    if not (estimate.grad_sq_norm > 0 and math.isfinite(ratio)):
        ratio = None
    return x, low, ratio, high


def _text(x, y, text, anchor):
    return (
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" '
        f'fill="currentColor">{_escaped(text)}</text>'
    )


def _escaped(text):
    return html.escape(str(text))
