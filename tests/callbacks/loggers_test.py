"""The verdict in the logs of an epoch, as loggers and notebooks show it."""

import csv
import dataclasses
import math
import xml.etree.ElementTree

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator

from keras_svag import LinearScalingRuleCheck, SVAGModel
from keras_svag.callbacks.html import course_svg
from keras_svag.callbacks.report import NoiseEpoch, scaling_report
from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.scaling.conditions import RunConditions
from tests.helpers.small_problems import dense_network, regression

BATCH_SIZE = 8
KEYS = {
    "max_batch_size",
    "max_batch_size_low",
    "max_batch_size_high",
    "noise_to_signal_low",
    "noise_to_signal_high",
}


def check(**kwargs):
    return LinearScalingRuleCheck(BATCH_SIZE, **{"verbose": 0} | kwargs)


def train(*callbacks, optimizer=None, epochs=3, wrapped=True):
    model = SVAGModel(dense_network()) if wrapped else dense_network()
    model.compile(optimizer or keras.optimizers.SGD(0.05), "mse")
    x, y = regression(256)
    return model.fit(
        x,
        y,
        BATCH_SIZE,
        epochs=epochs,
        callbacks=list(callbacks),
        verbose=0,
    ).history


def test_history_has_the_verdict_of_every_epoch():
    one, reports = check(window=1), []
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: reports.append(one.report)
    )
    history = train(one, look)
    for epoch, report in enumerate(reports):
        low, high = report.estimate.interval()
        q = report.estimate.noise_to_signal
        assert history["noise_to_signal_low"][epoch] == low
        assert history["noise_to_signal_high"][epoch] == high
        # Without weight decay κ_max is 2 + N / G.
        for key, ratio in (("", q), ("_low", low), ("_high", high)):
            assert history[f"max_batch_size{key}"][epoch] == pytest.approx(
                BATCH_SIZE * (2 + ratio)
            )
    assert [report.last_epoch for report in reports] == [1, 2, 3]


def test_csv_file_has_the_verdict_if_its_logger_comes_later(tmp_path):
    paths = [tmp_path / name for name in ("before.csv", "after.csv")]
    before, after = map(keras.callbacks.CSVLogger, paths)
    history = train(before, check(), after)
    assert KEYS <= set(history)
    rows = []
    for path in paths:
        with open(path, newline="") as file:
            rows.append(list(csv.DictReader(file)))
    assert not KEYS & set(rows[0][0])
    for key in KEYS:
        column = [float(row[key]) for row in rows[1]]
        np.testing.assert_array_equal(column, history[key])


def test_keys_stay_where_nothing_is_known(tmp_path):
    path = tmp_path / "log.csv"
    one = check(probe=regression(64), probe_every=2, window=2)
    csv_logger = keras.callbacks.CSVLogger(path)
    history = train(one, csv_logger, wrapped=False)
    for key in KEYS:
        first, second, third = history[key]
        assert math.isnan(first)
        assert not math.isnan(second) and not math.isnan(third)
    with open(path, newline="") as file:
        assert next(csv.DictReader(file))["max_batch_size"] == "nan"


def test_an_interval_without_upper_end_is_infinite():
    estimate = NoiseEstimate(0.1, 30.0, 0.1, 0.5, 0.0, 400, 32)
    logs = report_on(estimate).to_logs()
    assert logs["noise_to_signal_high"] == math.inf
    assert set(logs) == KEYS
    assert logs["max_batch_size_low"] < logs["max_batch_size"] < math.inf
    negative = dataclasses.replace(estimate, grad_sq_norm=-0.1)
    assert math.isnan(report_on(negative).to_logs()["max_batch_size"])


def test_an_optimizer_without_a_verdict_has_no_batch_sizes():
    history = train(check(), optimizer="adam", epochs=1)
    for key in ("max_batch_size", "max_batch_size_low", "max_batch_size_high"):
        assert np.isnan(history[key]).all()
    assert history["noise_to_signal_low"][0] > 0


def test_keras_own_tensorboard_shows_the_verdict(tmp_path):
    tensorboard = keras.callbacks.TensorBoard(tmp_path, write_graph=False)
    train(check(), tensorboard)
    events = event_accumulator.EventAccumulator(str(tmp_path / "train"))
    assert {f"epoch_{key}" for key in KEYS} <= set(
        events.Reload().PluginTagToContent("scalars")
    )


def test_an_epoch_at_learning_rate_zero_does_not_end_the_run():
    warmup = keras.callbacks.LearningRateScheduler(lambda epoch: 0.05 * epoch)
    one = check(window=1)
    train(warmup, one)
    assert one.report.verdict.learning_rate == pytest.approx(0.1)


CONDITIONS = RunConditions("SGD", weight_decay=1e-3, scale_invariant=True)


def noise(g, n=20.0, **fields):
    return NoiseEstimate(g, n, 0.1, 0.5, 0.0, 400, 32, **fields)


def report_on(*estimates, conditions=CONDITIONS):
    epochs = [
        NoiseEpoch(i, e, (e.grad_sq_norm, e.noise_trace), 5000.0, 0.5, 0.5)
        for i, e in enumerate(estimates, 1)
    ]
    return scaling_report(epochs, conditions, batch_size=32)


def parsed(html):
    # Strict: what is not escaped or not closed is no XML.
    return xml.etree.ElementTree.fromstring(html)


def texts(root):
    return " ".join("".join(root.itertext()).split())


def test_notebook_shows_the_verdict_and_its_reasons():
    heuristic = dataclasses.replace(CONDITIONS, momentum=0.9)
    report = report_on(noise(1.0), noise(2.0), conditions=heuristic)
    root = parsed(report._repr_html_())
    cells = [[cell.text for cell in row] for row in root.iter("tr")]
    assert cells[1] == [
        "64",
        "1",
        str(report.verdict.multiplier_verdicts[2]),
        report.min_closeness_text(2),
    ]
    assert len(cells) == 1 + len(report.verdict.multiplier_verdicts)
    shown = texts(root)
    for line in (report.verdict.headline, report.sde_line, report.window_line):
        assert " ".join(line.split()) in shown
    items = [item.text for item in root.iter("li")]
    assert items == list(report.verdict.heuristic_reasons)


def test_notebook_shows_names_as_they_are():
    wicked = "<script>alert('x')</script> & \"co\""
    conditions = dataclasses.replace(CONDITIONS, other_reasons=(wicked,))
    html = report_on(noise(1.0), conditions=conditions)._repr_html_()
    assert "<script" not in html
    assert wicked in [item.text for item in parsed(html).iter("li")]


@pytest.mark.parametrize(
    ("in_steps", "ends"), [(False, "epoch 1 2"), (True, "training step 10 20")]
)
def test_picture_counts_what_the_window_counts(in_steps, ends):
    epochs = [
        dataclasses.replace(epoch, first_step=1, last_step=10 * epoch.epoch)
        for epoch in report_on(noise(1.0), noise(2.0)).course
    ]
    report = scaling_report(
        epochs, CONDITIONS, batch_size=32, window=20, in_steps=in_steps
    )
    assert ends in " ".join(parsed(report._repr_html_()).itertext())


def test_notebook_of_a_refusal_judges_no_batch():
    html = report_on(noise(1.0), conditions=RunConditions("Adam"))._repr_html_()
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


def test_picture_is_a_line_within_its_band():
    estimates = [noise(1.0, n) for n in (10.0, 20.0, 40.0)]
    picture = parsed(
        course_svg(list(zip((1, 2, 4), estimates, strict=True)), "epoch")
    )
    (line,) = (places(shape) for shape in picture.iter(f"{SVG}polyline"))
    (band,) = (places(shape) for shape in picture.iter(f"{SVG}polygon"))
    # Axes are linear: three epochs are 1 : 2, the ratios 10, 20 and 40.
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
    picture = parsed(course_svg(points, "epoch"))
    lines = [places(shape) for shape in picture.iter(f"{SVG}polyline")]
    assert [len(line) for line in lines] == [2, 2]


def test_picture_stays_in_its_frame_where_the_band_has_no_end():
    points = [(1, noise(1.0)), (2, noise(0.1)), (3, noise(1.0))]
    assert math.isinf(points[1][1].interval()[1])
    picture = parsed(course_svg(points, "epoch"))
    for shape in (
        *picture.iter(f"{SVG}polygon"),
        *picture.iter(f"{SVG}polyline"),
    ):
        x, y = places(shape).T
        assert 0 <= x.min() and x.max() <= float(picture.attrib["width"])
        assert 0 <= y.min() and y.max() <= float(picture.attrib["height"])


def test_picture_of_a_long_run_is_small():
    points = [(i, noise(1.0 + i % 7)) for i in range(5000)]
    picture = course_svg(points, "training step")
    assert len(picture) < 12_000
    # Thinned out, but to the end.
    (line,) = (places(s) for s in parsed(picture).iter(f"{SVG}polyline"))
    assert line[-1, 0] == pytest.approx(480 - 8)


@pytest.mark.parametrize("estimates", [[], [1.0], [-1.0, -1.0]])
def test_there_is_no_picture_of_too_few_points(estimates):
    assert (
        course_svg([(i, noise(g)) for i, g in enumerate(estimates)], "") == ""
    )
