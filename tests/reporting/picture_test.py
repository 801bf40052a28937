"""What the picture of a verdict shows, read back from its artists."""

import dataclasses

import keras
import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from keras_svag.reporting.picture import as_svg
from keras_svag.scaling import (
    EquilibriumStatistics,
    min_closeness,
    predict_closeness,
)
from keras_svag.scaling.conditions import RunConditions, conditions_of
from tests.helpers.noise_runs import DECAY, RATE, branch, report, run

matplotlib.use("agg")


def drawn(one):
    ax = Figure().subplots()
    assert one.plot(ax) is ax
    return ax


def test_the_line_is_the_least_c_and_the_points_are_the_runs():
    one = report(run({"count": 400, "n": 3.0}), kappas=(0.5, 2, 64))
    ax = drawn(one)
    line, asked, *points = ax.lines
    least = [min_closeness(3.0, x, RATE, DECAY) for x in line.get_xdata()]
    assert line.get_ydata() == pytest.approx(least)
    assert set(asked.get_ydata()) == {2**0.5}
    shown = {line.get_label(): [*line.get_xdata()] for line in points}
    assert shown == {"not ruled out": [0.5, 2], "ruled out": [64]}
    ticks = [label.get_text() for label in ax.get_xticklabels()]
    assert ticks == ["×1\n128", "×0.5\n64", "×2\n256", "×64\n8,192"]
    assert "examples" in ax.get_xlabel() and "batch 128" in ax.get_ylabel()
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels[:3] == ["95% interval", "C at least", "asked for: 1.41"]
    (band,) = ax.collections
    xs, ys = band.get_paths()[0].vertices.T
    last = one.verdict.scaled_by(xs.max()).min_closeness
    at_end = ys[xs == xs.max()]
    assert (at_end.min(), at_end.max()) == pytest.approx((last.low, last.high))


def test_weights_that_diverge_do_not_set_the_scale():
    decayed = RunConditions(weight_decay=0.5, scale_invariant=True)
    ax = drawn(report(run({"n": 3.0}), decayed, kappas=(2, 16)))
    low, high = ax.get_ylim()
    assert low == 1 and np.isfinite(high)


def test_a_refusal_has_no_picture():
    refused = report(run({}), conditions_of(keras.optimizers.Lion(), "linear"))
    assert as_svg(refused) == ""
    with pytest.raises(ValueError, match="no verdict to draw. The linear"):
        refused.plot()


def test_what_is_predicted_and_seen_is_beside_the_bound():
    first, second = (
        EquilibriumStatistics(r, 1.0, 5.0, 0.1, 0.1, 0.1, 3) for r in (20, 21)
    )
    one = dataclasses.replace(
        report(run({"n": 3.0}), kappas=(2, 8)),
        branches=(branch(2, signal=1.0), branch(4, signal=1.0)),
        prediction=predict_closeness({1: first, 2: second}),
    )
    ax = drawn(one)
    predicted = {line.get_label(): line for line in ax.lines}["C predicted"]
    expected, _, _ = one.prediction.closeness(predicted.get_xdata())
    assert predicted.get_ydata() == pytest.approx(expected, nan_ok=True)
    (seen,) = ax.containers
    assert [*seen.lines[0].get_xdata()] == [2, 4]
    assert seen.lines[0].get_ydata() == pytest.approx([1.1, 1.1])
    (bars,) = seen.lines[2]
    assert bars.get_segments()[0][:, 1] == pytest.approx([1.0, 1.2])
    # What was tried is on the axis too.
    ticks = [label.get_text() for label in ax.get_xticklabels()]
    assert "×4\n512" in ticks
