import json
import math

import numpy as np
import pytest

from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.noise.series import NoiseSeries


def series_of(rates=(0.1,) * 60, per_epoch=10, every=3, **fields):
    """A row of every third step; G and S are drawn."""
    rng = np.random.default_rng(0)
    series = NoiseSeries(**fields)
    for row, rate in enumerate(rates):
        step = every * row
        series.append(
            step=step,
            epoch=step // per_epoch,
            iteration=1000 + step,
            learning_rate=rate,
            rows=32 - row % 2,
            weight_sq_norm=25.0,
            grad_sq_norm=rng.normal(1, 3),
            example_noise=rng.normal(40, 5),
            preconditioned_grad_sq_norm=rng.normal(2, 3),
            preconditioned_example_noise=rng.normal(80, 5),
        )
    return series


def test_rows_are_kept_in_their_order_and_what_is_missing_is_nan():
    series = NoiseSeries()
    for step in range(40):
        series.append(step=step, grad_sq_norm=np.float32(step / 8))
    series.append(step=40, grad_sq_norm=math.inf)
    assert len(series) == 41
    np.testing.assert_array_equal(series["step"], np.arange(41))
    g = series["grad_sq_norm"]
    assert g.dtype == np.float64
    np.testing.assert_array_equal(g[:40], np.arange(40) / 8)
    # Not finite is not known.
    assert math.isnan(g[40])
    assert np.isnan(series["example_noise"]).all()


def test_unknown_columns_and_single_rows_are_refused():
    series = series_of()
    for wrong in (lambda: series["loss"], lambda: series.append(loss=1.0)):
        with pytest.raises(KeyError, match="loss"):
            wrong()
    with pytest.raises(TypeError, match="column or a slice, got 3"):
        series[3]
    assert len(series) == 60


def test_a_slice_grows_apart_from_its_series():
    series = series_of()
    part = series[10:20]
    np.testing.assert_array_equal(part["step"], np.arange(30, 60, 3))
    part.append(step=-1)
    series.append(step=-2)
    assert len(part) == 11 and part["step"][-1] == -1
    assert series["step"][20] == 60 and series["step"][-1] == -2


def test_parts_share_what_is_known_of_the_loss():
    series = series_of()
    part = series.window(epochs=1).tail(2)
    series.couplings.append((0, 0.02))
    part.codes.add("batch_normalization")
    assert part.couplings == [(0, 0.02)]
    assert series.codes == {"batch_normalization"}


def test_windows_end_with_the_last_row():
    # Steps 0, 3, …, 177; epochs of 10 steps.
    series = series_of()
    np.testing.assert_array_equal(
        series.window(epochs=1)["step"][:2], [171, 174]
    )
    np.testing.assert_array_equal(
        series.window(epochs=2)["step"][:2], [162, 165]
    )
    np.testing.assert_array_equal(
        series.window(steps=7)["step"], [171, 174, 177]
    )
    np.testing.assert_array_equal(series.window(steps=6)["step"], [174, 177])
    assert len(series.window(epochs=1, steps=6)) == 2
    assert len(series.window()) == len(series.window(epochs=99)) == 60
    assert len(NoiseSeries().window(epochs=1)) == 0
    np.testing.assert_array_equal(series.tail(2)["step"], [174, 177])
    assert (len(series.tail(0)), len(series.tail(100))) == (0, 60)
    before = series.before(1006)
    np.testing.assert_array_equal(before["iteration"], [1000, 1003])


def lengths(rates):
    return [len(stretch) for stretch in series_of(rates).stretches()]


def test_stretches_have_one_learning_rate_each():
    assert lengths([0.1] * 5 + [0.01] * 3 + [0.1] * 2) == [5, 3, 2]
    assert lengths([0.1, 0.1 * (1 + 1e-7), 0.1]) == [3]
    assert lengths([]) == []
    # Warm-up and decay at every step, with a constant rate between.
    moving = [0.01 * i for i in range(1, 8)]
    assert lengths(moving + [0.1] * 4 + moving[::-1]) == [7, 4, 7]
    # A single row of its own stays one.
    assert lengths([0.1] * 3 + [0.2] + [0.3] * 3) == [3, 1, 3]
    # Steps too small to be seen from one row to the next add up.
    assert len(lengths(0.1 * 1.0000005 ** np.arange(60))) > 10
    assert lengths([math.nan] * 3) == [3]
    stretch = series_of([0.1] * 5 + [0.01] * 3).stretches()[1]
    np.testing.assert_array_equal(stretch["step"], [15, 18, 21])


def test_estimate_is_that_of_the_rows():
    series = series_of(sampling="shuffle", num_examples=500)
    common = {"sampling": "shuffle", "num_examples": 500}
    g, s = series["grad_sq_norm"], series["example_noise"]
    assert series.estimate() == NoiseEstimate.from_observations(
        g, s, batch_size=32, **common
    )
    assert series[:9].estimate(batch_size=8) == NoiseEstimate.from_observations(
        g[:9], s[:9], batch_size=8, **common
    )
    scaled = NoiseEstimate.from_observations(
        series["preconditioned_grad_sq_norm"],
        series["preconditioned_example_noise"],
        batch_size=32,
        **common,
    )
    assert series.estimate(preconditioned=True) == scaled
    empty = NoiseSeries().estimate()
    assert (empty.count, empty.batch_size) == (0, None)


def layered(count=40):
    rng = np.random.default_rng(1)
    series = NoiseSeries()
    for step in range(count):
        moments = rng.normal([[1, 40], [2, 10]], 3)
        g, s = moments.sum(0)
        layers = {"kernel": moments[0], "bias": moments[1]}
        series.append(layers, step=step, grad_sq_norm=g, example_noise=s)
    return series


def test_layers_have_estimates_of_their_own():
    series = layered()
    estimate = series[5:].estimate(batch_size=8)
    assert list(estimate.per_layer) == ["kernel", "bias"]
    layer = estimate.per_layer["bias"]
    g, s = series.layer("bias")[5:].T
    assert layer == NoiseEstimate.from_observations(g, s, batch_size=8)
    total = sum(e.grad_sq_norm for e in estimate.per_layer.values())
    assert total == pytest.approx(estimate.grad_sq_norm)
    assert series.estimate(preconditioned=True).per_layer is None
    # A row without them is left out of theirs.
    series.append(step=40, grad_sq_norm=1.0, example_noise=1.0)
    assert series.estimate().per_layer["bias"].num_skipped == 1
    # One that is trained from some row on is not known before.
    series.append({"scale": (1.0, 2.0), "bias": (3.0, 4.0)}, step=41)
    assert series.layers == ("kernel", "bias", "scale")
    layers = series.estimate().per_layer
    assert [layers[name].count for name in series.layers] == [40, 41, 1]
    np.testing.assert_array_equal(series.layer("bias")[-1], [3, 4])
    assert layers["scale"].grad_sq_norm == 1


@pytest.mark.parametrize(
    "codes, difference, expected",
    [
        (set(), None, ()),
        (set(), 0.009, ()),
        (set(), -0.02, ("coupled_loss",)),
        ({"masked_loss"}, 0.02, ("masked_loss",)),
        (
            {"batch_normalization"},
            0.02,
            ("batch_normalization", "coupled_loss"),
        ),
    ],
)
def test_estimate_says_what_it_assumes(codes, difference, expected):
    series = series_of()
    series.codes.update(codes)
    if difference is not None:
        # The last one counts: some couplings show in a trained model only.
        series.couplings += [(0, 0.5 - difference), (90, difference)]
    estimate = series.estimate()
    assert estimate.assumptions == expected
    assert estimate.loss_difference == difference


@pytest.mark.parametrize("make", [NoiseSeries, series_of, layered])
def test_strict_json_holds_all_and_gives_it_back(make):
    series = make()
    series.append(step=7)
    series.couplings.append((3, 0.25))
    series.codes.add("masked_loss")
    saved = json.loads(json.dumps(series.to_dict(), allow_nan=False))
    restored = NoiseSeries.from_dict(saved)
    assert restored == series
    assert restored.estimate(8) == series.estimate(8)
    restored.append(step=8)
    assert restored["step"][-1] == 8
    assert restored != series


def test_frame_has_the_columns_and_those_of_the_layers():
    series = layered()
    frame = series.to_frame()
    assert list(frame.columns[:12]) == list(NoiseSeries.COLUMNS)
    np.testing.assert_array_equal(frame["grad_sq_norm"], series["grad_sq_norm"])
    np.testing.assert_array_equal(
        frame[["bias: grad_sq_norm", "bias: example_noise"]],
        series.layer("bias"),
    )


# Long series


class Short(NoiseSeries):
    """A series that is short already, of a sixteenth of the rows."""

    _MOST_ROWS = 1024


def long_pair(length, rate=lambda step: 0.1, lost=(), layers=False):
    """The same observations in a `Short` series, and all of them."""
    rng = np.random.default_rng(0)
    pair = Short(), NoiseSeries()
    for step in range(1, length + 1):
        g, s = rng.normal(1, 3), rng.normal(40, 5)
        row = {
            "step": step,
            "epoch": 1 + (step - 1) // 100,
            "iteration": step - 1,
            "learning_rate": rate(step),
            "rows": 32 - step % 2,
            "batch": step,
            "weight_sq_norm": rng.normal(25, 1),
            "grad_sq_norm": math.nan if step in lost else g,
            "example_noise": s,
        }
        moments = {"kernel": (g, s)} if layers else None
        for series in pair:
            series.append(moments, **row)
    return pair


def test_long_series_keep_their_newest_rows_and_the_means_of_the_others():
    length = 10_000
    series, whole = long_pair(length, layers=True)
    assert 768 <= len(series) <= 1024 < len(whole) == length
    assert series["observations"].sum() == length
    # Windows of up to 512 observations are as they were.
    for window in (
        {"steps": 512},
        {"epochs": 5},
        {"epochs": 1},
        {"steps": 20},
    ):
        part, expected = series.window(**window), whole.window(**window)
        assert part.estimate() == expected.estimate()
        np.testing.assert_array_equal(part["step"], expected["step"])
    assert series.tail(100).estimate() == whole.tail(100).estimate()
    # Of longer ones the count and the means are, but for rounding.
    actual, expected = series.estimate(), whole.estimate()
    assert actual.count == expected.count == length
    assert actual.batch_size == expected.batch_size == 32
    for one, other in (
        (actual, expected),
        (actual.per_layer["kernel"], expected.per_layer["kernel"]),
    ):
        assert one.grad_sq_norm == pytest.approx(other.grad_sq_norm, rel=1e-12)
        assert one.example_noise == pytest.approx(other.example_noise)
        width = np.ptp(other.interval())
        np.testing.assert_allclose(
            one.interval(), other.interval(), 0, 0.05 * width
        )
    np.testing.assert_allclose(
        series.repeated("weight_sq_norm").mean(),
        whole["weight_sq_norm"].mean(),
    )
    assert np.all(np.diff(series["step"]) > 0)
    # The mean of several batches is none of them.
    is_mean = series["observations"] > 1
    np.testing.assert_array_equal(np.isnan(series["batch"]), is_mean)


def test_rows_of_two_stretches_never_become_one():
    series, _ = long_pair(
        1_500, rate=lambda step: 0.1 * 0.5 ** ((step - 1) // 333)
    )
    assert len(series) < 1_100
    counts = [part["observations"].sum() for part in series.stretches()]
    assert counts == [333] * 4 + [1_500 - 4 * 333]
    assert all(part.has_constant_rate for part in series.stretches())


def test_series_that_was_saved_goes_on_as_the_other():
    series, _ = long_pair(1_100)
    again = Short.from_dict(json.loads(json.dumps(series.to_dict())))
    assert again == series
    for step in range(1_100, 3_000):
        for one in (series, again):
            one.append(step=step, epoch=12, grad_sq_norm=1.0)
    assert again == series
