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
    series = run({"count": 240, "g_spread": 0.1})
    axes = drawn(series)
    parts = [series[i : i + 10] for i in range(0, 240, 10)]
    for ax, name in zip(
        axes, ("grad_sq_norm", "noise_trace", "noise_to_signal"), strict=True
    ):
        (line,) = ax.lines
        assert line.get_xdata() == pytest.approx(
            [part["step"].mean() for part in parts]
        )
        estimates = [part.estimate() for part in parts]
        assert line.get_ydata() == pytest.approx(
            [getattr(estimate, name) for estimate in estimates]
        )
        (band,) = ax.collections
        lowest, highest = band.get_datalim(ax.transData).intervaly
        if name == "noise_to_signal":
            lows, highs = zip(*(e.interval() for e in estimates), strict=True)
            assert lowest == pytest.approx(min(lows))
            assert highest == pytest.approx(max(highs))


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


def test_an_open_band_does_not_set_the_scale():
    series = run({"count": 240, "g_spread": 3.0})
    axes = drawn(series)
    parts = [series[i : i + 10] for i in range(0, 240, 10)]
    assert math.inf in [part.estimate().interval().high for part in parts]
    (line,) = axes[2].lines
    top = 3 * np.nanmax(line.get_ydata())
    assert axes[2].get_ylim()[1] == pytest.approx(top)
    # The band goes on beyond it.
    (band,) = axes[2].collections
    assert band.get_paths()[0].vertices[:, 1].max() > top


def test_one_row_is_drawn_and_none_is_refused():
    (line,) = drawn(run({"count": 1}))[0].lines
    assert list(line.get_xdata()) == [4]
    with pytest.raises(ValueError, match="`series` must be of at least one"):
        NoiseSeries().plot()


def noise(g, n, **fields):
    return NoiseEstimate(g, 32 * n, 0.1, 16.0, 0.0, 400, 32, **fields)


def test_layers_are_a_forest_the_noisiest_on_top():
    layers = {
        "quiet": noise(1.0, 5.0),
        "loud": noise(2.0, 40.0),
        "open": noise(0.1, 10.0),
        "negative": noise(-1.0, 20.0),
    }
    whole = noise(3.0, 75.0, per_layer=layers)
    ax = Figure().subplots()
    assert whole.plot_layers(ax) is ax
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
    left, right = ax.get_xlim()
    assert ends[2] == pytest.approx([left, right])
    arrows = {line.get_marker(): line.get_ydata() for line in ax.lines[1:]}
    assert list(arrows["<"]) == [2] and list(arrows[">"]) == [2, 3]
    assert "95% interval" in ax.get_xlabel()
