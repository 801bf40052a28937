"""What the pictures of the noise show, read back from their artists."""

import math

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from keras_svag import NoiseEstimate, NoiseSeries
from tests.helpers.noise_runs import run

matplotlib.use("agg")


def drawn(series, **settings):
    axes = Figure().subplots(3, 1)
    assert series.plot(axes, **settings) is axes
    return axes


def test_points_are_estimates_of_equal_parts():
    # The upper ends of some are open.
    series = run({"count": 240, "g_spread": 3.0})
    parts = [series[i : i + 10] for i in range(0, 240, 10)]
    bands = [part.estimate().bands() for part in parts]
    steps = [part["step"].mean() for part in parts]
    for ax, name in zip(drawn(series), bands[0], strict=True):
        (line,), (band,) = ax.lines, ax.collections
        lows, points, highs = np.transpose([b[name] for b in bands])
        assert line.get_xdata() == pytest.approx(steps)
        assert line.get_ydata() == pytest.approx(points, nan_ok=True)
        edges = band.get_paths()[0].vertices[:, 1]
        # They do not set the scale; the band goes on beyond it.
        top = 3 * np.nanmax(points)
        closed = highs[np.isfinite(highs)]
        assert edges.min() == pytest.approx(lows.min())
        assert set(closed.round(9)) <= set(edges.round(9))
        assert (edges.max() > top) == (len(closed) < 24)
        if name == "noise_to_signal":
            assert 0 < len(closed) < 24
            assert ax.get_ylim()[1] == pytest.approx(top)


def test_stretches_are_apart_and_the_window_is_marked():
    series = run({"count": 60}, {"count": 180, "rate": 0.1})
    window = series.window(steps=100)
    axes = drawn(series, window=window)
    for ax in axes:
        before, after, change = ax.lines
        assert len(before.get_xdata()) == 6
        assert len(after.get_xdata()) == 18
        assert change.get_xdata()[0] == 244
        (span,) = ax.patches
        assert span.get_x() == window["step"][0]
        assert span.get_x() + span.get_width() == 960
    assert "learning rate changes" in axes[2].get_xlabel()
    assert "the window" in axes[2].get_xlabel()
    assert "(squared gradient units)" in axes[0].get_ylabel()
    assert "(dimensionless)" in axes[2].get_ylabel()


def test_one_row_is_drawn_and_none_is_refused():
    (line,) = drawn(run({"count": 1}))[0].lines
    assert list(line.get_xdata()) == [4]
    series = NoiseSeries()
    with pytest.raises(ValueError, match="`series` must be of at least one"):
        series.plot()
    series.append(step=1, grad_sq_norm=1.0, example_noise=2.0)
    with pytest.raises(TypeError, match="`batch_size` must be an integer"):
        series.plot()


def noise(g, n, **fields):
    return NoiseEstimate(g, 32 * n, 0.1, 16.0, 0.0, 400, 32, **fields)


def test_layers_are_a_forest_the_noisiest_on_top():
    layers = {
        "quiet": noise(1.0, 5.0),
        "loud": noise(2.0, 40.0),
        "open": noise(0.1, 10.0),
        "negative": noise(-1.0, 20.0),
    }
    ax = Figure().subplots()
    assert noise(3.0, 75.0, per_layer=layers).plot_layers(ax) is ax
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["all", "loud", "negative", "open", "quiet"]
    points = ax.lines[0].get_xdata()
    assert points[[0, 1, 4]] == pytest.approx([25, 20, 5])
    assert math.isnan(points[2])
    # The first row is on top.
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    (bars,) = ax.collections
    ends = np.array([path.vertices[:, 0] for path in bars.get_paths()])
    assert ends[1] == pytest.approx(layers["loud"].interval())
    assert ends[2] == pytest.approx(ax.get_xlim())
    arrows = {line.get_marker(): line.get_ydata() for line in ax.lines[1:]}
    assert list(arrows["<"]) == [2] and list(arrows[">"]) == [2, 3]
    assert "95% interval" in ax.get_xlabel()
