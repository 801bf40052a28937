import dataclasses
import math
import xml.etree.ElementTree

import keras
import markdown_it
import numpy as np
import pytest

from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.reporting.html import course_svg
from keras_svag.reporting.report import scaling_report
from keras_svag.scaling.conditions import RunConditions, conditions_of
from tests.helpers.noise_runs import BATCH_SIZE, DECAY, run

SGD = RunConditions(weight_decay=DECAY, scale_invariant=True)


def report(series, conditions=SGD):
    return scaling_report(series, conditions, batch_size=BATCH_SIZE)


def parsed(html):
    # Strict: what is not escaped or not closed is no XML.
    return xml.etree.ElementTree.fromstring(html)


def texts(root):
    return " ".join("".join(root.itertext()).split())


def rendered(text):
    reader = markdown_it.MarkdownIt().enable("table")
    return f"<div>{reader.render(text)}</div>"


@pytest.fixture(scope="module")
def heuristic():
    """A report that has every kind of block."""
    conditions = dataclasses.replace(SGD, momentum=0.9, scale_invariant=None)
    return report(run({}, {"g_spread": 5.0, "rate": 0.3}), conditions)


@pytest.mark.parametrize("form", ["html", "markdown"])
def test_page_shows_the_verdict_and_its_reasons(heuristic, form):
    html = heuristic._repr_html_()
    if form == "markdown":
        html = rendered(heuristic._repr_markdown_())
    root, verdict = parsed(html), heuristic.verdict
    (bold,) = root.iter("b" if form == "html" else "strong")
    assert bold.text == verdict.headline
    head, *rows = [["".join(c.itertext()) for c in r] for r in root.iter("tr")]
    assert head == ["batch", "learning rate", "verdict", "closeness"]
    assert rows[2] == [
        "256",
        "0.6",
        str(verdict.multiplier_verdicts[2]),
        heuristic.min_closeness_text(2),
    ]
    assert len(rows) == len(verdict.multiplier_verdicts)
    paragraphs = ["".join(p.itertext()) for p in root.iter("p")]
    assert paragraphs == [
        verdict.headline,
        "SGD at (κB, κη) against this run of SGD:",
        heuristic.sde_line,
        heuristic.window_line,
        heuristic.upper_end_line,
        *(note.rstrip(".") for note in verdict.notes),
        f"Before, {heuristic.earlier[0].summary}",
        "Only a heuristic, because",
    ]
    items = [item.text for item in root.iter("li")]
    assert items == list(verdict.heuristic_reasons)
    assert len(items) == 3


def test_terminal_shows_the_same_in_the_same_order(heuristic):
    lines = str(heuristic).splitlines()
    assert lines[0] == heuristic.verdict.headline
    paragraphs = [
        "".join(p.itertext()) for p in parsed(heuristic._repr_html_()).iter("p")
    ]
    shown = [line.removeprefix("  ") for line in lines]
    assert [line for line in shown if line in paragraphs] == paragraphs
    others = [line for line in shown if line not in paragraphs]
    reasons = heuristic.verdict.heuristic_reasons
    assert others == [*heuristic.kappa_lines, *(f"- {r}" for r in reasons)]


def test_names_are_shown_as_they_are():
    wicked = "<script>alert('x')</script> & \"co\" | *b*"
    conditions = dataclasses.replace(SGD, other_reasons=(wicked,))
    actual = report(run({}), conditions)
    html = actual._repr_html_()
    assert "<script" not in html + actual._repr_markdown_()
    for page in (html, rendered(actual._repr_markdown_())):
        assert wicked in [item.text for item in parsed(page).iter("li")]


def test_a_refusal_judges_no_batch():
    adam = conditions_of(keras.optimizers.Adam(), "linear")
    html = report(run({}), adam)._repr_html_()
    assert "square-root scaling rule" in html
    assert not list(parsed(html).iter("table"))


SVG = "{http://www.w3.org/2000/svg}"


def places(shape):
    return np.array(
        [
            [float(number) for number in point.split(",")]
            for point in shape.attrib["points"].split()
        ]
    )


def line_and_band(picture):
    (line,) = (places(shape) for shape in picture.iter(f"{SVG}polyline"))
    (band,) = (places(shape) for shape in picture.iter(f"{SVG}polygon"))
    return line, band


@pytest.mark.parametrize(("count", "points"), [(5, 5), (1008, 24)])
def test_picture_is_of_equal_parts_of_the_whole_run(count, points):
    series = run({"count": count, "g_spread": 0.1}, every=2)
    picture = parsed(report(series)._repr_html_())
    line, _ = line_and_band(picture)
    assert len(line) == points
    steps = np.diff(line[:, 0])
    assert steps == pytest.approx(steps.mean(), abs=0.1)
    first = f"training step {2 * count // points}"
    assert f"{first} {2 * count:,}" in " ".join(picture.itertext())


def test_picture_of_an_adaptive_run_is_in_its_norm():
    series = run({"count": 200, "preconditioned": (2.0, 12.0)})
    adam = conditions_of(keras.optimizers.Adam())
    actual = scaling_report(
        series, adam, batch_size=BATCH_SIZE, preconditioned=True
    )
    (title,) = parsed(actual._repr_html_()).iter(f"{SVG}title")
    # Of the last 8 observations.
    low, high = map(float, title.text.split("[")[1].rstrip("]").split(", "))
    expected = series.tail(8).estimate(BATCH_SIZE, True).interval()
    assert (low, high) == pytest.approx(expected, rel=1e-2)


def noise(g, n=20.0):
    return NoiseEstimate(g, 32 * n, 0.1, 16.0, 0.0, 400, 32)


def test_picture_is_a_line_within_its_band():
    estimates = [noise(1.0, n) for n in (10.0, 20.0, 40.0)]
    picture = parsed(course_svg(list(zip((1, 2, 4), estimates, strict=True))))
    line, band = line_and_band(picture)
    # Axes are linear: three steps are 1 : 2, the ratios 10, 20 and 40.
    x, y = line.T
    assert (x[2] - x[0]) / (x[1] - x[0]) == pytest.approx(3, rel=1e-2)
    assert (y[0] - y[2]) / (y[0] - y[1]) == pytest.approx(3, rel=2e-2)
    highs, lows = band[:3], band[:2:-1]
    assert np.all(highs[:, 1] < y) and np.all(y < lows[:, 1])
    width = [e.interval()[1] - e.interval()[0] for e in estimates]
    drawn = lows[:, 1] - highs[:, 1]
    assert drawn[0] / drawn[2] == pytest.approx(width[0] / width[2], rel=5e-2)


def test_picture_leaves_a_gap_where_there_is_no_point_estimate():
    points = [(i, noise(g)) for i, g in enumerate((1.0, 2.0, -1.0, 1.0, 1.0))]
    picture = parsed(course_svg(points))
    lines = [places(shape) for shape in picture.iter(f"{SVG}polyline")]
    assert [len(line) for line in lines] == [2, 2]


def test_picture_stays_in_its_frame_where_the_band_has_no_end():
    points = [(1, noise(1.0)), (2, noise(0.1)), (3, noise(1.0))]
    assert math.isinf(points[1][1].interval()[1])
    picture = parsed(course_svg(points))
    for shape in (
        *picture.iter(f"{SVG}polygon"),
        *picture.iter(f"{SVG}polyline"),
    ):
        x, y = places(shape).T
        assert 0 <= x.min() and x.max() <= float(picture.attrib["width"])
        assert 0 <= y.min() and y.max() <= float(picture.attrib["height"])


@pytest.mark.parametrize("estimates", [[], [1.0], [-1.0, -1.0]])
def test_there_is_no_picture_of_too_few_points(estimates):
    assert course_svg([(i, noise(g)) for i, g in enumerate(estimates)]) == ""
